"The page of recommendations: words of strangers stay words, nothing is loaded, every picture is named; the commands that write it."
import json, os, resource, subprocess, sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from mamex import cli
from mamex.base import UsageError
from mamex.datasets.folders import save_dataset
from mamex.datasets.pictures import Images
from mamex.datasets.toy import toy
from mamex.recommender.core import Recommender
from mamex.recommender.page import MOST_CARDS, MOST_USERS, READING, View, cut, dataset_of, given_pictures, html_page, latest_of, thumbnail
from mamex.recommender.tour import without_tomorrow
from conftest import ROOT

VOID = {"meta", "img", "link", "br", "hr", "input", "base"}


class Page(HTMLParser):
    "What a browser would find: elements and their attributes, texts, headings; unbalanced elements fail."
    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.texts, self.headings = [], [], [], []
        self.feed(source); self.close()
        assert not self.open, self.open
    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID: self.open.append(tag)
        if tag in ("h1", "h2", "h3", "h4"): self.headings.append(int(tag[1]))
    def handle_endtag(self, tag): assert self.open.pop() == tag
    def handle_data(self, data):
        if "style" not in self.open: self.texts.append(data)
    def all(self, tag): return [a for t, a in self.tags if t == tag]
    def classed(self, name): return [a for _, a in self.tags if name in (a.get("class") or "").split()]
    def text(self): return "".join(self.texts)


ATTRIBUTES = {"class", "id", "lang", "charset", "http-equiv", "content", "name", "href", "src", "alt", "decoding", "style", "aria-hidden", "aria-label"}

def checked(source: str) -> Page:
    "A page that keeps the rules, whatever stands in it."
    p = Page(source)
    for tag, attrs in p.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "form", "base", "svg", "video") and attrs.keys() <= ATTRIBUTES, (tag, attrs)
        if "src" in attrs: assert tag == "img" and attrs["src"].startswith("data:image/jpeg;base64,")
        if "href" in attrs: assert attrs["href"].startswith("#") and attrs["href"][1:] in [a.get("id") for _, a in p.tags]
        assert "url(" not in attrs.get("style", "")
    assert all(a.get("alt", "").strip() for a in p.all("img"))
    assert "@import" not in source and "url(" not in source.partition("</style>")[0]
    assert p.headings[0] == 1 and all(b <= a + 1 for a, b in zip(p.headings, p.headings[1:])) and p.headings.count(1) == 1
    ids = [a["id"] for _, a in p.tags if "id" in a]
    assert len(ids) == len(set(ids))
    policy = next(a["content"] for a in p.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "script-src" not in policy
    return p


@pytest.fixture(scope="module")
def rec(world): return Recommender.fit(world, "tiny", progress=False)

def renamed(rec, titles=None, items=None, users=None):
    "The same recommender with other words."
    t = rec.items.copy()
    if titles is not None: t["title"] = pd.Series(np.resize(np.array(titles, dtype=object), len(t)), dtype=object)
    if items is not None: t["item"] = [f"{items}{n}" for n in range(len(t))]
    return replace(rec, items=t, user_ids=rec.user_ids if users is None else np.array([f"{users}{n}" for n in range(len(rec.user_ids))]))


# ---- words from strangers
NASTY = ["<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "' onmouseover='alert(1)", "javascript:alert(1)", "../../x", "</style><script>", "]]>", "&lt;b&gt;",
         "\x00\x08", "\u202egnirts", "日本語 العربية", "<!--", "a" * 400, "   "]

@pytest.mark.parametrize("word", NASTY)
def test_words_of_strangers_are_words(rec, world, word):
    r = renamed(rec, [word], word, word)
    p = checked(html_page(View(r, Images(lambda i: world.images.read("i0001"), list(r.item_at))), r.recommend(list(r.user_ids[:2]), 2), name=word, notes=[word]))
    assert len(p.classed("card")) == 4 and len(p.classed("user")) == 2
    if word in ("<script>alert(1)</script>", "../../x", "&lt;b&gt;", "日本語 العربية", "javascript:alert(1)"):
        assert p.text().count(word) > 10 and any(word in a["alt"] for a in p.all("img"))  # nothing is lost, and nothing is undone twice


def test_half_a_character_is_written_all_the_same(rec):
    "No table holds one, but the name of a folder may."
    checked(html_page(View(rec), rec.recommend("u0001", 1), name="\ud800", notes=["\udfff"])).text().encode("utf-8")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=30), st.sampled_from(NASTY)), min_size=1, max_size=6), st.text(max_size=12), st.text(max_size=12))
def test_no_word_becomes_markup(titles, item, user):
    base = test_no_word_becomes_markup.rec
    plain = checked(html_page(View(base), base.recommend(list(base.user_ids[:2]), 3), today="2024-01-31"))
    r = renamed(base, titles, item, user)
    p = checked(html_page(View(r), r.recommend(list(r.user_ids[:2]), 3), today="2024-01-31"))
    count = lambda q: pd.Series([t for t, _ in q.tags if t not in ("bdi", "li", "span", "i")]).value_counts().to_dict()
    assert count(p) == count(plain)

@pytest.fixture(autouse=True, scope="module")
def at_hand(rec): test_no_word_becomes_markup.rec = rec


# ---- what a page shows
def test_a_card_says_what_explain_says(rec, world):
    t = rec.recommend("u0003", 4)
    p = checked(html_page(View(rec, world.images), t, today="2024-01-31"))
    assert len(p.classed("card")) == 4
    for r in t.itertuples():
        e, said = rec.explain(r.item, 3), p.text()
        assert f"{r.score:.4f}" in said and all(x in said for x in e.neighbours["title"])
        for m, share in (e.carried / e.carried.sum()).items():
            if m not in e.missing: assert f"{m} {share:.0%}" in said
    assert all(k in p.text() for k, _ in READING) and "2024-01-31" in p.text() and "tiny" in p.text() and f"{rec.seen[[3]].nnz} items" in p.text()


def test_history_is_the_latest_where_dates_are_known(rec, world):
    t = rec.recommend("u0003", 1)
    when = np.random.default_rng(0).permutation(len(world.interactions))
    latest = latest_of(replace(world, interactions=world.interactions.assign(timestamp=when)))
    mine = world.interactions.assign(when=when)[world.interactions["user"] == 3].sort_values("when", ascending=False)["item"]
    titles = [rec.items["title"][i] or rec.item_at[i] for i in mine]
    source = html_page(View(rec, latest=latest), t)
    shown = source.partition('<ul class="history">')[2].partition("</ul>")[0]
    assert [x for x in pd.Series(shown).str.extractall("<bdi>(.*?)</bdi>")[0]] == titles[:6] and "the latest first" in source
    assert "those nearest to the list below" in html_page(View(rec), t)


def test_what_was_chosen_later_is_marked(rec):
    t = rec.recommend(["u0001", "u0002"], 3)
    p = checked(html_page(View(rec, later={"u0001": {t["item"][0]}}), t))
    assert len(p.classed("later")) == 1 and "1 of these 3 items were chosen later" in p.text() and "0 of these 3" in p.text()


def test_no_pictures_no_tiles(rec, world):
    t = rec.recommend(["u0001"], 6)
    bare = checked(html_page(View(rec), t))
    assert not bare.all("img") and not bare.classed("tile") and "No pictures of these items were found" in bare.text() and "--pictures" in bare.text()
    some = checked(html_page(View(rec, world.images.only([t["item"][0]])), t))  # one of six has a picture
    assert len(some.classed("pic")) == 6 and sum(a["src"].startswith("data:") for a in some.all("img")) == 1
    assert len(some.classed("tile")) > 4 and "No pictures" not in some.text()
    broken = checked(html_page(View(rec, Images(lambda i: b"no picture", list(rec.item_at))), t))
    assert not broken.all("img") and "No pictures" in broken.text()


def test_items_of_which_nothing_is_known(rec):
    t = rec.items.copy()
    t[["title", "description"]] = None
    r = replace(rec, items=t, has=np.zeros_like(rec.has))
    p = checked(html_page(View(r), r.recommend("u0001", 2)))
    assert "nothing is known of it" in p.text() and len(p.classed("card")) == 2 and not p.classed("near")


@pytest.mark.parametrize("d", [1, 3])
def test_one_modality_and_three(d):
    ds = toy(n_users=40, n_items=40)
    rng = np.random.default_rng(0)
    ds = replace(ds, name="vectors", features={f"m<{k}>": rng.normal(size=(40, 8)).astype(np.float32) for k in range(d)}, images=None, items=ds.items[["item"]],
                 interactions=ds.interactions[ds.interactions["item"] < 30].reset_index(drop=True))
    r = Recommender.fit(ds, "ready", progress=False)
    p = checked(html_page(View(r), r.recommend("u0001", 1)))
    legend = [a for a in p.all("i")]
    assert len(legend) == d and all(f"m<{k}>" in p.text() for k in range(d)) and ("m<0> 100%" in p.text()) == (d == 1)


def test_k_beyond_the_pool_and_nobody(rec):
    assert len(checked(html_page(View(rec), rec.recommend("u0001", 99))).classed("card")) == 6
    assert "Nobody is served" in checked(html_page(View(rec), rec.recommend("u0001", 3).iloc[:0])).text()


def test_users_whom_training_does_not_know(rec):
    t = rec.recommend(histories={"new one": ["i0001", "i0002"]}, k=2)
    said = checked(html_page(View(rec, histories={"new one": ["i0001", "i0002"]}), t)).text()
    assert "2 items" in said and rec.items["title"][1] in said and "not stored" not in said
    assert "The history of this user is not stored." in checked(html_page(View(rec), t)).text()
    nobody = replace(rec, seen=rec.seen * 0)
    nobody.seen.eliminate_zeros()
    assert "This user has met nothing." in checked(html_page(View(nobody), nobody.recommend("u0001", 2))).text()


def test_the_size_is_bounded():
    t = pd.DataFrame(dict(user=np.repeat(np.arange(500).astype(str), 4), item="i"))
    few, said = cut(t)
    assert few["user"].nunique() == MOST_USERS and "500 users" in said and "--users" in said
    wide = pd.DataFrame(dict(user=np.repeat(["a", "b", "c"], MOST_CARDS//2 + 1), item="i"))
    assert cut(wide)[0]["user"].tolist() == ["a"] * (MOST_CARDS//2 + 1) and cut(wide)[1]
    assert cut(t.head(8))[1] == ""


def test_pictures_are_small_upright_and_on_white(tmp_path):
    import base64, io
    im = Image.new("RGBA", (900, 300), (0, 0, 0, 0))
    im.save(tmp_path/"a.png")
    small = Image.open(io.BytesIO(base64.b64decode(thumbnail((tmp_path/"a.png").read_bytes(), 160).partition(",")[2])))
    assert small.size == (160, 53) and small.getpixel((80, 20)) == (255, 255, 255)


# ---- where pictures come from
def test_another_shop_of_the_same_name_is_not_taken(rec, world, tmp_path):
    r = replace(rec, about=rec.about | dict(dataset="my-shop"))
    assert dataset_of(r, tmp_path) is None
    save_dataset(toy(seed=3, n_users=60, n_items=50), tmp_path/"my-shop")
    assert dataset_of(r, tmp_path) is None
    save_dataset(world, tmp_path/"my-shop")
    assert len(dataset_of(r, tmp_path).images) == len(world.images)
    for name in ("../my-shop", str(tmp_path/"my-shop"), "", "..", None): assert dataset_of(replace(rec, about=rec.about | dict(dataset=name)), tmp_path/"x") is None


# ---- the commands
def mamex(cwd, *argv, limit=400):
    env = os.environ | dict(PYTHONPATH=str(ROOT), HF_HUB_OFFLINE="1")
    return subprocess.run([sys.executable, "-m", "mamex.cli", *map(str, argv)], cwd=cwd, env=env, capture_output=True, text=True, timeout=limit)


@pytest.fixture(scope="module")
def placed(rec, world, tmp_path_factory):
    "A dataset folder and a recommender beside it, and pictures in a folder."
    at = tmp_path_factory.mktemp("shops")
    save_dataset(world, at/"my-shop")
    replace(rec, about=rec.about | dict(dataset="my-shop")).save(at/"model")
    rec.save(at/"alone")
    (at/"photos").mkdir()
    for i in world.images: (at/"photos"/f"{i}.png").write_bytes(world.images.read(i))
    return at


def test_recommend_writes_a_page_in_an_empty_folder(placed, tmp_path):
    done = mamex(tmp_path, "recommend", placed/"model", "--users", "u0001", "u0002", "--k", 3, "--html", "page.html")
    assert done.returncode == 0 and not done.stderr and str(tmp_path/"page.html") in done.stdout, done.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["page.html"]
    p = checked((tmp_path/"page.html").read_text(encoding="utf-8"))
    assert len(p.classed("card")) == 6 and len(p.all("img")) > 6 and len(p.all("nav")) == 1


@pytest.fixture
def run(capsys):
    def run(*argv):
        try: status = cli.main([str(a) for a in argv])
        except SystemExit as e: status = e.code
        return status, *capsys.readouterr()
    return run


def test_the_page_beside_a_table_with_given_pictures(placed, run, tmp_path):
    (tmp_path/"h.json").write_text(json.dumps({"<b>me</b>": ["i0001", "i0002"]}))
    status, out, err = run("recommend", placed/"alone", "--histories", tmp_path/"h.json", "--users", "gone", "--k", 2, "--pictures", placed/"photos", "--html", tmp_path/"p.html", "--out", tmp_path/"r.csv")
    p = checked((tmp_path/"p.html").read_text(encoding="utf-8"))
    assert status == 3 and len(pd.read_csv(tmp_path/"r.csv")) == 2 and "unknown users 'gone'" in p.text() and "<b>me</b>" in p.text() and p.all("img"), err
    status, out, err = run("recommend", placed/"alone", "--users", "u0001", "--html", tmp_path/"p.html")
    assert status == 0 and "No pictures" in out and not checked((tmp_path/"p.html").read_text(encoding="utf-8")).all("img")


@pytest.mark.parametrize("argv, says", [(["--html", "{}/page.txt"], "should end in .html"), (["--html", "{}"], "is a folder"), (["--html", "{}/gone/page.html"], "there is no folder"),
    (["--html", "{}/p.html", "--pictures", "{}/gone"], "there is no folder of pictures"), (["--pictures", "{}"], "--html page.html"), (["--html", ""], "")])
def test_what_cannot_be_a_page(placed, run, tmp_path, argv, says):
    status, out, err = run("recommend", placed/"model", "--users", "u0001", *(a.format(tmp_path) for a in argv))
    assert status == 2 and says in err and len(err.strip().splitlines()) == 1 and not out and not list(tmp_path.iterdir())


def test_a_page_that_fails_leaves_the_old_one(placed, run, tmp_path, monkeypatch):
    (tmp_path/"p.html").write_text("old")
    def full(*_): raise OSError(28, "No space left on device", "p.html")
    monkeypatch.setattr("os.replace", full)
    status, _, err = run("recommend", placed/"model", "--users", "u0001", "--html", tmp_path/"p.html")
    assert status == 2 and "No space" in err and (tmp_path/"p.html").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_tomorrow_is_taken_away_whole():
    ds = toy(n_users=40, n_items=50)
    today, later = without_tomorrow(ds)
    met = np.bincount(today.interactions["item"], minlength=50)
    gone = {(ds.user_ids[u], ds.item_ids[i]) for u, i in ds.interactions[["user", "item"]].to_numpy()} - {(ds.user_ids[u], ds.item_ids[i]) for u, i in today.interactions[["user", "item"]].to_numpy()}
    assert (met == 0).sum() == 10 and {(u, i) for u, s in later.items() for i in s} == gone


@pytest.mark.slow
def test_a_tour_from_nothing(tmp_path):
    "In an empty folder, in less than a minute of one core; a second one replaces the first, and nothing of others is touched."
    before = resource.getrusage(resource.RUSAGE_CHILDREN)  # seconds of its own: neighbours make it slower, not dearer
    done = mamex(tmp_path, "tour", "--users", 4, "--k", 5, limit=300)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    page = tmp_path/"mamex-tour"/"page.html"
    assert done.returncode == 0 and str(page) in done.stdout and done.stdout.count("mamex ") >= 3, done.stderr
    assert 0 < took < 60, f"{took:.0f} s"
    p = checked(page.read_text(encoding="utf-8"))
    assert len(p.classed("card")) == 20 and len(p.classed("user")) == 4 and len(p.all("img")) > 60 and "chosen later" in p.text()
    mine = tmp_path/"mamex-tour"/"notes.txt"
    mine.write_text("mine")
    assert mamex(tmp_path, "tour", "--users", 1, limit=300).returncode == 0 and mine.read_text() == "mine"
    assert len(checked(page.read_text(encoding="utf-8")).classed("user")) == 1
    (tmp_path/"work").mkdir(); (tmp_path/"work"/"page.html").write_text("mine")
    done = mamex(tmp_path, "tour", "--to", "work")
    assert done.returncode == 2 and "did not make" in done.stderr and "--to" in done.stderr and (tmp_path/"work"/"page.html").read_text() == "mine"
    done = mamex(tmp_path/"work", "recommend", tmp_path/"mamex-tour"/"model", "--users", "u0011", "--html", tmp_path/"again.html")  # its world lies beside it
    assert done.returncode == 0 and checked((tmp_path/"again.html").read_text(encoding="utf-8")).all("img"), done.stderr


@pytest.mark.parametrize("argv, says", [(["--users", "0"], "users is 0"), (["--users", "100000"], "at most"), (["--k", "0"], "k is 0")])
def test_a_tour_that_cannot_be(run, tmp_path, argv, says):
    status, _, err = run("tour", "--to", tmp_path/"t", *argv)
    assert status == 2 and says in err and not (tmp_path/"t").exists()
