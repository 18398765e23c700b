"`mamex export`: the real libraries rank as `recommend` does, a lying manifest is refused, and nothing is lost to a fault."
import json, os, random, resource, shutil, signal, sys, time
from dataclasses import replace as changed
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from mamex.base import UsageError
from mamex.datasets.toy import toy
from mamex.recommender import export, searching, staging
from mamex.recommender.core import Recommender
from mamex.recommender.export import fingerprint, main, parser, read_export, seal, write_export
from mamex.recommender.searching import FORMATS, LIBRARIES, Library, absent, ann_curve, check_formats, vectors_of

QUICK = dict(deadline=None, suppress_health_check=list(HealthCheck))
THERE = [f for f in LIBRARIES if not absent(f)]
needs_library = pytest.mark.skipif(not THERE, reason="needs a package of the extra ann")


@pytest.fixture(scope="module")
def best(): return Recommender.fit("toy", "tiny", progress=False)


@pytest.fixture(scope="module")
def trained(world):
    "Of its items every seventh has nothing and stands at the mean of the candidates."
    rec = Recommender.fit(world, "tiny", "released", seed=3, progress=False, epochs=5, patience=5, dim=32)
    has = rec.has.copy(); has[::7] = False
    return changed(rec, has=has)


@pytest.fixture
def rec(request): return request.getfixturevalue(request.param)

both = pytest.mark.parametrize("rec", ["best", "trained"], indirect=True)


# ---- the real libraries, read as somebody does who has no mamex: file in, function (users, k) → rows, scores out
def with_faiss(folder, items):
    faiss = pytest.importorskip("faiss", reason="needs faiss-cpu")
    index = faiss.read_index(str(folder/"items.faiss"))
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    return lambda users, k: index.search(users, k)[::-1]

def with_usearch(folder, items):
    index = pytest.importorskip("usearch.index", reason="needs usearch").Index.restore(str(folder/"items.usearch"))
    def search(users, k):
        m = index.search(users, k, exact=True)
        return m.keys.astype(np.int64), 1 - m.distances
    return search

def with_hnswlib(folder, items):
    index = pytest.importorskip("hnswlib", reason="needs hnswlib").Index("ip", items.shape[1])
    index.load_index(str(folder/"items.hnswlib")); index.set_ef(len(items))
    def search(users, k):
        rows, far = index.knn_query(users, k)
        return rows.astype(np.int64), 1 - far
    return search

def with_onnx(folder, items):
    pytest.importorskip("onnx", reason="needs onnx")
    run = pytest.importorskip("onnxruntime", reason="needs onnxruntime").InferenceSession(str(folder/"items.onnx"), providers=["CPUExecutionProvider"])
    return lambda users, k: run.run(["rows", "scores"], dict(users=users, seen=np.zeros((0, 2), np.int64), k=np.array([k])))

def with_parquet(folder, items):
    def search(users, k):
        s = users @ items.T
        rows = np.argsort(-s, axis=1, kind="stable")[:, :k]
        return rows, np.take_along_axis(s, rows, 1)
    return search

READERS = dict(faiss=with_faiss, usearch=with_usearch, hnswlib=with_hnswlib, onnx=with_onnx, parquet=with_parquet)


def tables(folder):
    "items, users and seen with pyarrow and numpy alone."
    out = []
    for name in ("item", "user"):
        t = pq.read_table(folder/f"{name}s.parquet")
        assert t.column_names == ["row", name, "vector"] and t["row"].to_pylist() == list(range(len(t)))
        out += [t[name].to_pylist(), np.array(t["vector"].to_pylist(), np.float32)]
    return *out, pd.read_parquet(folder/"seen.parquet")


def check_same(got_rows, got_scores, ids, x, u, want):
    "First items of one user as `recommend` has them; where two scores are within rounding, either may come first."
    scores = want["score"].to_numpy()
    np.testing.assert_allclose(got_scores, scores, atol=1e-5)
    for row, item, s in zip(got_rows, want["item"], scores): assert ids[row] == item or abs(x[row] @ u - s) < 1e-5
    apart = np.flatnonzero(np.diff(scores) < -1e-5)  # whatever the order inside, the sets before a gap are the same
    for n in apart + 1: assert {ids[r] for r in got_rows[:n]} == set(want["item"][:n])


@both
@pytest.mark.parametrize("name", FORMATS)
def test_a_real_library_ranks_as_recommend_does(rec, name, tmp_path):
    "All users, first ten, what they met left out by the caller."
    if name in LIBRARIES and absent(name): pytest.skip(f"needs {' and '.join(absent(name))}")
    folder = write_export(rec, tmp_path/"out", [name], among="all").folder
    ids, x, users, u, seen = tables(folder)
    met = {n: set(g) for n, g in seen.groupby("user_row")["item_row"]}
    search, most = READERS[name](folder, x), max(map(len, met.values()))
    rows, scores = search(u, min(10 + most, len(ids)))
    want = dict(list(rec.recommend(k=10, among="all").groupby("user", sort=False)))
    assert users == list(rec.user_ids) == list(want)
    for n, user in enumerate(users):
        keep = [j for j, r in enumerate(rows[n]) if r not in met.get(n, ())][:10]
        check_same(rows[n][keep], scores[n][keep], ids, x, u[n], want[user].reset_index(drop=True))


@both
def test_the_onnx_graph_leaves_out_what_was_met(rec, tmp_path):
    pytest.importorskip("onnx", reason="needs onnx")
    ort = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    folder = write_export(rec, tmp_path/"out", "onnx", among="all").folder
    ids, x, users, u, seen = tables(folder)
    run = ort.InferenceSession(str(folder/"items.onnx"), providers=["CPUExecutionProvider"])
    scores, rows = run.run(["scores", "rows"], dict(users=u, seen=seen.to_numpy(), k=np.array([10])))
    for n, (_, g) in enumerate(rec.recommend(k=10, among="all").groupby("user", sort=False)):
        check_same(rows[n][:len(g)], scores[n][:len(g)], ids, x, u[n], g.reset_index(drop=True))


@pytest.mark.parametrize("among", ["new", "all", ["i0007", "i0003", "i0044"], ["new", "i0001"]])
def test_the_candidates_are_those_of_recommend(trained, among, tmp_path):
    "An item that has nothing stands at the mean of the candidates, so its vector depends on them."
    e = write_export(trained, tmp_path/"out", among=among)
    (ids, x), (_, u), seen = e.vectors("items"), e.vectors("users"), e.seen()
    t = trained.recommend(k=50, among=among, exclude_seen=False)
    assert e.manifest["counts"]["items"] == len(ids) and e.manifest["among"] == (among if isinstance(among, str) else "ids")
    score = pd.DataFrame(u @ x.T, trained.user_ids, ids).stack()
    np.testing.assert_allclose(t["score"], score.loc[list(zip(t["user"], t["item"]))], atol=1e-5)
    rows = trained.rows_of(ids)
    assert (np.diff(rows) > 0).all()  # where scores are equal, the lower row comes first, as in the catalogue
    sparse = trained.seen[:, rows].toarray()
    assert sorted(map(tuple, seen)) == sorted(zip(*map(np.ndarray.tolist, sparse.nonzero())))


def test_without_users(trained, tmp_path):
    e = write_export(trained, tmp_path/"out", users=False)
    assert sorted(p.name for p in e.folder.iterdir()) == ["items.parquet", "manifest.json"] and list(e.manifest["counts"]) == ["items"]
    assert read_export(e.folder).manifest == e.manifest


def test_the_manifest_says_where_the_vectors_come_from(trained, best, tmp_path):
    e = write_export(trained, tmp_path/"out", ["parquet", *THERE], among="all")
    m = e.manifest
    assert (m["d"], m["metric"], m["dtype"]) == (32, "inner product", "float32")
    assert m["counts"] == dict(items=50, users=60, seen=trained.seen.nnz)
    again = Recommender.load(trained.save(tmp_path/"model"))
    assert m["model"]["fingerprint"] == fingerprint(again) != fingerprint(best)
    assert set(m["files"]) == {p.name for p in e.folder.iterdir()} - {"manifest.json"}
    assert list(m["indexes"]) == THERE and all(x["recall@10"] == 1 for x in m["indexes"].values())


def test_the_same_model_gives_the_same_bytes(best, tmp_path):
    a, b = (write_export(best, tmp_path/n, ["parquet", *THERE], among="all").folder for n in "ab")
    for p in a.iterdir(): assert p.read_bytes() == (b/p.name).read_bytes(), p.name


@settings(max_examples=60, **QUICK)
@given(st.data())
def test_ids_of_any_characters_come_back(trained, tmp_path_factory, data):
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(["a,b", '"', "'", "ä\n", "\0", "../x", "𝔘", "NaN", "1.0"])
    items, users = (data.draw(st.lists(text, min_size=n, max_size=n, unique=True)) for n in (50, 60))
    odd = changed(trained, user_ids=np.array(users, object), items=trained.items.assign(item=pd.Series(items, dtype=object)))
    folder = tmp_path_factory.mktemp("ids")/"out"
    e = read_export(write_export(odd, folder, among="all").folder)
    assert list(e.vectors("items")[0]) == items and list(e.vectors("users")[0]) == users
    shutil.rmtree(folder.parent)


# ---- a manifest that lies
@pytest.fixture(scope="module")
def honest(trained, tmp_path_factory): return write_export(trained, tmp_path_factory.mktemp("honest")/"out", ["parquet", *THERE], among="all").folder

@pytest.fixture
def folder(honest, tmp_path): return Path(shutil.copytree(honest, tmp_path/"copy"))

def refused(folder, *words):
    with pytest.raises(UsageError) as e: read_export(folder)
    said = str(e.value)
    assert all(w in said for w in words) and "export" in said and "\n" not in said, said

def lie(folder, **change):
    "A manifest that is sealed again, as by somebody who knows how."
    said = json.loads((folder/"manifest.json").read_text()) | change
    (folder/"manifest.json").write_text(json.dumps(said | dict(sha256=seal(said))))


@settings(max_examples=150, **QUICK)
@given(st.data())
def test_any_changed_bit_is_refused_and_the_file_named(honest, tmp_path_factory, data):
    folder = Path(shutil.copytree(honest, tmp_path_factory.mktemp("bit")/"copy"))
    p = data.draw(st.sampled_from(sorted(folder.iterdir())))
    b = bytearray(p.read_bytes())
    b[data.draw(st.integers(0, len(b) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    p.write_bytes(b)
    if p.name != "manifest.json": refused(folder, p.name)
    else:  # a changed blank between two values says the same
        try: assert read_export(folder).manifest == read_export(honest).manifest
        except UsageError as e: assert str(folder) in str(e) and "\n" not in str(e)
    shutil.rmtree(folder.parent)


def test_missing_longer_and_shorter_files_are_refused(honest, tmp_path):
    for n, p in enumerate(sorted(honest.iterdir())):
        for k, harm in enumerate((lambda q: q.unlink(), lambda q: q.write_bytes(q.read_bytes() + b"x"), lambda q: q.write_bytes(q.read_bytes()[:-1]), lambda q: q.write_bytes(b""))):
            harm(Path(shutil.copytree(honest, tmp_path/f"{n}-{k}"))/p.name)
            if (p.name, k) == ("manifest.json", 2): continue  # it ends with a new line
            refused(tmp_path/f"{n}-{k}", p.name)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret", "..", ".", "", "sub/secret", "..\\secret", "\0"])
def test_a_name_never_leaves_the_folder(folder, name):
    (folder.parent/"secret").write_text("x"); (folder/"sub").mkdir(); (folder/"sub"/"secret").write_text("x")
    files = json.loads((folder/"manifest.json").read_text())["files"]
    lie(folder, files=files | {name: dict(bytes=1, sha256="2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881")})
    refused(folder)


def test_a_link_out_of_the_folder_is_refused(folder):
    shutil.move(folder/"users.parquet", folder.parent/"users.parquet")
    (folder/"users.parquet").symlink_to(folder.parent/"users.parquet")
    refused(folder, "users.parquet")


def test_counts_width_and_listing_must_be_true(folder):
    m = json.loads((folder/"manifest.json").read_text())
    for change, word in ((dict(d=31), "items.parquet"), (dict(counts=m["counts"] | dict(users=61)), "users.parquet"), (dict(counts=m["counts"] | dict(seen=0)), "seen.parquet"),
                         (dict(files={k: v for k, v in m["files"].items() if k != "items.parquet"}), "items.parquet"), (dict(version=2), "version"), (dict(format="other"), "no export"),
                         (dict(indexes=dict(faiss=dict(file="../x.faiss"))), "x.faiss"), (dict(metric="l2"), "metric"), (dict(dtype="float64"), "dtype")):
        lie(folder, **(m | change)); refused(folder, word)
    lie(folder, **m); read_export(folder)


@settings(max_examples=120, **QUICK)
@given(st.sampled_from(["d", "counts", "files", "indexes", "version", "format", "model"]),
       st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(["items", "users", "seen", "bytes", "file", "faiss", "items.parquet", "x"]), x, max_size=3)))
def test_a_manifest_of_any_shape_is_read_or_refused(honest, tmp_path_factory, key, value):
    folder = Path(shutil.copytree(honest, tmp_path_factory.mktemp("shape")/"copy"))
    lie(folder, **{key: value})
    try: read_export(folder)
    except UsageError as e: assert "\n" not in str(e)
    shutil.rmtree(folder.parent)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "{}", '{"format": "mamex.export"}', "\xff\xfe"])
def test_what_is_no_manifest_is_refused(folder, text):
    (folder/"manifest.json").write_text(text, encoding="latin-1"); refused(folder)


def test_an_index_that_is_not_there(trained, tmp_path):
    e = write_export(trained, tmp_path/"out")
    with pytest.raises(UsageError, match="no index of faiss: export again with --to faiss"): e.search("faiss")


# ---- the place
def test_only_an_export_is_replaced(trained, tmp_path):
    (tmp_path/"empty").mkdir()
    e = write_export(trained, tmp_path/"empty")
    with pytest.raises(UsageError, match="--replace"): write_export(trained, e.folder, among="all")
    assert read_export(write_export(trained, e.folder, among="all", replace=True).folder).manifest["among"] == "all"
    (e.folder/"notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="'notes.txt', which is no part of an export"): write_export(trained, e.folder, replace=True)
    model = trained.save(tmp_path/"model")
    with pytest.raises(UsageError, match="no part of an export"): write_export(trained, model, replace=True)
    with pytest.raises(UsageError, match="is a file"): write_export(trained, e.folder/"notes.txt", replace=True)
    (tmp_path/"below").write_text("a file")
    with pytest.raises(UsageError, match="could not be written"): write_export(trained, tmp_path/"below"/"out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["below", "empty", "model"] and Recommender.load(model)


def test_a_link_is_followed(trained, tmp_path):
    (tmp_path/"link").symlink_to(write_export(trained, tmp_path/"there").folder)
    write_export(trained, tmp_path/"link", among="all", replace=True)
    assert (tmp_path/"link").is_symlink() and read_export(tmp_path/"there").manifest["among"] == "all"


def test_what_is_not_installed_is_named(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(searching.importlib.util, "find_spec", lambda m: None)
    for to, words in (("faiss", "pip install faiss-cpu,"), ("onnx", "needs onnx and onnxruntime"), ("hnswlib", "mamex[ann]")):
        with pytest.raises(UsageError, match=words.replace("[", r"\[")): write_export(trained, tmp_path/"out", ["parquet", to])
    write_export(trained, tmp_path/"tables")
    assert [p.name for p in tmp_path.iterdir()] == ["tables"]


# ---- faults. The child of a fork meets them, and this process looks at what is left
def in_child(work, after=None) -> int:
    "Exit status of a child that does `work`, or −9; after so many seconds it is killed."
    if (pid := os.fork()) == 0:
        status = 1
        try: status = work()
        except BaseException as e: print(f"{type(e).__name__}: {e}", file=sys.__stderr__)
        finally: os._exit(status)
    if after is not None:
        time.sleep(after); os.kill(pid, signal.SIGKILL)
    for _ in range(6000):
        there, status = os.waitpid(pid, os.WNOHANG)
        if there: return os.waitstatus_to_exitcode(status)
        time.sleep(.01)
    os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
    raise AssertionError("the child hangs")


def killed_at(step: int, work) -> int:
    "`work` in a child that ends with kill -9 at its so many-th touch of the file system."
    def run():
        left = [step]
        def hook(event, args):
            if event.split(".")[0] not in ("open", "os", "shutil", "tempfile", "fcntl", "ctypes"): return
            left[0] -= 1
            if left[0] == 0: os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        work(); return 0
    return in_child(run)


def test_kill_9_at_every_step_leaves_a_whole_export(trained, tmp_path):
    "The old one or the new one, and never none; the next export sweeps what lies around."
    place, now = tmp_path/"out", ["new", "all"]
    write_export(trained, place, among=now[0])
    steps, met = 0, set()
    while True:
        steps += 1
        status = killed_at(steps, lambda: write_export(trained, place, among=now[1], replace=True))
        among = read_export(place).manifest["among"]
        met.add(among)
        if among == now[1]: now = now[::-1]  # it had changed places
        if status == 0: break
        assert status == -9 and steps < 500
    assert met == {"new", "all"} and steps > 20
    write_export(trained, place, replace=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_kill_9_where_the_system_cannot_exchange_folders(trained, tmp_path, monkeypatch):
    "Two steps; what a kill between them set aside is put back by the next command, which then asks for --replace."
    monkeypatch.setattr(staging.ctypes, "CDLL", lambda name: object())
    place, status, steps, put_back = tmp_path/"out", -9, 0, 0
    write_export(trained, place)
    while status == -9 and steps < 500:
        steps += 1
        status = killed_at(steps, lambda: write_export(trained, place, replace=True))
        put_back += not place.exists()
        with pytest.raises(UsageError, match="--replace"): write_export(trained, place)
        read_export(place)
        assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert status == 0 and put_back == 1


def test_kill_9_at_every_step_of_a_first_export_leaves_nothing_or_all(trained, tmp_path):
    place, steps, status = tmp_path/"out", 0, -9
    while status == -9 and steps < 500:
        steps += 1
        status = killed_at(steps, lambda: write_export(trained, place))
        if place.exists(): read_export(place); shutil.rmtree(place)
    assert status == 0 and steps > 10


def test_kill_9_at_random_moments_leaves_a_whole_export(best, tmp_path):
    place, to = tmp_path/"out", ["parquet", *THERE]
    start = time.perf_counter()
    write_export(best, place, to, among="all")
    took, moments = time.perf_counter() - start, random.Random(0)
    for _ in range(25):
        in_child(lambda: (write_export(best, place, to, among="all", replace=True), 0)[1], after=moments.uniform(0, 1.5*took))
        read_export(place)
    write_export(best, place, to, among="all", replace=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_full_disk_costs_nothing_but_a_sentence(trained, name, tmp_path):
    "No file may grow beyond a limit; old export and neighbours stay."
    if name in LIBRARIES and absent(name): pytest.skip(f"needs {' and '.join(absent(name))}")
    place = write_export(trained, tmp_path/"out").folder
    try: write_export(trained, tmp_path/"size", name, among="all")
    finally: sizes = [p.stat().st_size for p in (tmp_path/"size").iterdir()]
    shutil.rmtree(tmp_path/"size")
    def write():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try: write_export(trained, place, name, among="all", replace=True)
        except UsageError as e: return 7 if "could not be written" in str(e) and "make room" in str(e) and "\n" not in str(e) else 1
        return 0
    for limit in sorted({0, 1, 4096, *(s - 1 for s in sizes), *(s // 2 for s in sizes)}):
        assert in_child(write) == 7, limit
        assert read_export(place).manifest["among"] == "new" and [p.name for p in tmp_path.iterdir()] == ["out"]
    limit = max(sizes)
    assert in_child(write) == 0 and read_export(place).manifest["among"] == "all"


def numbers(path, v, threads): path.write_bytes(v.items(0, len(v)).tobytes())

def open_numbers(path, n, d):
    x = np.frombuffer(path.read_bytes(), np.float32).reshape(-1, d)
    def search(users, k, effort=None):
        rows = np.argsort(-(users @ x.T), 1, kind="stable")[:, :k]
        return rows, np.take_along_axis(users @ x.T, rows, 1)
    return x.shape, search

@pytest.mark.parametrize("write", [lambda p, v, t: p.write_bytes(b"xyz"), lambda p, v, t: p.write_bytes(b""), lambda p, v, t: None,
                                   lambda p, v, t: p.write_bytes(v.items(0, len(v) - 1).tobytes()), lambda p, v, t: p.write_bytes((v.items(0, len(v))*1.01).tobytes())])
def test_a_library_that_writes_something_else_is_caught(trained, tmp_path, monkeypatch, write):
    "Cut short without an error, or with other vectors."
    monkeypatch.setitem(LIBRARIES, "faiss", Library(numbers, open_numbers, {}))
    assert write_export(trained, tmp_path/"good", "faiss", among="all").manifest["indexes"]["faiss"]["recall@10"] == 1
    monkeypatch.setitem(LIBRARIES, "faiss", Library(write, open_numbers, {}))
    with pytest.raises(UsageError, match="could not be written"): write_export(trained, tmp_path/"out", "faiss", among="all")
    assert [p.name for p in tmp_path.iterdir()] == ["good"]


# ---- the command
def test_the_command(trained, tmp_path, capsys):
    model = str(trained.save(tmp_path/"model"))
    out = str(tmp_path/"out")
    assert main([model, "--to", "parquet", *THERE, "--among", "all", "--out", out]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"50 items, 60 users, {trained.seen.nnz} pairs of what they met, 32 numbers a vector, in {out}" and len(said) == 1 + len(THERE)
    with pytest.raises(UsageError, match="--replace"): main([model, "--to", "parquet", "--out", out])
    assert main([model, "--to", "parquet", "--out", out, "--replace", "--no-users"]) == 0 and capsys.readouterr().out.startswith("6 items, 32 numbers")
    with pytest.raises(UsageError, match="unknown items 'nothing'"): main([model, "--to", "parquet", "--out", out, "--replace", "--among", "nothing"])
    with pytest.raises(UsageError, match="threads"): main([model, "--to", "parquet", "--out", out, "--replace", "--threads", "0"])
    with pytest.raises(UsageError, match="no recommender"): main([str(tmp_path/"none"), "--to", "parquet", "--out", str(tmp_path/"other")])
    with pytest.raises(SystemExit): main([model, "--to", "annoy", "--out", out])
    assert read_export(out).manifest["counts"] == dict(items=6) and parser().prog == "mamex export"
    assert not (tmp_path/"other").exists() and all(a.help for a in parser()._actions)


# ---- recall against speed
def test_formats_are_checked():
    assert check_formats(["parquet", "parquet"]) == check_formats("parquet") == ["parquet"]
    for odd in ([], "annoy", ["parquet", ""]):
        with pytest.raises(UsageError, match="no format"): check_formats(odd)


def test_the_curve_needs_no_library():
    rng = np.random.default_rng(0)
    c = ann_curve(rng.normal(size=(300, 8)), rng.normal(size=(9, 8)), to="parquet", least=.01)
    assert c["library"].tolist() == ["numpy"] and c["recall"].tolist() == [1] and (c["queries_a_second"] > 0).all()


@needs_library
def test_more_candidates_in_hand_find_more():
    rng = np.random.default_rng(0)
    c = ann_curve(rng.normal(size=(3000, 48)), rng.normal(size=(50, 48)), efforts=(10, 3000), least=.01)
    assert set(c["library"]) == {"numpy", *THERE}
    for name, g in c.groupby("library"):
        assert g["recall"].iloc[-1] > .999
        if len(g) > 1: assert .1 < g["recall"].iloc[0] < .99


def test_recall_counts_what_was_found(trained):
    v = vectors_of(trained, "all")
    rows = np.argsort(-(v.users @ v.items(0, 50).T), 1)
    assert searching.recall(v.items, 50, v.users, rows[:, :10], 10) == 1
    assert searching.recall(v.items, 50, v.users, np.c_[rows[:, :5], rows[:, -5:]], 10) == .5
    assert searching.recall(v.items, 50, v.users, np.c_[rows[:, :5], np.full((60, 5), -1)], 10) == .5


@pytest.mark.parametrize("name", FORMATS)
def test_one_item_and_many_that_are_the_same(trained, name, tmp_path):
    "Items that have nothing all stand at one place; a graph must still give k of them."
    if name in LIBRARIES and absent(name): pytest.skip(f"needs {' and '.join(absent(name))}")
    bare = changed(trained, has=np.zeros_like(trained.has), e=np.ones_like(trained.e))
    for among, n in (("i0044", 1), ("all", 50)):
        e = write_export(bare, tmp_path/"out", name, among=among, replace=True)
        if name not in LIBRARIES: continue
        rows, scores = e.search(name)(e.vectors("users")[1], 60)
        assert rows.shape == scores.shape == (60, n) and (np.sort(rows, 1) == np.arange(n)).all()
