"Published files over real HTTP from a host that fails in every way that the real ones do; each fault with its stated outcome."
import errno, gzip, hashlib, io, json, os, signal, stat, subprocess, sys, threading, time, warnings, zipfile
from contextlib import contextmanager
from pathlib import Path
import pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from conftest import ROOT, needs
from standin import AMAZON, amazon_world, films_zip, picture, serve
from mamex.datasets import folders
from mamex.datasets.fetch import amazon, sources
from mamex.base import UsageError
from mamex.datasets.folders import load_dataset
from mamex.vectors.texts import text_modalities
from mamex.datasets.fetch.downloads import Net, Remote, download, unpack, whole_archive
from mamex.datasets.fetch.pictures import fetch_pictures
from mamex.datasets.fetch.amazon import parse_literal, parse_review, read_metadata
from mamex.datasets.fetch.sources import fetch, load_or_fetch

QUICK = Net(tries=4, connect_s=2, read_s=1, backoff_s=.01, wait_s=2, picture_s=3)
REVIEWS, META = (f"{AMAZON}/{n}_Sports_and_Outdoors{s}.json.gz" for n, s in (("reviews", "_5"), ("meta", "")))
pytestmark = pytest.mark.filterwarnings("ignore:.* is not the set")


@pytest.fixture(scope="module")
def world(): return amazon_world()


@pytest.fixture
def host(world, monkeypatch, tmp_path):
    "The stand-in, as the mirror of all hosts, and an empty cache."
    with serve(dict(world[0])) as h:
        for k, v in dict(MAMEX_MIRROR=h.url, MAMEX_CACHE=str(tmp_path/"cache"), MAMEX_DATA="").items(): monkeypatch.setenv(k, v)
        monkeypatch.chdir(tmp_path)
        yield h


def tree(folder) -> dict: return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


# ---- end to end
def test_sport_from_nothing_to_a_report(host, world, tmp_path):
    "`-p dataset sport` fetches, parses, trains and reports; the second run asks nobody."
    def run(): return subprocess.run([Path(sys.executable).parent/"papermill", "--no-progress-bar", "nbs/run.ipynb", tmp_path/"o.ipynb", "-p", "dataset", "sport", "-p", "encoder", "tiny",
                                      "-p", "epochs", "3", "-p", "seeds", "0", "-p", "folds", "3", "-p", "show_gallery", "False"], cwd=ROOT, capture_output=True, text=True,
                                     env=os.environ | dict(MAMEX_REPORTS=str(tmp_path/"reports")))
    p = run()
    assert p.returncode == 0, (p.stdout + p.stderr)[-3000:]
    r = json.loads((tmp_path/"reports/sport/run.json").read_text())
    assert "McAuley" in r["card"]["dataset"]["citation"] and "research" in r["card"]["dataset"]["licence"]
    assert r["card"]["dataset"]["pictures"] == world[1] and r["card"]["features"]["counts"]["image"]["present"] == world[1]["ok"]
    assert "McAuley" in (tmp_path/"reports/sport/run.md").read_text() and r["paper_split"]["test"]["mamex/released"]
    asked, host.files = len(host.asked), {}
    p = run()
    assert p.returncode == 0 and len(host.asked) == asked
    assert json.loads((tmp_path/"reports/sport/run.json").read_text())["paper_split"] == r["paper_split"]


def test_the_folder(host, world):
    with pytest.warns(UserWarning, match="sport is not the set that the literature uses"): folder = fetch("sport", QUICK, progress=False)
    ds = load_dataset("sport")
    assert (ds.n_users, ds.n_items, len(ds.images)) == (40, 60, world[1]["ok"]) and list(ds.item_ids) == sorted(ds.item_ids)
    info = json.loads((folder/"dataset.json").read_text())
    assert info["pictures"] == world[1] and info["notes"] == dict(reviews_unreadable=1, metadata_unreadable=1, metadata_repeated=1, metadata_absent=2)
    assert info["licence"] and "McAuley" in info["citation"]
    assert {Path(u).name: v["sha256"] for u, v in info["files"].items()} == {Path(p).name: hashlib.sha256(host.files[p]).hexdigest() for p in (REVIEWS, META)}
    assert list(ds.items) == ["item", "title", "description", "brand", "categories", "image_url"]  # not what was also bought, nor a rank, nor a price
    assert ds.items.loc[1, "title"].startswith("Tent &amp; pole No. 1") and ds.items.loc[1, "categories"] == "Sports & Outdoors > Golf"
    assert {p.suffix for p in (folder/"images").iterdir()} == {".jpg", ".png", ".webp"}
    assert not [p for p in folder.parent.rglob("*") if ".partial" in p.name or ".tmp" in p.name]


def test_a_complete_5_core_of_the_right_size_warns_of_nothing(monkeypatch):
    t = pd.DataFrame([(f"u{u}", f"i{i}") for u in range(6) for i in range(7)], columns=["user", "item"])
    monkeypatch.setitem(sources.SOURCES, "baby", sources.amazon("Baby", 6, 7, 42))
    with warnings.catch_warnings(): warnings.simplefilter("error"); sources.check_counts("baby", t, 7)
    with pytest.warns(UserWarning, match="no 5-core: 24"): sources.check_counts("baby", t[t.item < "i4"].assign(user="u" + t.user + t.item), 7)


# ---- faults of files
@settings(max_examples=12, deadline=None)
@given(st.data())
def test_cut_at_any_byte(data):
    "Resumed, whatever was there; the same bytes in the end, and never more than are missing."
    body = gzip.compress(os.urandom(150_000), mtime=0)
    cuts = data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=3))
    with serve({"/h/x.gz": body}) as h, cache_of(h):
        h.faults["/h/x.gz"] = [("cut", c) for c in sorted(cuts)]
        assert download(Remote("http://h/x.gz"), QUICK, False).read_bytes() == body
        assert len(h.asked) == len(cuts) + 1


@contextmanager
def cache_of(h, root=None):
    import tempfile
    old = {k: os.environ.get(k) for k in ("MAMEX_MIRROR", "MAMEX_CACHE")}
    with tempfile.TemporaryDirectory() as d:
        os.environ |= dict(MAMEX_MIRROR=h.url, MAMEX_CACHE=d)
        try: yield Path(d)
        finally:
            for k, v in old.items(): os.environ.pop(k); os.environ |= {} if v is None else {k: v}


def test_cut_and_the_file_has_changed_meanwhile(host):
    "A part of an older file is not continued with a newer one."
    host.faults[META] = [("cut", 1500)] * 4
    with pytest.raises(UsageError, match="is missing"): fetch("sport", QUICK, progress=False)
    part = next((Path(os.environ["MAMEX_CACHE"])/"downloads").rglob("*.part"))
    assert 0 < part.stat().st_size <= 1500
    host.files[META] = new = gzip.compress(gzip.decompress(host.files[META]) + b"\n", mtime=1)
    fetch("sport", QUICK, progress=False)
    assert part.with_suffix("").read_bytes() == new and not part.exists()


def test_a_host_without_ranges(host):
    host.ranges, host.faults[META] = False, [("cut", 1500)]
    fetch("sport", QUICK, progress=False)
    assert len(load_dataset("sport").images) > 0


@pytest.mark.parametrize("fault", [("status", 503, {"Retry-After": "0"}), ("status", 429, {"Retry-After": "1"}), ("status", 500, {}), ("hang", 1.5)], ids=lambda f: f"{f[0]} {f[1]}")
def test_patience(host, fault):
    "Busy, broken or silent once: asked again, after as long as the host says."
    host.faults[REVIEWS] = [fault]
    began = time.time(); download(sources.SOURCES["sport"].files["reviews"], QUICK, False)
    assert [p for p, *_ in host.asked].count(REVIEWS) == 2
    if fault[1] == 429: assert time.time() - began > .9


@pytest.mark.parametrize("fault, says", [
    (("status", 404, {}), "the host answers 404"), (("status", 403, {}), "the host answers 403"), (("hang", 1.5), "the host fell silent"), (("status", 503, {}), "the host answers 503")], ids=lambda x: str(x)[:20])
def test_patience_ends(host, fault, says):
    host.faults[REVIEWS] = [fault] * 20
    with pytest.raises(UsageError) as e: load_or_fetch("sport", Net(tries=2, read_s=.5, backoff_s=.01), progress=False)
    said = str(e.value)
    assert says in said and "reviews_Sports_and_Outdoors_5.json.gz is missing" in said and "http://snap.stanford.edu/" in said
    assert str(Path(os.environ["MAMEX_CACHE"])/"downloads"/"snap.stanford.edu") in said and "toy" in said and "\n" not in said
    assert not list(Path(os.environ["MAMEX_CACHE"]).rglob("*.parquet"))


def test_gzip_cut_short_by_its_publisher(host):
    "The host sends all that it has; what it has is half. It is thrown away and never read."
    host.files[META] = host.files[META][:-500]
    with pytest.raises(UsageError, match="its archive is cut short or damaged"): fetch("sport", QUICK, progress=False)
    assert not [p for p in (Path(os.environ["MAMEX_CACHE"])/"downloads").rglob("meta*")]


def test_put_there_by_hand(host, world):
    "Without a network, a file at the place that the message names is taken; half a file is refused."
    whole, host.files = host.files, {k: v for k, v in host.files.items() if "ecx" in k}
    for p in (REVIEWS, META):
        at = Path(os.environ["MAMEX_CACHE"])/"downloads"/p[1:]; at.parent.mkdir(parents=True, exist_ok=True); at.write_bytes(whole[p])
    at.write_bytes(whole[META][:-300])
    with pytest.raises(UsageError, match="is not the file that it should be .*remove it"): fetch("sport", QUICK, progress=False)
    at.write_bytes(whole[META])
    fetch("sport", QUICK, progress=False)
    assert load_dataset("sport").info["pictures"] == world[1]


def test_checksums(host):
    body, url = films_zip(), "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip"
    path = "/" + url.split("//")[1]
    host.files |= {path: body, f"{path}.md5": b"MD5 (ml-latest-small.zip) = " + b"0"*32 + b"\n"}
    remote = Remote(url, md5_url=f"{url}.md5")
    with pytest.raises(UsageError, match="its md5 is .*thrown away"): download(remote, QUICK, False)
    host.files[f"{path}.md5"] = f"MD5 (ml-latest-small.zip) = {hashlib.md5(body).hexdigest()}\n".encode()
    download(remote, QUICK, False)
    with pytest.raises(UsageError, match="its sha256 is"): download(Remote(url, sha256="1"*64), QUICK, False)
    with pytest.raises(UsageError, match=f"it has {len(body):,} bytes, not 7"): download(Remote(url, size=7), QUICK, False)


def test_a_file_that_changed_since_it_was_pinned(host):
    fetch("sport", QUICK, progress=False)
    at = Path(os.environ["MAMEX_CACHE"])/"downloads"/META[1:]
    at.write_bytes(at.read_bytes()[::-1])
    import shutil; shutil.rmtree(Path(os.environ["MAMEX_CACHE"])/"datasets")
    with pytest.raises(UsageError, match="sha256"): fetch("sport", QUICK, progress=False)


# ---- archives
def sly(kind, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("ml/ratings.csv", "fine")
        if kind == "up": z.writestr("../../evil.txt", "x")
        if kind == "windows up": z.writestr("ml\\..\\..\\evil.txt", "x")
        if kind == "absolute": z.writestr("/tmp/mamex-evil.txt", "x")
        if kind == "drive": z.writestr("C:/evil.txt", "x")
        if kind == "symlink":
            i = zipfile.ZipInfo("ml/link"); i.create_system, i.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            z.writestr(i, "/etc")
            z.writestr("ml/link/evil.txt", "x")
        if kind == "bomb": z.writestr("ml/zeros", b"\0" * (30 << 20))
    return path


@pytest.mark.parametrize("kind, says", [("up", "leaves the folder"), ("windows up", "leaves the folder"), ("absolute", "an absolute path"), ("drive", "an absolute path"),
                                        ("symlink", "a link or device"), ("bomb", "over the limit")])
def test_archives_that_cannot_be_trusted(kind, says, tmp_path):
    (tmp_path/"in").mkdir()
    z = sly(kind, tmp_path/"in"/"a.zip"); before = tree(tmp_path)
    with pytest.raises(UsageError, match=says): unpack(z, tmp_path/"in"/"out", limit=20 << 20)
    assert tree(tmp_path) == before and not Path("/tmp/mamex-evil.txt").exists()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 1200))
def test_any_bytes_as_an_archive(junk, at):
    "A spoiled archive is refused in words, or what is unpacked stays inside."
    import tempfile
    with tempfile.TemporaryDirectory() as d:
        b = films_zip(); at = min(at, len(b))
        (p := Path(d)/"a.zip").write_bytes(b[:at] + junk + b[at + len(junk):])
        try: unpack(p, Path(d)/"out")
        except UsageError: assert not (Path(d)/"out").exists()
        assert {q.name for q in Path(d).iterdir()} <= {"a.zip", "out"}
        whole_archive(p)


# ---- pictures
def test_pictures_one_by_one(tmp_path):
    good = picture()
    names = dict(ok="/h/ok", lost="/h/404", gone="/h/410", busy="/h/busy", later="/h/later", hang="/h/hang", cut="/h/cut", html="/h/html", half="/h/half", loop="/h/loop")
    files = {f"/h/{n}": good for n in ("ok", "busy", "later", "cut", "hang")} | {"/h/html": b"<html>", "/h/half": picture(noise=3)[:900]}
    with serve(files) as h, cache_of(h):
        h.faults = {"/h/410": [("status", 410, {})], "/h/busy": [("status", 503, {"Retry-After": "0"})] * 9, "/h/later": [("status", 429, {"Retry-After": "1"})],
                    "/h/hang": [("hang", 1.5)] * 9, "/h/cut": [("cut", 100)], "/h/loop": [("status", 302, {"Location": h.url + "/h/loop"})] * 30}
        net = Net(tries=2, read_s=.5, connect_s=.5, backoff_s=.01, wait_s=2, picture_s=2)
        urls = {i: f"http://h{p[2:]}" for i, p in names.items()}
        out = fetch_pictures(urls, tmp_path/"images", tmp_path/"log", net, False)
        assert out == dict(ok="ok", lost="gone", gone="gone", busy="unreachable", later="ok", hang="unreachable", cut="ok", html="not a picture", half="damaged", loop="no address")
        assert {p.name for p in (tmp_path/"images").iterdir()} == {"ok.jpg", "later.jpg", "cut.jpg"}
        h.faults, asked = {}, len(h.asked)
        out = fetch_pictures(urls, tmp_path/"images", tmp_path/"log", net, False)
        assert {p for p, *_ in h.asked[asked:]} == {"/h/busy", "/h/hang"} and out["busy"] == out["hang"] == "ok"  # only what may have changed


def test_item_ids_that_are_no_file_names(tmp_path):
    with serve({"/h/a": picture()}) as h, cache_of(h):
        out = fetch_pictures(dict.fromkeys(("../up", "/root", "a/b", ".hidden", "", "x"*300, "nul\0", "fine"), "http://h/a"), tmp_path/"in"/"images", tmp_path/"log", QUICK, False)
    assert {k for k, v in out.items() if v == "ok"} == {"fine"} and [p.name for p in tmp_path.rglob("*.jpg")] == ["fine.jpg"]


def test_no_more_than_a_few_at_a_time_from_one_host(tmp_path):
    at, most, lock = [0], [0], threading.Lock()
    with serve({f"/h/{i}": picture() for i in range(24)}) as h, cache_of(h):
        answer = h.answer
        def counted(x):  # a request counts until it is answered: who has the answer may ask again before this thread goes on
            with lock: at[0] += 1; most[0] = max(most[0], at[0])
            time.sleep(.02)
            with lock: at[0] -= 1
            answer(x)
        h.answer = counted
        fetch_pictures({str(i): f"http://h/{i}" for i in range(24)}, tmp_path/"images", tmp_path/"log", Net(per_host=3), False)
    assert 1 < most[0] <= 3


# ---- the disk and the kill
def child(code, **env):
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | env, cwd=os.getcwd())


@pytest.mark.parametrize("limit, where", [(3_000, "downloads"), (40_000, "datasets")])
def test_disk_full(host, world, limit, where):
    "The largest file that may be written stands in for the room that is left; then there is room again."
    host.files[f"/ecx.images-amazon.com/images/I/B{1:09d}.jpg"] = big = picture("PNG", size=(150, 150), noise=5)
    assert len(big) > 40_000 > max(len(host.files[p]) for p in (REVIEWS, META))
    p = child(f"import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
              "from mamex.cli import main; raise SystemExit(main(['fetch', 'sport']))")
    out, err = p.communicate(timeout=60)
    assert p.returncode == 2 and "there is no room left" in err and where in err and "Traceback" not in err, err
    assert not (Path(os.environ["MAMEX_CACHE"])/"datasets"/"sport").exists()
    fetch("sport", QUICK, progress=False)
    assert load_dataset("sport").info["pictures"] == world[1]


def test_kill_and_kill_again(host, world, tmp_path):
    "SIGKILL in the middle of a file, of the pictures, and of the pictures again; what comes in the end is what comes without a kill."
    with serve(dict(world[0])) as other, cache_of(other) as d: want = tree(fetch("sport", QUICK, progress=False))
    cache, code = Path(os.environ["MAMEX_CACHE"]), "from mamex.datasets.fetch.sources import fetch; fetch('sport', progress=False)"
    host.faults[META] = [("slow", .1)]
    def kill_when(there):
        p = child(code)
        for _ in range(300):
            if there(): break
            time.sleep(.02)
        else: pytest.fail("nothing to kill: " + p.communicate()[1])
        p.send_signal(signal.SIGKILL); p.wait()
    kill_when(lambda: any(p.stat().st_size > 1000 for p in cache.rglob("meta*.part")))
    assert not (cache/"datasets"/"sport").exists() and "sport" not in folders.load_dataset.__globals__["known_datasets"]()
    for n in (5, 20):
        for p in list(world[0]):
            if "ecx" in p: host.faults[p] = [("slow", .05)]
        kill_when(lambda: len(list((cache/"datasets").rglob("B*"))) >= n)
        assert not (cache/"datasets"/"sport").exists()
    host.faults = {}
    partial = cache/"datasets"/".sport.partial"
    with open(partial/"pictures.jsonl", "a") as f: f.write('["B00000')  # as if killed inside a line
    begun = len(host.asked)
    assert tree(fetch("sport", QUICK, progress=False)) == want
    assert not any(p == REVIEWS or (p == META and not r) for p, r, _ in host.asked[begun:])  # nothing twice


def test_two_at_a_time(host, world):
    a, b = (child("from mamex.datasets.fetch.sources import fetch; fetch('sport', progress=False)") for _ in range(2))
    assert [p.wait(60) for p in (a, b)] == [0, 0]
    assert [p for p, *_ in host.asked].count(REVIEWS) == 1 and load_dataset("sport").info["pictures"] == world[1]


def test_ask_once_more_for_pictures(host, world):
    path = next(p for p in host.files if "ecx" in p)
    host.faults[path] = [("status", 503, {"Retry-After": "0"})] * 9
    with pytest.warns(UserWarning, match="1 of 60 pictures could not be reached"): fetch("sport", QUICK, progress=False)
    assert load_dataset("sport").info["pictures"]["unreachable"] == 1
    host.faults = {}
    fetch("sport", QUICK, progress=False, again=True)
    assert load_dataset("sport").info["pictures"] == world[1]


# ---- films
TMDB = "/api.themoviedb.org/3"

def test_films_with_a_key(host, monkeypatch):
    host.files |= {"/files.grouplens.org/datasets/movielens/ml-latest-small.zip": films_zip()}
    host.files |= {f"{TMDB}/movie/{100 + m}": json.dumps(dict(overview=f"Plot {m}.", poster_path=f"/{m}.jpg" if m != 2 else None)).encode() for m in range(1, 8) if m != 3}
    host.files |= {f"{TMDB}/search/movie": json.dumps(dict(results=[dict(overview="Found by title.", poster_path="/3.jpg")])).encode()}
    host.files |= {f"/image.tmdb.org/t/p/w342/{m}.jpg": picture() for m in range(1, 8)}
    monkeypatch.setenv("TMDB_API_KEY", "sesame")
    with pytest.warns(UserWarning, match="movielens is not"): folder = fetch("movielens", QUICK, progress=False)
    t = load_dataset("movielens").items.set_index("item")
    assert t.loc["1", ["title", "genres", "tags", "description"]].tolist() == ["Film, The 1 (1991)", None, "fun|old", "Plot 1."] or t.loc["1", "description"] == "Plot 1."
    assert t.loc["3", "description"] == "Found by title." and pd.isna(t.loc["8", "description"]) and t.loc["2", "released"] == 1992
    assert len(load_dataset("movielens").images) == 6
    assert load_dataset("movielens").info["feedback"] == ["tags"] and "tags" not in sum(text_modalities(load_dataset("movielens").items).values(), ())
    search = [p for p, *_ in host.asked if p.startswith(f"{TMDB}/search")]
    assert len(search) == 1 and "query=The+3" not in search[0] and "year=1993" in search[0]
    assert "sesame" not in "".join(p.read_text(errors="replace") + p.name for p in Path(os.environ["MAMEX_CACHE"]).rglob("*.json*") if p.is_file())


def test_films_without_a_key_and_with_a_wrong_one(host, monkeypatch):
    host.files |= {"/files.grouplens.org/datasets/movielens/ml-latest-small.zip": films_zip()}
    monkeypatch.setenv("TMDB_API_KEY", "wrong"); host.faults[f"{TMDB}/movie/101"] = [("status", 401, {})]
    with pytest.raises(UsageError, match="does not accept the key in TMDB_API_KEY"): fetch("movielens", QUICK, progress=False)
    monkeypatch.delenv("TMDB_API_KEY")
    with pytest.warns(UserWarning): fetch("movielens", QUICK, progress=False)
    ds = load_dataset("movielens")
    assert ds.images is None and "description" not in ds.items and ds.n_items == 8 and ds.info["notes"] == dict(tmdb="without")


# ---- fuzz: no crash, no hang, nothing executed
literals = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20), lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=8), x, max_size=4), max_leaves=12)


@settings(max_examples=300, deadline=2000)
@given(st.one_of(st.text(max_size=200), st.dictionaries(st.sampled_from(["asin", "title", "description", "imUrl", "categories", "brand"]), literals).map(repr),
                 st.text(alphabet="[](){}'\"\\,:-+~not 0x1e9asinlambda__import__", max_size=400)))
def test_any_line_as_metadata_or_review(line):
    r = parse_literal(line)
    assert r is None or isinstance(r["asin"], str)
    parse_review(line)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["title", "description", "imUrl", "categories", "brand"]), literals))
def test_any_fields_in_a_record(fields):
    import tempfile
    with tempfile.TemporaryDirectory() as d:
        (p := Path(d)/"m.gz").write_bytes(gzip.compress(repr(dict(fields, asin="B1")).encode("utf-8", "replace")))
        t, wrong = read_metadata(p, ["B1", "B2"])
        assert t["item"].tolist() == ["B1", "B2"] and all(v is None or isinstance(v, str) for v in t.drop(columns="item").to_numpy().ravel())
        t.to_parquet(Path(d)/"t.parquet")


@pytest.mark.parametrize("line", ["[" * 200_000, "(" * 90 + ")" * 90, "-" * 10**6 + "1", "- " * 50_000 + "1", "{'asin': 'B', 'x': " + "[1," * 3000, "not " * 10**5 + "1", "9" * 10**5, "'" * 10**5,
                                  "{'asin': " * 50_000, "\\" * 10**6, "{'asin': 'B'}" + " " * (2 << 20), "1" + "+1j" * 10**5, "1" + "+1" * 10**5, "f'{open(0)}'", "{**{'asin': 'B'}}", "1if 1else 2"], ids=lambda s: s[:12])
def test_hostile_lines(line):
    "In a process of its own: a parser that dies takes its process with it."
    p = subprocess.run([sys.executable, "-c", "import sys; from mamex.datasets.fetch.amazon import parse_literal; print(parse_literal(sys.stdin.read()))"], input=line, capture_output=True, text=True, timeout=30)
    assert (p.returncode, p.stdout.strip()) == (0, "None"), p.stderr[-500:]


def test_nothing_is_executed(tmp_path):
    mark = tmp_path/"mark"
    for line in (f"{{'asin': open({str(mark)!r}, 'w').write('x')}}", f"__import__('os').system('touch {mark}')", f"[x for x in [open({str(mark)!r}, 'w')]]"): assert parse_literal(line) is None
    assert not mark.exists()


# ---- odd lines lose the line, never the fetch
ODD = dict(pair=r"{'asin': 'B1', 'title': 'fun \ud83d\ude00 lamp'}", half=r"{'asin': 'B1', 'title': 'half \ud83d lamp'}", other_half=r"{'asin': 'B1', 'description': ['\ude00', 'ok']}",
           dictionary="{'asin': 'B1', 'title': {'en': 'Lamp'}}", number="{'asin': 'B1', 'title': 1984}", truth="{'asin': 'B1', 'brand': True}", octets="{'asin': 'B1', 'title': b'lamp'}",
           categories="{'asin': 'B1', 'categories': {'a': 1}}", mixed="{'asin': 'B1', 'categories': [['a', 3, {}], None, 'b', [[['deep']]]]}",
           deep="{'asin': 'B1', 'x': " + "[" * 40 + "]" * 40 + "}", nul="{'asin': 'B1', 'title': 'a\0b'}", nul_escaped=r"{'asin': 'B1', 'title': 'a\x00b'}",
           list_of_records="[{'asin': 'B1'}]", id_in_a_list="{'asin': ['B1'], 'x': {'asin': 'B1'}}", octet="{'asin': 'B1', 'title': 'caf\xe9'}", json='{"asin": "B1", "title": null, "salesRank": {}}',
           bom="\ufeff{'asin': 'B1', 'title': 'first'}", address=r"{'asin': 'B1', 'imUrl': 'http://[bad\ud83d'}", addresses="{'asin': 'B1', 'imUrl': ['http://a/b.jpg', 7]}")


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_line_of_metadata_costs_at_most_itself(kind, tmp_path):
    line = ODD[kind].encode("latin-1") if kind == "octet" else ODD[kind].encode()
    (p := tmp_path/"m.gz").write_bytes(gzip.compress(line + b"\n{'asin': 'B2', 'title': 'chair', 'brand': 'Oak'}\n"))
    t, wrong = read_metadata(p, ["B1", "B2"])
    t.to_parquet(tmp_path/"t.parquet")
    assert pd.read_parquet(tmp_path/"t.parquet")["title"].tolist()[1] == "chair"
    if kind == "pair": assert t["title"][0] == "fun \U0001f600 lamp"
    fine = kind in ("pair", "mixed", "bom", "octet")  # one bad byte costs one character
    assert fine == (wrong["unreadable"] + wrong.get("odd", 0) + wrong["absent"] == 0), (kind, wrong)


REVIEW = dict(reviewerID="A1", asin="B1", overall=5.0, unixReviewTime=1370000000)
ODD_REVIEWS = dict(half_user='"reviewerID": "A\\ud83d"', half_item='"asin": "\\ude00B"', nul='"asin": "B\\u0000"', octet='"asin": "B\xff"', newline='"reviewerID": "A\\n1"', blank='"asin": " "', number='"asin": 7',
                   listed='"asin": ["B1"]', dictionary='"reviewerID": {"id": "A1"}', none='"overall": null', nan='"overall": NaN', infinite='"overall": Infinity', huge='"overall": 1e999', word='"overall": "five"',
                   when_nan='"unixReviewTime": NaN', when_list='"unixReviewTime": []', when_far='"unixReviewTime": 99999999999999999999', when_ms='"unixReviewTime": 1370000000000', when_word='"unixReviewTime": "soon"',
                   deep='"x": ' + "[" * 100_000 + "]" * 100_000, digits='"unixReviewTime": ' + "9" * 5000)


@pytest.mark.parametrize("kind", ODD_REVIEWS)
def test_an_odd_review_is_lost_and_counted(kind, tmp_path):
    good = json.dumps(REVIEW)
    odd = good[:-1] + ", " + ODD_REVIEWS[kind] + "}"  # of two keys the last counts
    (p := tmp_path/"r.gz").write_bytes(gzip.compress("\n".join([good, odd, good.replace("A1", "A2")]).encode("latin-1")))
    t, bad = amazon.read_reviews(p)
    assert (len(t), bad) == (2, 1) and t["user"].tolist() == ["A1", "A2"]
    t.to_parquet(tmp_path/"t.parquet")


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.sampled_from(["title", "description", "imUrl", "categories", "brand"]),
                       st.recursive(st.text(st.characters(), max_size=9) | st.text(st.characters(categories=["Cs", "Cc", "Lu"]), max_size=9) | st.none() | st.integers() | st.binary(max_size=4),
                                    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3), x, max_size=2), max_leaves=6)))
def test_whatever_a_record_holds_is_written_to_parquet(fields):
    import tempfile
    with tempfile.TemporaryDirectory() as d:
        (p := Path(d)/"m.gz").write_bytes(gzip.compress(ascii(dict(fields, asin="B1")).encode()))
        t, wrong = read_metadata(p, ["B1", "B2"])
        t.to_parquet(Path(d)/"t.parquet")
        texts = [v for v in t.drop(columns="item").to_numpy().ravel() if v is not None]
        assert all(v.encode().decode() == v and v.strip() and "\0" not in v for v in texts)


def test_odd_records_do_not_end_a_fetch(host, world):
    "Surrogates, strange types and addresses that are none, in the files of a whole category."
    meta = [l for l in gzip.decompress(host.files[META]).decode().splitlines() if l]
    ids = [f"B{i:09d}" for i in range(1, 5)]
    meta = [l for l in meta if not any(i in l[:30] for i in ids)]
    meta += [ascii(dict(asin=i, title=t, imUrl=u)) for i, t, u in zip(ids, ("half \ud83d", 3, "nul \0", ["a", "b"]), ("http://[bad", "http://h:99999/x", "http://a\ud83db/\0", {"u": 1}))]
    host.files[META] = gzip.compress("\n".join(meta).encode())
    host.files[REVIEWS] = gzip.compress(gzip.decompress(host.files[REVIEWS]) + b'\n{"reviewerID": "A\\ud83d", "asin": "B000000001", "overall": 5, "unixReviewTime": 1300000000}')
    folder = fetch("sport", QUICK, progress=False)
    ds, notes = load_dataset("sport"), json.loads((folder/"dataset.json").read_text())["notes"]
    assert ds.n_items == 60 and notes["metadata_odd"] == 4 and notes["reviews_unreadable"] == 2
    assert ds.items.set_index("item").loc[ids, "title"].tolist()[2:] == ["nul", "a b"] and ds.items.set_index("item").loc[ids[0], "title"] == "half \ufffd"


def test_odd_lines_of_films_do_not_end_a_fetch(host, monkeypatch):
    "Too many fields, a byte that is no UTF-8, words for numbers, a film of which the line is lost, and odd answers of the film database."
    raw = films_zip()
    with zipfile.ZipFile(io.BytesIO(raw)) as z: files = {n: z.read(n) for n in z.namelist()}
    name = lambda n: f"ml-latest-small/{n}.csv"
    files[name("ratings")] += b"3,1,good,964982703\n4,,3.0,964982703\n5,1,3.0\n6,1,3.0,soon\n1,2,3,4,5,6\n7,900,4.0,964982703\n"
    files[name("movies")] = files[name("movies")].replace(b'2,"Film, The 2', b'2,"Film \xff The 2').replace(b'4,"Film, The 4 (1994)"', b"4,Film, The 4 (1994), x") + b"5,again (1999),Drama\n"
    files[name("links")] += b"5,0005,105\n"
    with zipfile.ZipFile(b := io.BytesIO(), "w") as z:
        for n, x in files.items(): z.writestr(n, x)
    host.files |= {"/files.grouplens.org/datasets/movielens/ml-latest-small.zip": b.getvalue()}
    host.files |= {f"{TMDB}/movie/{100 + m}": json.dumps(x).encode() for m, x in ((1, [1]), (2, "text"), (5, dict(overview="half \ud83d", poster_path=7)), (6, dict(overview=["a"])))}
    host.files |= {f"{TMDB}/search/movie": json.dumps(dict(results=dict(a=1))).encode()}
    monkeypatch.setenv("TMDB_API_KEY", "sesame")
    with pytest.warns(UserWarning, match="movielens is not"): fetch("movielens", QUICK, progress=False)
    ds = load_dataset("movielens")
    t, notes = ds.items.set_index("item"), ds.info["notes"]
    assert notes["ratings_unreadable"] == 5 and notes["films_unreadable"] == 2 and notes["films_absent"] == 2
    assert t.loc["2", "title"] == "Film \ufffd The 2 (1992)" and pd.isna(t.loc["4", "title"]) and pd.isna(t.loc["900", "released"]) and t.loc["5", "description"] == "half \ufffd"
    assert ds.n_interactions == 8 * 7 + 1


# ---- the folders at hand
@needs("baby", "clothing", "sport")
@pytest.mark.parametrize("name", ["baby", "clothing", "sport"])
def test_the_papers_counts_and_split(name):
    "Exactly the counts of the lineage, and the sizes of the split by chance."
    from mamex.protocol.splits import cold_split
    ds, s = load_or_fetch(name), sources.SOURCES[name]
    assert dict(users=ds.n_users, items=ds.n_items, interactions=ds.n_interactions) == s.counts
    split = cold_split(ds)
    assert (len(split.test_items), len(split.val_items)) == dict(baby=(705, 705), clothing=(2303, 2303), sport=(1835, 1836))[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sources.check_counts(name, ds.interactions, ds.n_items)
