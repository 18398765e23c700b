"`mamex serve`: bounds that hold for whatever is sent, a model that is replaced under load, additions that a kill does not lose."
import asyncio, base64, io, json, os, random, re, shutil, signal, socket, sys, threading, time
from dataclasses import replace as changed

import numpy as np
import pytest
for name in ("fastapi", "fastapi_offline", "httpx", "prometheus_client", "uvicorn"): pytest.importorskip(name, reason="needs the extra serve")
from hypothesis import HealthCheck, given, settings, strategies as st
from httpx import ASGITransport, AsyncClient
from PIL import Image
from load import Client, crowd, load, memory, questions, served
from mamex.base import UsageError
from mamex.cli import main
from mamex.datasets.toy import toy
from mamex.recommender import Recommender, live as living, serving
from mamex.recommender.door import Door, Refused, work
from mamex.recommender.limits import BODY, ITEMS_BODY, K, PICTURE, USERS, Question, as_id, read_json
from mamex.recommender.live import Live, add, look, mark, start
from mamex.recommender.serving import application

pytestmark = pytest.mark.filterwarnings("ignore")
QUICK = dict(deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Of 50 items nobody has met the last six."
    shop = toy(n_users=60, n_items=50)
    shop = changed(shop, interactions=shop.interactions[shop.interactions["item"] < 44].reset_index(drop=True))
    return Recommender.fit(shop, "tiny", progress=False).save(tmp_path_factory.mktemp("serve")/"model")


@pytest.fixture
def model(folder, tmp_path): return shutil.copytree(folder, tmp_path/"model")


@pytest.fixture(scope="module")
def app(folder):
    with_it = start(Live(folder))
    yield application(with_it)
    with_it.close()


def send(app, *asked, **how):
    "Requests one after the other, or with `together` at once; each (method, path, arguments)."
    async def all_of_them():
        transport = ASGITransport(app, raise_app_exceptions=False, client=how.get("client", ("127.0.0.1", 1)))
        async with AsyncClient(transport=transport, base_url="http://shop", timeout=60) as c:
            each = [c.request(m, p, **k) for m, p, k in asked]
            return await asyncio.gather(*each) if how.get("together") else [await e for e in each]
    return asyncio.run(all_of_them())

def post(app, path, value): return raw(app, path, json.dumps(value).encode())
def raw(app, path, content, kind="application/json", **headers):
    return send(app, ("POST", path, dict(content=content, headers={"content-type": kind, **headers})))[0]
def picture(size=8):
    Image.new("RGB", (size, size), "red").save(b := io.BytesIO(), "PNG")
    return base64.b64encode(b.getvalue()).decode()


# ---- answers
@pytest.mark.parametrize("among", ["new", "all", ["i0007", "i0003", "i0044"], ["new", "i0001"]])
@pytest.mark.parametrize("seen", [True, False])
def test_the_answer_is_what_recommend_gives(app, folder, among, seen):
    rec, histories = Recommender.load(folder), {"walk-in": ["i0002", "i0005"], "idle": []}
    t = rec.recommend(["u0003", "u0001"], 7, among, seen, histories)
    r = post(app, "/recommend", dict(users=["u0003", "u0001"], k=7, among=among, exclude_seen=seen, histories=histories)).json()
    assert list(r["recommendations"]) == t["user"].unique().tolist() and r["said"] == t.attrs["said"]
    for u, g in t.groupby("user"):
        lines = r["recommendations"][u]
        assert [l["item"] for l in lines] == g["item"].tolist() and [l["title"] for l in lines] == g["title"].tolist()
        np.testing.assert_allclose([l["score"] for l in lines], g["score"], rtol=1e-6)


def test_filters_and_what_is_left_out(app):
    r = post(app, "/recommend", dict(users=["u0000", "gone"], k=9, exclude=["i0046", "none"], allowed=["i0046", "i0045", "i0044"])).json()
    assert {l["item"] for l in r["recommendations"]["u0000"]} == {"i0045", "i0044"}
    assert r["unserved"] == {"gone": "unknown"} and not r["complete"] and "'none'" in " ".join(r["said"])


def test_explanations(app, folder):
    rec = Recommender.load(folder)
    r, e = post(app, "/explain", dict(item="i0046", user="u0003", n=3)).json(), rec.explain("i0046", 3, "u0003")
    assert r["title"] == e.title and [x["item"] for x in r["neighbours"]] == e.neighbours["item"].tolist()
    assert r["why"]["score"] == pytest.approx(e.why.score)
    assert sum(x["share"] for x in r["why"]["items"]) + r["why"]["further"] + r["why"]["rest"] == pytest.approx(e.why.score, abs=1e-6)
    assert post(app, "/explain", dict(item="i0046", history=["i0002"])).status_code == 200


def test_the_page_loads_nothing_from_elsewhere(app):
    page = send(app, ("GET", "/docs", {}))[0].text
    links = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert links and all(l.startswith("/") for l in links) and "//" not in "".join(links)
    assert {r.status_code for r in send(app, *[("GET", l, {}) for l in links])} == {200}
    spec = send(app, ("GET", "/openapi.json", {}))[0].json()
    assert spec["paths"]["/recommend"]["post"]["requestBody"] and spec["components"]["schemas"]["Question"]["properties"]["k"]["maximum"] == K


# ---- bounds
values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
                      lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=8), x, max_size=4), max_leaves=12)
FIELDS = dict(recommend=["users", "histories", "k", "among", "exclude_seen", "exclude", "allowed"], explain=["item", "n", "user", "history"],
              items=["items", "pictures", "replace"])

@pytest.mark.parametrize("word", FIELDS)
@settings(max_examples=60, **QUICK)
@given(data=st.data())
def test_whatever_is_sent_is_answered_or_refused_in_a_sentence(app, word, data):
    body = data.draw(st.dictionaries(st.sampled_from([*FIELDS[word], "other"]), values | st.sampled_from(["u0001", ["u0001"], ["i0001"], 3]), max_size=4) | values)
    r = post(app, f"/{word}", body)
    assert r.status_code in (200, 403, 422), r.text
    if r.status_code != 200: assert r.json()["error"].endswith(".") and "Traceback" not in r.text


@settings(max_examples=60, **QUICK)
@given(body=st.binary(max_size=60) | st.text(max_size=40).map(str.encode) | values.map(lambda v: json.dumps(v).encode()[:-1]))
def test_bytes_that_are_no_question_are_refused(app, body):
    r = raw(app, "/recommend", body)
    assert r.status_code in (400, 422) and r.json()["error"], r.text


@pytest.mark.parametrize("body, says", [
    (b'{"users": ["u0001"], "k": NaN}', "NaN"), (b'{"users": ["u0001"], "k": Infinity}', "Infinity"), (b'{"users": ["u0001"], "k": 1e400}', "k is"),
    (b'{"users": ["u0001"], "k": ' + b"9"*400 + b"}", "k is a huge number"), (b'{"users": ["u0001"], "k": ' + b"9"*5000 + b"}", "too many digits"),
    (b"["*200_000, "nested too deeply"), (b'{"a":'*50_000 + b"1" + b"}"*50_000, "nested too deeply"), (b'{"users": ["u0001"], "users": []}', "stands twice"),
    (b'{"users": ["\\ud800"]}', "half of a pair"), (b'{"histories": {"\\ud800": ["i0001"]}}', "half of a pair"), (b'{"\\ud800": 1}', "half of a pair"),
    (b'{"users": ["u0001"', "no JSON"), (b"", "the body"), (b"\xff\xfe", "not UTF-8"), (b"null", "the body is null"), (b'"u0001"', "the body"), (b"[]", "a list")])
def test_odd_json_is_refused(app, body, says):
    r = raw(app, "/recommend", body)
    assert r.status_code in (400, 422) and says in r.json()["error"], r.text


@pytest.mark.parametrize("value, says", [
    ({}, "name at least one user"), (dict(users=["u0001"], k=0), "k is 0: at least 1"), (dict(users=["u0001"], k=K + 1), f"at most {K}"), (dict(users=["u0001"], k="3"), "k is '3'"),
    (dict(users=["u0001"], k=True), "k is true"), (dict(users=["u0001"], k=2.5), "k is 2.5"), (dict(users=["x"]*(USERS + 1)), "1,001 entries"), (dict(users=["u" * 201]), "users.0 has 201 signs"),
    (dict(users=[""]), "users.0 is an empty id"), (dict(users=[None]), "users.0 is null"), (dict(users=[[]]), "users.0 is a list"), (dict(histories={"a": "i0001"}), "histories.a is 'i0001': it is a list"),
    (dict(histories={"a": ["i"]*1001}), "histories.a holds 1,001"), (dict(users=[f"u{n}" for n in range(600)], histories={f"h{n}": [] for n in range(600)}), "1,200 users"),
    (dict(users=[f"u{n}" for n in range(100)], k=1000), "lower k"), (dict(users=["u0001"], amongst="all"), "amongst is no field"), (dict(users=["u0001"], among=[]), "among is empty"),
    (dict(users=["u0001"], among="i9999"), "among is 'i9999'"), (dict(users=["nobody"]), "nobody can be served"), (dict(users=["u0001"], exclude_seen="no"), "true or false"),
    (dict(users=["u0001"], among=["x"]*10_001), "10,001 entries")])
def test_bounds_name_the_field_and_the_remedy(app, value, says):
    r = post(app, "/recommend", value)
    assert r.status_code == 422 and says in r.json()["error"] and len(r.text) < 1000, r.text


@pytest.mark.parametrize("kind, headers, status", [("text/plain", {}, 415), ("application/x-www-form-urlencoded", {}, 415), ("multipart/form-data; boundary=x", {}, 415),
                                                   ("application/json", {"content-encoding": "gzip"}, 415), ("application/json; charset=utf-8", {}, 200)])
def test_the_kind_of_a_body(app, kind, headers, status):
    assert raw(app, "/recommend", b'{"users": ["u0001"]}', kind, **headers).status_code == status


def test_other_methods_and_paths(app):
    asked = [("GET", "/recommend", {}), ("PUT", "/items", dict(json={})), ("GET", "/nothing", {}), ("GET", "/static-offline-docs/../../etc/passwd", {}),
             ("GET", "/static-offline-docs/%2e%2e/%2e%2e/core.py", {}), ("GET", "/static-offline-docs//etc/passwd", {})]
    got = send(app, *asked)
    assert [r.status_code for r in got] == [405, 405, 404, 404, 404, 404] and all("root:" not in r.text for r in got)


@pytest.mark.parametrize("path, most", [("/recommend", BODY), ("/explain", BODY), ("/items", ITEMS_BODY)])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_bounded_with_and_without_a_length(app, path, most, chunked):
    async def parts():
        for _ in range(most // 2**20 + 2): yield b" " * 2**20
    r = raw(app, path, parts() if chunked else b" " * (most + 1))
    assert r.status_code == 413 and "MiB" in r.json()["error"]
    assert raw(app, path, b" " * 1000).status_code in (400, 403, 422)  # and the room is free again


@settings(max_examples=100, **QUICK)
@given(st.text() | st.integers() | st.none() | st.floats() | st.booleans() | st.lists(st.text(), max_size=2))
def test_an_id_is_text_within_bounds(v):
    try: out = as_id(v)
    except ValueError: return
    assert 0 < len(out) <= 200 and out.encode() and out == str(v) and type(v) in (str, int)


# ---- new items
def test_items_are_refused_unless_the_server_is_writable(app, folder):
    before = mark(folder)
    r = post(app, "/items", dict(items=[dict(item="x", title="A lamp of oak")]))
    assert r.status_code == 403 and "--writable" in r.json()["error"] and mark(folder) == before


@pytest.fixture
def writable(model):
    with_it = start(Live(model, writable=True))
    yield with_it
    with_it.close()


def test_items_come_into_the_folder_and_the_service(writable, model):
    app = application(writable)
    rows = [dict(item="a", title="A lamp of oak"), dict(item=7, title="A cup of clay"), dict(item="i0001", title="x"), dict(item="b", nothing=None)]
    r = post(app, "/items", dict(items=rows, pictures={"7": picture()}))
    assert r.status_code == 200 and {k: r.json()[k] for k in ("added", "known", "unread", "items")} == dict(added=["a", "7"], known=["i0001"], unread=["b"], items=52)
    assert '"replace": true' in " ".join(r.json()["said"]) and "--replace" not in r.text
    again = Recommender.load(model)
    assert again.item_at[-2:].tolist() == ["a", "7"] and not list(writable.scratch.rglob("*.safetensors"))
    r = post(app, "/recommend", dict(users=["u0001"], among=["a", "7"])).json()["recommendations"]["u0001"]
    t = again.recommend(["u0001"], among=["a", "7"])
    assert [l["item"] for l in r] == t["item"].tolist()
    assert post(app, "/items", dict(items=rows[:1])).status_code == 422  # it is known now
    r = post(app, "/items", dict(items=[dict(item="a", title="A lamp of steel")], replace=True))
    assert r.status_code == 200 and Recommender.load(model).items.set_index("item")["title"]["a"] == "A lamp of steel"


@pytest.mark.parametrize("value, says", [
    (dict(items=[]), "items is empty"), (dict(items=[dict(title="x")]), "items.0.item is missing"), (dict(items=[dict(item="x")]*101), "101 entries"),
    (dict(items=[dict(item="x", title="y" * 20_001)]), "items.0.title has 20,001 signs"), (dict(items=[dict(item="x", title={})]), "items.0.title is an object"),
    (dict(items=[dict(item="x", price=1e300)]), "items.0.price is a number beyond"), (dict(items=[{"item": "x"} | {f"c{n}": 1 for n in range(100)}]), "100 columns"),
    (dict(items=[dict(item="x", title="y"), dict(item="x", title="z")]), "stands twice"), (dict(items=[dict(item="x")], pictures={"x": "a" * (PICTURE * 4 // 3 + 8)}), "larger than 8 MiB"),
    (dict(items=[dict(item="x", title="y")], pictures={"y": picture()}), "not among the new items"), (dict(items=[dict(item="x")], pictures={"x": base64.b64encode(b"GIF89a").decode()}), "pictures.x"),
    (dict(items=[dict(item="x", colour="red")]), "reads nothing"), (dict(items=[{"item": "x", "y" * 201: 1}]), "201 signs"), (dict(items=[dict(item="x", labels=["a", 1])]), "other things than texts")])
def test_bounds_of_new_items(writable, value, says):
    before = mark(writable.folder)
    r = post(application(writable), "/items", value)
    assert r.status_code == 422 and says in r.json()["error"] and len(r.text) < 1000, r.text
    assert mark(writable.folder) == before and "x" not in writable.rec.item_at


def test_no_path_of_a_request_is_opened(writable, tmp_path):
    "Names of files, links and devices in every place of a request: none of them is looked at."
    (secret := tmp_path/"secret-zq.png").write_bytes(base64.b64decode(picture()))
    (link := tmp_path/"link-zq.png").symlink_to(secret)
    names, opened = [str(secret), str(link), "../secret-zq.png", f"file://{secret}", "/dev/zq", "~/zq", "secret-zq.png\0"], []
    watching = [True]
    sys.addaudithook(lambda what, args: watching and what in ("open", "os.listdir", "os.scandir") and opened.append(str(args[0])))
    app = application(writable)
    for n in names:
        post(app, "/recommend", dict(users=["u0001", n], histories={n: [n, "i0001"]}, among=["new", n], exclude=[n], allowed=[n, "i0045"]))
        post(app, "/explain", dict(item=n, user=n)), post(app, "/explain", dict(item="i0001", history=[n, "i0002"]))
        assert post(app, "/items", dict(items=[dict(item="x", title="y")], pictures={"x": n})).status_code == 422
        post(app, "/items", dict(items=[{"item": n, "title": f"A lamp of oak {n}", "image": n, "picture": n, "_picture": n, "image_url": n, n: n}], replace=True))
        send(app, ("GET", "/" + n.replace("\0", ""), {}), ("GET", "/static-offline-docs/" + n.replace("\0", ""), {}))
    watching.clear()
    mine = [o for o in opened if "zq" in o and "static" not in o]
    assert opened and not mine, mine


def test_a_full_disk_and_a_broken_folder_lose_nothing(writable, monkeypatch):
    before = mark(writable.folder)
    def full(*a): raise OSError(28, "No space left on device")
    with monkeypatch.context() as m:
        m.setattr(Recommender, "save", full)
        r = post(app := application(writable), "/items", dict(items=[dict(item="x", title="A lamp")]))
    assert r.status_code == 507 and "No space left" in r.json()["error"] and mark(writable.folder) == before and "x" not in writable.rec.item_at
    (writable.folder/"items.parquet").write_bytes(b"nothing")
    r = post(app, "/items", dict(items=[dict(item="x", title="A lamp")]))
    assert r.status_code == 503 and "nothing was added" in r.json()["error"] and (writable.folder/"items.parquet").read_bytes() == b"nothing"
    assert post(app, "/recommend", dict(users=["u0001"])).status_code == 200


# ---- the door
def slow(seconds):
    def recommended(rec, q, tick):
        end = time.monotonic() + seconds
        while time.monotonic() < end: time.sleep(.01); tick()
        return b"{}"
    return recommended


def test_beyond_the_queue_everybody_hears_at_once(folder, monkeypatch):
    monkeypatch.setattr(serving, "recommended", slow(.5))
    app = application(start(Live(folder)), at_once=1, waiting=2)
    ask = ("POST", "/recommend", dict(json=dict(users=["u0001"])))
    start_at = time.monotonic()
    got = send(app, *[ask]*12, ("GET", "/healthz", {}), ("GET", "/metrics", {}), together=True)
    assert sorted(r.status_code for r in got[:12]) == [200]*3 + [429]*9 and got[12].status_code == got[13].status_code == 200
    assert all(int(r.headers["retry-after"]) >= 1 and "come again" in r.json()["error"] for r in got if r.status_code == 429)
    assert time.monotonic() - start_at < 8 and app.state.door.working == app.state.door.waiting == 0
    assert re.search(r'mamex_requests_total\{path="/recommend",status="429"\} 9', send(app, ("GET", "/metrics", {}))[0].text)


def test_work_ends_soon_after_its_deadline(folder, monkeypatch):
    monkeypatch.setattr(serving, "recommended", slow(30))
    app = application(start(Live(folder)), at_once=1, waiting=4, seconds=.3)
    got = send(app, *[("POST", "/recommend", dict(json=dict(users=["u0001"])))]*3, together=True)
    assert [r.status_code for r in got] == [503]*3 and "0.3 s" in got[0].text
    end = time.monotonic() + 5
    while app.state.door.pool._work_queue.qsize() and time.monotonic() < end: time.sleep(.01)
    assert app.state.door.pool.submit(int, 3).result(5) == 3  # its thread is free again


@settings(max_examples=15, **QUICK)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 12))
def test_a_door_keeps_its_numbers(at_once, waiting, n):
    most, lock, now = [0], threading.Lock(), [0]
    def busy(tick):
        with lock: now[0] += 1; most[0] = max(most[0], now[0])
        time.sleep(.01)
        with lock: now[0] -= 1
        return 1
    async def all_of_them():
        door = Door(at_once, waiting)
        return await asyncio.gather(*(work(door, busy) for _ in range(n)), return_exceptions=True)
    got = asyncio.run(all_of_them())
    refused = [x for x in got if isinstance(x, Refused)]
    assert most[0] <= at_once and len(refused) == max(0, n - at_once - waiting) and all(x.status == 429 for x in refused)


def test_a_fault_of_ours_is_told_without_its_inside(folder, monkeypatch):
    def broken(*a): raise KeyError("a secret")
    monkeypatch.setattr(serving, "recommended", broken)
    r = post(application(start(Live(folder))), "/recommend", dict(users=["u0001"]))
    assert r.status_code == 500 and "secret" not in r.text and r.json()["error"]


@pytest.mark.parametrize("n", [1, 4])
def test_threads_that_answer_at_once_give_what_one_gives(folder, n):
    "Over one model and its kept factor, with vectors wide enough that threads meet inside a solve."
    from mamex.recommender.folding import FoldIn
    from mamex.recommender.ranking import quick
    rng = np.random.default_rng(0)
    e = rng.normal(size=(900, 500)).astype(np.float32)
    plain = FoldIn(e, np.ones(900, bool), 1.)
    kept, sums = quick(plain), rng.normal(size=(40, 500))
    want, odd = plain.solve(sums, .1), []
    rec = living.warmed(Recommender.load(folder))
    q = Question(users=["u0001"], histories={"a": ["i0002", "i0005"]})
    answer = serving.recommended(rec, q, lambda: None)
    def go(k):
        for i in range(120):
            j = (7*k + i) % 40
            if not np.allclose(kept.solve(sums[j:j+1], .1), want[j], rtol=1e-6, atol=1e-10): odd.append(j)
            if serving.recommended(rec, q, lambda: None) != answer: odd.append("answer")
    threads = [threading.Thread(target=go, args=(k,)) for k in range(n)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert not odd


# ---- another model
def test_a_broken_model_leaves_the_old_one_in_service(model):
    with_it = start(Live(model))
    app, before = application(with_it), (model/"items.safetensors").read_bytes()
    for spoil in (lambda: (model/"items.safetensors").write_bytes(before[:-1]), lambda: (model/"recommender.json").write_text("{"),
                  lambda: shutil.rmtree(model)):
        spoil()
        r = send(app, ("POST", "/reload", {}), ("GET", "/healthz", {}), ("GET", "/metrics", {}), ("POST", "/recommend", dict(json=dict(users=["u0001"]))))
        assert [x.status_code for x in r] == [200]*4 and r[0].json()["loaded"] is False
        assert r[1].json()["status"] == "stale" and "older model" in r[1].json()["said"][0] and "mamex_model_stale 1.0" in r[2].text
        assert str(model.parent) not in r[1].text
    assert not look(with_it) and with_it.failed >= 3


def test_only_this_machine_asks_for_a_reload(app):
    assert send(app, ("POST", "/reload", {}), client=("10.0.0.7", 1))[0].status_code == 403


def test_two_writers_take_turns(model):
    "Two servers and `mamex add` on one folder: whatever was said to be added is there."
    both, said = [start(Live(model, writable=True)) for _ in "12"], []
    from mamex.recommender.limits import NewItems
    def writes(l, name):
        for n in range(4): said.extend(add(l, NewItems(items=[dict(item=f"{name}{n}", title="A lamp of oak")]))["added"])
    threads = [threading.Thread(target=writes, args=(l, n)) for l, n in zip(both, "ab")]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(said) == 8 and set(said) <= set(Recommender.load(model).item_at)
    for l in both: look(l); assert set(said) <= set(l.rec.item_at); l.close()


# ---- a server of its own process
@pytest.mark.slow
def test_a_model_is_replaced_while_it_is_asked(model):
    "Nobody is refused, the new item is ranked in the end, and SIGTERM ends with status 0."
    bodies = questions(model)
    with served(model, "--every", .2) as (p, port):
        out, done = [], threading.Event()
        asking = threading.Thread(target=lambda: out.extend(asyncio.run(crowd(port, bodies, 4, 8))) or done.set())
        asking.start()
        for n in range(3):
            time.sleep(.7)
            Recommender.load(model).add_items(dict(item=f"n{n}", title="A lamp of oak")).save(model)
            if n == 1: p.send_signal(signal.SIGHUP)
        done.wait(60); asking.join()
        async def asked():
            status, body, _ = await Client(port).post("/recommend", json.dumps(dict(users=["u0001"], among=["n0", "n1", "n2"])).encode())
            return status, {l["item"] for l in json.loads(body)["recommendations"]["u0001"]}
        assert len(out) > 10 and {s for s, _ in out} == {200}
        assert asyncio.run(asked()) == (200, {"n0", "n1", "n2"})
        p.send_signal(signal.SIGTERM)
        assert p.wait(30) == 0


@pytest.mark.slow
def test_who_is_inside_is_served_before_the_end(model):
    with served(model) as (p, port):
        body = json.dumps(dict(users=[f"u{n:04d}" for n in range(60)], among="all", k=50)).encode()
        async def last():
            clients = [Client(port) for _ in range(6)]
            for c in clients: await c.post("/recommend", body)  # connected
            asked = [asyncio.create_task(c.post("/recommend", body)) for c in clients]
            await asyncio.sleep(.02)
            p.send_signal(signal.SIGTERM)
            return [status for status, _, _ in await asyncio.gather(*asked)]
        assert asyncio.run(last()) == [200]*6 and p.wait(30) == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_kill_loses_no_item_that_was_said_to_be_added(model, seed):
    said, r = [], random.Random(seed)
    with served(model, "--writable") as (p, port):
        async def adding():
            c = Client(port)
            for n in range(1000):
                status, body, _ = await c.post("/items", json.dumps(dict(items=[dict(item=f"n{n}", title="A lamp of oak")])).encode())
                assert status == 200
                said.extend(json.loads(body)["added"])
        def until_killed():
            try: asyncio.run(adding())
            except OSError: pass
        t = threading.Thread(target=until_killed); t.start()
        end = time.monotonic() + 60
        while len(said) < 2 and time.monotonic() < end: time.sleep(.01)
        time.sleep(r.random())
        p.kill(); p.wait(); t.join()
    there = Recommender.load(model)
    assert len(said) >= 2 and set(said) <= set(there.item_at) and len(there.item_at) - 50 - len(said) in (0, 1)
    with served(model, "--writable"): pass  # and it serves again


@pytest.mark.slow
@pytest.mark.parametrize("options, host, status", [
    ((), "127.0.0.1:{}", 200), ((), "localhost", 200), ((), "[::1]:{}", 200), ((), None, 200),
    ((), "elsewhere.example:{}", 421), ((), "127.0.0.1.elsewhere.example", 421), ((), "elsewhere.example:127.0.0.1", 421),
    (("--name", "shop.example"), "Shop.Example", 200), (("--host", "0.0.0.0"), "elsewhere.example", 200)])
def test_a_server_of_this_machine_is_asked_by_its_own_names(model, options, host, status):
    "A page elsewhere may let a name of its own point here; a browser then asks under that name."
    with served(model, *options) as (p, port), socket.create_connection(("127.0.0.1", port), 20) as s:
        name = f"host: {host.format(port)}\r\n" if host else ""
        s.sendall(f"GET /healthz HTTP/1.{1 if host else 0}\r\n{name}connection: close\r\n\r\n".encode())
        said = b"".join(iter(lambda: s.recv(65536), b""))
        assert int(said.split()[1]) == status and (status == 200 or b"or start it with --name" in said)


def test_slow_clients_do_not_stay(model):
    with served(model, "--seconds", 1, "--connections", 4) as (p, port):
        def until_closed(first: bytes) -> tuple[float, bytes]:
            with socket.create_connection(("127.0.0.1", port), 20) as s:
                start_at, got = time.monotonic(), b""
                if first: s.sendall(first)
                try:
                    while part := s.recv(9999): got += part
                except ConnectionResetError: pass
                return time.monotonic() - start_at, got
        head = b"POST /recommend HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        for first, says in ((b"", b""), (b"GET /heal", b""), (head, b""), (head + b"content-length: 100\r\n\r\n{", b"408"),
                            (b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n", b"200 OK"), (b"\x16\x03\x01nonsense\r\n\r\n", b"400")):
            took, got = until_closed(first)
            assert took < 8 and says in got, (first, took, got)
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
        time.sleep(.2)
        assert b"503" in until_closed(b"")[1]  # beyond the number nobody is let in
        for s in idle: s.close()
        time.sleep(.3)
        assert b"200 OK" in until_closed(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")[1]


@pytest.mark.slow
def test_load_and_memory(model):
    "A few seconds of many clients: all are served, or told to come again, and the memory stays."
    bodies = questions(model)
    with served(model, "--waiting", 4) as (p, port):
        load(port, bodies, 8, 3)
        before = memory(p)
        few, many = load(port, bodies, 2, 2), load(port, bodies, 32, 5)
        assert set(few["statuses"]) == {200} and set(many["statuses"]) <= {200, 429} and many["refused"] > 0
        assert memory(p) < before * 1.1 + 5e6


# ---- the command
def test_what_cannot_be_served_is_said_in_a_sentence(tmp_path, model, capsys):
    with socket.create_server(("127.0.0.1", 0)) as s:
        for words, says in (([str(tmp_path/"none"), "--port", "0"], "holds no recommender"), ([str(model), "--port", str(s.getsockname()[1])], "--port"),
                            ([str(model), "--port", "99999"], "--port"), ([str(model), "--host", "no.such.host.invalid"], "--host"),
                            ([str(model), "--seconds", "0"], "--seconds is 0.0"), ([str(model), "--waiting", "-1"], "--waiting"), ([str(model), "--every", "nan"], "--every")):
            assert main(["serve", *words]) == 2
            err = capsys.readouterr().err
            assert says in err and len(err.strip().splitlines()) == 1, err
