"The one door from a dataset to vectors: what `auto` means, and that no hub, slow, dead or lying, holds anybody up."
import ast, http.server, json, os, socket, subprocess, sys, threading, time
from dataclasses import replace
import numpy as np, pandas as pd, pytest
from conftest import ROOT
from fastcore.basics import AttrDict
from mamex import cli, extractor
from mamex.base import UsageError, cache_dir
from mamex.datasets.folders import load_dataset, save_dataset
from mamex.datasets.toy import toy
from mamex.recommender import fitting
from mamex.studies import regenerate
from mamex.studies.lab import read_vectors
from mamex.vectors import choose
from mamex.vectors.choose import recipe_folder
from mamex.vectors.clip import import_open_clip
from mamex.vectors.offline import has_offline


@pytest.fixture(scope="module")
def ds(): return toy(n_users=20, n_items=60)


@pytest.fixture
def shop(ds): return replace(ds, name="shop")


@pytest.fixture
def machine(monkeypatch):
    "A machine with these three things, or without."
    def f(**there):
        for name in ("default_is_here", "hub_answers", "has_offline"): monkeypatch.setattr(choose, name, lambda x=there.get(name, False): x)
    return f


@pytest.fixture(autouse=True)
def asked_anew(): choose.answers.cache_clear(); yield; choose.answers.cache_clear()


@pytest.fixture
def serve():
    "A server on this machine; `handler`: status and headers, or None for one that takes the call and says nothing."
    open_ones = []
    def f(status, **headers):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.send_response(status)
                for k, v in headers.items(): self.send_header(k.replace("_", "-"), v)
                self.end_headers()
            def log_message(self, *a): pass
        s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler); open_ones.append(s)
        threading.Thread(target=s.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{s.server_address[1]}"
    yield f
    for s in open_ones: s.shutdown(); s.server_close()


@pytest.mark.parametrize("there, name", [
    (dict(default_is_here=True, hub_answers=False, has_offline=True), choose.DEFAULT), (dict(hub_answers=True, has_offline=True), choose.DEFAULT),
    (dict(has_offline=True), "offline")])
def test_what_auto_means(shop, machine, there, name):
    machine(**there)
    got, why = choose.choose_encoder(shop)
    assert got == name and why
    assert choose.choose_encoder(replace(shop, images=None))[0] == name  # texts alone
    assert choose.choose_encoder(replace(shop, items=shop.items[["item"]]))[0] == name  # pictures alone
    assert choose.choose_encoder(shop, "tiny") == ("tiny", "as asked for")


def test_nothing_to_be_had_names_the_remedies(shop, machine):
    machine()
    with pytest.raises(UsageError, match=r"no encoder for 'shop' can be had.*\[offline\].*ViT-B-32//path.*image_feat.npy"): choose.choose_encoder(shop)


def test_what_a_dataset_holds_comes_first(ds, shop, machine):
    machine()
    v = np.eye(60, dtype="float32")
    assert choose.choose_encoder(replace(ds, features=dict(text=v)))[0] == "ready"
    assert choose.choose_encoder(ds) == ("tiny", "toy's own")
    bare = replace(shop, images=None, items=shop.items[["item"]].assign(attributes="1 2", title=None, description=" <br> "))
    assert choose.choose_encoder(bare) == ("attributes", "neither pictures nor texts")
    with pytest.raises(UsageError): choose.choose_encoder(replace(bare, items=bare.items.assign(title="A cup")))  # a text wants an encoder
    with pytest.raises(UsageError, match="nothing to extract: text_columns can name brand$"):
        choose.choose_encoder(replace(bare, items=bare.items.drop(columns="attributes").assign(brand="X")))
    with pytest.raises(UsageError, match="add pictures or texts"): choose.choose_encoder(replace(bare, items=bare.items.drop(columns="attributes")))


def test_a_folder_of_that_name_is_not_toy(ds, machine):
    "Only the set made by code has random vectors chosen for it."
    machine(has_offline=True)
    assert choose.choose_encoder(replace(ds, truth=None))[0] == "offline"


def test_no_picture_and_no_text_names_the_encoder_that_would_do(shop):
    bare = replace(shop, images=None, items=shop.items[["item"]].assign(attributes=[f"{i % 3} {i % 2}" for i in range(60)]))
    with pytest.raises(UsageError, match="encoder='attributes' .-p encoder attributes."): extractor.extract(bare, "tiny")
    assert extractor.extract(bare, say=lambda s: None).modalities == ["attributes"]
    with pytest.raises(UsageError, match="brings no ready vectors"): extractor.extract(bare, "ready")


def test_every_name_of_the_table(ds, tmp_path, capsys):
    v = np.ones((60, 3), "float32")
    assert extractor.extract(replace(ds, features=dict(text=v)), "ready").key == "ready"
    assert extractor.extract(replace(ds, items=ds.items.assign(attributes=[f"{i % 3} {i % 2}" for i in range(60)])), "attributes").key == "attributes"
    F = extractor.extract(ds, "tiny", cache=tmp_path, progress=False)
    G = extractor.extract(ds, f"local-dir:{recipe_folder('tiny', tmp_path)}", cache=tmp_path, progress=False)
    assert (F.vectors["text"] == G.vectors["text"]).all() and F.key != G.key != ""
    if has_offline(): assert extractor.extract(replace(ds, images=None), "offline", text_columns=("title",), progress=False).vectors["text"].shape == (60, 384)
    for bad in ("ViT-B-32//nowhere/x.safetensors", "tinny"):
        with pytest.raises(UsageError): extractor.extract(ds, bad)
    assert capsys.readouterr().out == ""  # nothing was chosen
    assert extractor.extract(ds, cache=tmp_path, progress=False).fingerprint == F.fingerprint
    assert capsys.readouterr().out == "encoder: tiny (toy's own)\n"


def test_the_reports_door_is_this_one():
    from mamex.studies import best, clocks, regenerate
    assert best.extract is clocks.extract is extractor.extract and regenerate.choose_encoder is choose.choose_encoder


@pytest.mark.parametrize("columns, said", [(("titel",), "'titel'.*did you mean 'title'"), (dict(text=("title",), brand=("brand",)), "'brand'.*they have item, title, description"),
                                           ("titles", "did you mean 'title'")])
def test_a_column_that_is_not_there(ds, columns, said):
    with pytest.raises(UsageError, match=said): extractor.extract(ds, "tiny", text_columns=columns)


def test_columns_by_every_name(ds, tmp_path):
    texts = lambda c: extractor.extract(ds, "tiny", text_columns=c, cache=tmp_path, progress=False).modalities
    assert texts(["title"]) == texts("title") == texts(np.array(["title"])) == ["image", "text"]
    assert texts("each") == ["image", "text", "title", "description"] and texts(dict(said=["title"])) == ["image", "said"]


# the hub

def test_the_address_is_open_clips(): assert import_open_clip().get_pretrained_cfg(*choose.DEFAULT.split("/"))["hf_hub"].strip("/") == choose.DEFAULT_AT


def test_the_files_are_open_clips():
    from open_clip.pretrained import HF_WEIGHTS_NAME, _get_safe_alternatives
    assert choose.WEIGHTS == (*_get_safe_alternatives(HF_WEIGHTS_NAME), HF_WEIGHTS_NAME)


@pytest.mark.parametrize("status, headers, want", [
    (200, dict(x_repo_commit="abc"), True), (302, dict(x_repo_commit="abc", location="https://cdn/"), True), (307, dict(X_Repo_Commit="abc"), True),
    (200, {}, False), (302, dict(location="https://hotel/login"), False), (404, dict(x_repo_commit="abc"), False), (401, {}, False), (503, {}, False)])
def test_what_counts_as_an_answer(serve, status, headers, want): assert choose.answers(serve(status, **headers)) is want


def test_a_black_hole_takes_no_longer_than_is_allowed():
    "It takes the call and never speaks."
    with socket.create_server(("127.0.0.1", 0)) as hole:
        start = time.monotonic()
        assert not choose.answers(f"http://127.0.0.1:{hole.getsockname()[1]}", .5)
        assert time.monotonic() - start < 2
        start = time.monotonic(); assert not choose.answers(f"http://127.0.0.1:{hole.getsockname()[1]}", .5)  # not asked twice
        assert time.monotonic() - start < .1


def test_a_name_server_that_never_answers_takes_no_longer_either(monkeypatch):
    "No library gives up on this by itself."
    gate = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: (gate.wait(20), iter(()))[1])
    start = time.monotonic()
    try: assert not choose.answers("http://hub.invalid", .5)
    finally: gate.set()
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("endpoint", ["", "no address", "http://", "ftp://x.y", "http://127.0.0.1:9"])
def test_addresses_that_are_none(endpoint): assert choose.answers(endpoint, 1) is False


def test_said_to_be_offline_it_is_not_asked(monkeypatch, serve):
    monkeypatch.setenv("HF_ENDPOINT", serve(200, x_repo_commit="abc"))
    assert choose.hub_answers()
    for v in ("1", "true", "YES", "on"):
        monkeypatch.setenv("HF_HUB_OFFLINE", v); assert not choose.hub_answers()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0"); assert choose.hub_answers()


def test_the_hub_may_be_asked_first_thing_in_a_process():
    code = "from mamex.vectors import choose; print(choose.hub_endpoint(), choose.hub_answers())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"})
    assert done.stdout.split() == ["http://127.0.0.1:9", "False"], done.stderr[-500:]


def test_weights_in_the_hubs_cache_are_found(monkeypatch, tmp_path):
    import huggingface_hub
    find = huggingface_hub.try_to_load_from_cache
    monkeypatch.setattr(choose.huggingface_hub, "try_to_load_from_cache", lambda repo, f: find(repo, f, cache_dir=tmp_path))
    assert not choose.default_is_here()
    at = tmp_path / f"models--{choose.DEFAULT_AT.replace('/', '--')}"
    (at / "refs").mkdir(parents=True); (at / "refs" / "main").write_text("abc")
    (at / "snapshots" / "abc").mkdir(parents=True); (at / "snapshots" / "abc" / choose.WEIGHTS[0]).write_bytes(b"w")
    assert choose.default_is_here()


# every door

@pytest.fixture(scope="module")
def shops(tmp_path_factory):
    "Folders: a shop with pictures and texts, one that files its items and shows nothing, one that brings its vectors."
    to, base = tmp_path_factory.mktemp("shops"), replace(toy(n_users=60, n_items=80), truth=None)
    bare = replace(base, images=None, items=base.items[["item"]].assign(attributes=[f"{i % 3} {i % 5}" for i in range(80)]))
    rng = np.random.default_rng(0)
    with_vectors = replace(base, images=None, features=dict(text=rng.normal(size=(80, 6)).astype("float32")))
    for name, ds in dict(shown=base, filed=bare, encoded=with_vectors).items(): save_dataset(replace(ds, name=name), to / name)
    return to


def by_reports(folder, encoder, to, whole):  # the vectors' fingerprint or its beginning, what is said
    "`make reports`: the encoder that it settles on, and what run.ipynb makes of it; `whole`: papermill runs all of it."
    given = dict(epochs="1", seeds="0", k_core="0") | ({} if encoder == "auto" else dict(encoder=encoder))
    plan, said = regenerate.make_plan(str(folder), given, ROOT / "nbs")
    if not whole:
        return read_vectors(load_dataset(folder), AttrDict(encoder=plan.parameters["encoder"], device="cpu", long_text="cut")).fingerprint, said
    p = subprocess.run(regenerate.command(plan, "run", to / "run.ipynb"), cwd=to, capture_output=True, text=True,
                       env=os.environ | dict(MAMEX_REPORTS=str(to / "reports")))
    assert p.returncode == 0, p.stdout[-2000:] + p.stderr[-2000:]
    return json.loads((to / "reports" / folder.name / "run.json").read_text())["card"]["features"]["fingerprint"], said


def by_command(folder, encoder, to, monkeypatch):
    "What `mamex fit` hands to the recommender."
    made = []
    def extract(*a, **k): made.append(extractor.extract(*a, **k)); return made[-1]
    monkeypatch.setattr(fitting, "extract", extract)
    told = [] if encoder == "auto" else ["--encoder", encoder]
    assert cli.main(["fit", str(folder), "--to", str(to / "model"), "--preset", "released", "--set", "epochs=1", *told]) == 0
    return made[0].fingerprint


@pytest.mark.parametrize("shop, encoder, means", [
    pytest.param("filed", "attributes", "attributes", marks=pytest.mark.slow), ("filed", "auto", "attributes"), ("encoded", "auto", "ready"),
    ("encoded", "ready", "ready"), ("shown", "tiny", "tiny"), ("shown", "local-dir:{}", "local-dir:{}"),
    pytest.param("shown", "offline", "offline", marks=[pytest.mark.slow, pytest.mark.skipif(not has_offline(), reason="needs the extra 'offline'")])])
def test_the_same_vectors_by_every_door(shops, shop, encoder, means, tmp_path, monkeypatch, capsys):
    "Python, a notebook as `make reports` runs it, and `mamex fit`."
    encoder, means = (e.format(recipe_folder("tiny", cache_dir())) for e in (encoder, means))
    want = extractor.extract(load_dataset(shops / shop), encoder, progress=False)
    assert want.encoder == means and (f"encoder: {means} (" in capsys.readouterr().out) == (encoder == "auto")
    fingerprint, said = by_reports(shops / shop, encoder, tmp_path, whole=encoder == "attributes")
    assert want.fingerprint.startswith(fingerprint)
    capsys.readouterr()
    assert encoder != "auto" or ("vectors that the folder brings" if means == "ready" else f"encoder {means} (") in said
    assert by_command(shops / shop, encoder, tmp_path, monkeypatch) == want.fingerprint
    assert (f"encoder: {means} (" in "".join(capsys.readouterr())) == (encoder == "auto")


def test_auto_asks_the_columns_that_are_read(shops, machine, tmp_path):
    "A shop that says nothing but a brand: `make reports` with these text columns means what the notebook means with them."
    machine(has_offline=True)
    ds = load_dataset(shops / "filed")
    save_dataset(replace(ds, items=ds.items[["item"]].assign(brand="Oak & Co")), tmp_path / "brands")
    plan, _ = regenerate.make_plan(str(tmp_path / "brands"), dict(text_columns="[brand]"), ROOT / "nbs")
    assert plan.parameters["encoder"] == "offline"
    with pytest.raises(UsageError, match="text_columns can name brand"): regenerate.make_plan(str(tmp_path / "brands"), {}, ROOT / "nbs")


def test_nobody_goes_around_the_door():
    """An `Extractor` is made by the door, and where there is none to go through: for a recommender's new items, which are encoded as the old ones
    were; on a worker, which gets the specification of one that came through it; and for drawn pictures, of which only the time is asked."""
    makers = {p.relative_to(ROOT / "mamex").as_posix() for p in (ROOT / "mamex").rglob("*.py") for n in ast.walk(ast.parse(p.read_text(encoding="utf-8")))
              if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Extractor"}
    assert makers == {"extractor.py", "recommender/adding.py", "cluster/shards.py", "studies/cost.py"}
