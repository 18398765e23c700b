"Chapter 00b: from tables to a folder, every fault of a folder with row and remedy, and no folder about which check and load disagree."
import io, json, re, shutil, zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from mamex.datasets.tables import importer
from mamex.datasets.checks import problems as problems_module

from mamex.datasets.dates import parse_times
from mamex.datasets.tables.columns import guess_columns
from mamex.datasets.tables.importer import CatalogueError, from_tables
from mamex.datasets.tables.rows import read_table
from mamex.datasets.checks.folder import check_folder
from mamex.datasets.checks.problems import say_problems
from mamex.base import UsageError
from mamex.datasets.folders import load_dataset, save_dataset
from mamex.datasets.pictures import judge_picture
from mamex.datasets.toy import toy
from mamex.vectors.texts import clean_text
from test_datasets import authors, mmrec

QUICK = dict(deadline=None, suppress_health_check=list(HealthCheck))


def png(colour="red", size=(8, 8), format="PNG"):
    Image.new("RGB", size, colour).save(b := io.BytesIO(), format)
    return b.getvalue()


def shop(d, inter=None, items=None, info='{"title": "A shop", "licence": "ours", "citation": "us"}', images=None):
    "A dataset folder without a fault, but for what is given."
    d.mkdir(parents=True)
    inter = pd.DataFrame(dict(user=["a", "a", "b", "b"], item=["x", "y", "x", "z"])) if inter is None else inter
    items = pd.DataFrame(dict(item=["x", "y", "z"], title=["X", "Y", "Z"])) if items is None else items
    inter.to_parquet(d/"interactions.parquet"); items.to_parquet(d/"items.parquet"); (d/"dataset.json").write_text(info)
    if images: (d/"images").mkdir(); [(d/"images"/n).write_bytes(b) for n, b in images.items()]
    return d


def rows(**columns): return pd.DataFrame(columns)


def loads(d):
    try: load_dataset(d)
    except Exception: return False
    return True


# ---- check: each kind of problem, with its row, its id and a remedy
U, I, T = ["a", "a", "b", "b"], ["x", "y", "x", "z"], ["X", "Y", "Z"]
CASES = [  # kind, level, (row, id), what is spoiled
    ("missing column", "error", (None, ""), dict(inter=rows(user=U))),
    ("missing id", "error", (2, "y"), dict(inter=rows(user=["a", None, "b", "b"], item=I))),
    ("missing id", "error", (2, ""), dict(items=rows(item=["x", None, "z"], title=T))),
    ("unknown item", "error", (4, "nope"), dict(inter=rows(user=U, item=["x", "y", "x", "nope"]))),
    ("duplicate item", "error", (3, "x"), dict(items=rows(item=["x", "y", "x", "z"], title=["X", "Y", "X", "Z"]))),
    ("no interactions", "error", (None, ""), dict(inter=rows(user=U, item=I)[:0])),
    ("milliseconds", "error", (3, "1700000000000"), dict(inter=rows(user=U, item=I, timestamp=[1, 2, 1700000000000, 4]))),
    ("timestamp is no number", "error", (2, "noon"), dict(inter=rows(user=U, item=I, timestamp=["1", "noon", "3", "4"]))),
    ("rating is no number", "error", (1, "good"), dict(inter=rows(user=U, item=I, rating=["good", "3", None, "4"]))),
    ("not text", "error", (2, "y"), dict(items=rows(item=["x", "y", "z"], description=[None, ["b"], None]))),
    ("refused", "error", (None, ""), dict(info="[1")),
    ("empty id", "warning", (3, " "), dict(inter=rows(user=["a", "a", " ", " "], item=I))),
    ("placeholder id", "warning", (3, "None"), dict(inter=rows(user=["a", "a", "None", "None"], item=I))),
    ("spaces around id", "warning", (1, "a "), dict(inter=rows(user=["a ", "a ", "b", "b"], item=I))),
    ("slash in id", "warning", (4, "p/q"), dict(items=rows(item=["x", "y", "z", "p/q"], title=[*T, "P"]))),
    ("numbers as ids", "warning", (None, ""), dict(inter=rows(user=[1, 1, 2, 2], item=I))),
    ("repeated pair", "note", (5, "a, x"), dict(inter=rows(user=[*U, "a"], item=[*I, "x"]))),
    ("single interaction", "note", (5, "c"), dict(inter=rows(user=[*U, "c"], item=[*I, "x"]))),
    ("no timestamp", "warning", (2, ""), dict(inter=rows(user=U, item=I, timestamp=[1.7e9, None, 1.7e9, 1.7e9]))),
    ("old timestamp", "warning", (4, "100000000"), dict(inter=rows(user=U, item=I, timestamp=[1700000000]*3 + [100000000]))),
    ("timestamp in 1970", "warning", (4, "20240131"), dict(inter=rows(user=U, item=I, timestamp=[1700000000]*3 + [20240131]))),
    ("no timestamp", "warning", (4, ""), dict(inter=rows(user=U, item=I, timestamp=[1700000000]*3 + [-1]))),
    ("timestamp is no number", "error", (1, "soon"), dict(inter=rows(user=U, item=I, timestamp=["soon"] + ["2024-01-31"]*3))),
    ("unseen signs in id", "warning", (4, "z\u200b"), dict(items=rows(item=["x", "y", "z", "z\u200b"], title=[*T, "P"]))),
    ("ids alike", "warning", (4, "e\u0301"), dict(items=rows(item=["x", "é", "z", "e\u0301"], title=[*T, "P"]), inter=rows(user=U, item=["x", "é", "x", "z"]))),
    ("unreadable release", "warning", (2, "y"), dict(items=rows(item=["x", "y", "z"], title=T, released=["2001", "soon", None]))),
    ("release in 1970", "warning", (2, "y"), dict(items=rows(item=["x", "y", "z"], title=T, released=pd.to_datetime([1.6e18, 1995, 1.7e18])))),
    ("release ahead", "note", (3, "z"), dict(items=rows(item=["x", "y", "z"], title=T, released=["2001-01-01", "2002-01-01", "2099-01-01"]))),
    ("column of users", "note", (None, ""), dict(items=rows(item=["x", "y", "z"], title=T, reviewTexts=["good", None, None]))),
    ("other writing of an accent", "note", (None, "é"), dict(items=rows(item=["x", "é", "z"], title=T), inter=rows(user=U, item=["x", "é", "x", "z"]), images={"e\u0301.png": png()})),
    ("future timestamp", "warning", (1, "9000000000"), dict(inter=rows(user=U, item=I, timestamp=[9000000000] + [1700000000]*3))),
    ("unread column", "warning", (None, ""), dict(inter=rows(user=U, item=I, time=[1, 2, 3, 4]))),
    ("never met", "note", (4, "new"), dict(items=rows(item=["x", "y", "z", "new"], title=[*T, "N"]))),
    ("no title", "warning", (2, "y"), dict(items=rows(item=["x", "y", "z"], title=["X", " ", "Z"]))),
    ("no title", "warning", (None, ""), dict(items=rows(item=["x", "y", "z"]))),
    ("HTML", "note", (1, "x"), dict(items=rows(item=["x", "y", "z"], title=["X &amp; Y", "Y", "Z"]))),
    ("nothing known", "warning", (3, "z"), dict(items=rows(item=["x", "y", "z"], title=["X", "Y", None]))),
    ("stray picture", "warning", (None, "q"), dict(images={"q.png": png()})),
    ("unreadable picture", "warning", (None, "x"), dict(images={"x.jpg": b"\xff\xd8 cut"})),
    ("same picture", "warning", (None, "y"), dict(images={"x.png": png(), "y.png": png()})),
    ("two pictures", "warning", (None, "x"), dict(images={"x.png": png(), "x.jpg": png("blue")})),
    ("unread file", "warning", (None, ""), dict(images={"x.tiff": b""})),
    ("not stated", "warning", (None, ""), dict(info="{}")),
    ("wrong count", "warning", (None, ""), dict(info='{"counts": {"users": 7}}')),
]


@pytest.mark.parametrize("kind,level,where,spoiled", CASES, ids=[f"{k}-{n}" for n, (k, *_) in enumerate(CASES)])
def test_each_problem_is_found_with_row_and_remedy(tmp_path, kind, level, where, spoiled):
    d = shop(tmp_path/"s", **spoiled)
    p = next(p for p in check_folder(d) if p.kind == kind)
    assert (p.level, (p.row, p.id)) == (level, where) and p.what and len(p.remedy) > 8 and (d/p.file).exists()
    assert loads(d) == (level != "error")


def test_a_folder_without_fault(tmp_path):
    assert check_folder(shop(tmp_path/"s", images={"x.png": png(), "y.png": png("blue"), "z.webp": png("green", format="WEBP")})) == []
    assert check_folder("toy") == []
    with pytest.raises(UsageError, match="there is no dataset"): check_folder(tmp_path/"none")


def test_all_problems_at_once_and_not_the_first(tmp_path):
    inter = rows(user=["a", None, "b", "b"], item=["x", "y", "q", "q"], timestamp=["1", "noon", "3", "x"])
    d = shop(tmp_path/"s", inter, rows(item=["x", "x", "y"], title=["a", "b", 3.]).astype(object).assign(title=["a", "b", "c"]), "{", {"x.png": b""})
    (d/"image_feat.npy").write_bytes(b"no matrix")
    found = [(p.file, p.row) for p in check_folder(d) if p.level == "error"]
    assert set(found) == {("interactions.parquet", 2), ("interactions.parquet", 3), ("interactions.parquet", 4), ("items.parquet", 2), ("dataset.json", None), ("image_feat.npy", None)}
    assert found.count(("interactions.parquet", 4)) == 2  # its item and its timestamp


def test_problems_are_cut_by_kind_and_counted():
    ps = [problems_module.Problem("warning", "f", r, "w", "R", kind="k") for r in range(1, 8)] + [problems_module.Problem("error", "f", 1, "e", "R", kind="z")]
    assert say_problems(ps, 2).splitlines() == ["error: f row 1: e. R.", "warning: f: w, 7 times (rows 1, 2, …). R.", "1 error, 7 warnings."]
    assert len(say_problems(ps, None).splitlines()) == 9


def test_other_folders_are_checked_by_loading(tmp_path):
    a, m = authors(tmp_path/"a"), mmrec(tmp_path/"m")
    assert {p.level for p in check_folder(a)} <= {"note"} and {p.kind for p in check_folder(m)} == {"never met", "single interaction", "repeated pair", "twins"}
    np.save(a/"cold_item_index.npy", [99])
    (p,) = check_folder(a)
    assert (p.level, p.file) == ("error", "cold_item_index.npy") and "item numbers" in p.what
    (m/"mini.inter").write_text("userID\n1\n")
    assert [p.level for p in check_folder(m)] == ["error"]
    (tmp_path/"empty").mkdir()
    assert "holds no dataset" in check_folder(tmp_path/"empty")[0].what


# ---- check and load agree, whatever is done to a folder
def column(table, name, values):
    def spoil(d):
        t = pd.read_parquet(f := d/f"{table}.parquet")
        t[name] = [values[n % len(values)] for n in range(len(t))]
        t.to_parquet(f)
    return spoil

def drop(table, name): return lambda d: pd.read_parquet(d/f"{table}.parquet").drop(columns=name, errors="ignore").to_parquet(d/f"{table}.parquet")
def write(name, b): return lambda d: (d/name).write_bytes(b)
def arr(name, x): return lambda d: np.save(d/name, x)

def twin_column(d):
    import pyarrow as pa, pyarrow.parquet as pq
    t = pd.read_parquet(d/"interactions.parquet")
    pq.write_table(pa.table([pa.array(t[c].astype(str)) for c in ("user", "item", "item")], names=["user", "item", "item"]), d/"interactions.parquet")

def zipped(d):
    with zipfile.ZipFile(d/"images.zip", "w") as z: z.writestr("x.png", png()); z.writestr("deep/y.png", b""); z.writestr("note.txt", "?")

SPOILS = [column("interactions", "user", v) for v in (["a", None], [1, 2], [1.5, 2], [1., None], ["", "nan"], [b"a", b"b"], [True, False], [["a"], ["b"]])] + [
    column("interactions", "item", v) for v in (["x", "q"], ["x ", "x"], [0, 1], [None, "x"], ["x"])] + [
    column("interactions", "timestamp", v) for v in ([1e12], [1, None], ["1", "x"], ["1", "2"], [np.inf, 1.], [pd.Timestamp("2024-01-01")], [pd.NaT, pd.Timestamp("2024-01-01", tz="UTC")],
                                                     [True], [-5], [1e10, 1e10 + 1], [None], [1.5], [["1"]], [b"1"], ["1e3", ""])] + [
    column("interactions", "rating", v) for v in ([1, None], ["a"], [np.inf], ["", "2"], [True, None], [{"a": 1}])] + [
    column("interactions", "position", v) for v in ([np.nan, 1.], [np.inf], ["1"], [2**62])] + [
    column("items", "item", v) for v in (["x", "x", "y"], ["x", None, "z"], [1, 2, 3], [1., 2., 3.], ["x", "y", "z/"], ["X", "y", "z"])] + [
    column("items", "title", v) for v in ([1, 2], ["a", None], [None], [["a"]], [""], [b"a"], ["<b>a</b>"], [np.nan], [True, False])] + [
    column("items", "description", v) for v in ([{"a": 1}], [3.5, None], ["x" * 5])] + [
    drop("interactions", "user"), drop("items", "item"), drop("items", "title"), twin_column, zipped,
    write("dataset.json", b"{"), write("dataset.json", b"[]"), write("dataset.json", b"\xff\xfe"), write("dataset.json", b'{"counts": [1], "name": 3}'),
    write("items.parquet", b"PAR1"), write("interactions.parquet", b""), write("images.zip", b"PK no"), write("image_feat.npy", b"x"),
    arr("image_feat.npy", np.ones((3, 2))), arr("image_feat.npy", np.ones((2, 2))), arr("text_feat.npy", np.full((3, 2), np.inf)), arr("text_feat.npy", np.ones(3)),
    arr("audio_feat.npy", np.array([["a"]])), arr("audio_feat.npy", np.full((3, 2), np.nan)),
    lambda d: (d/"items.parquet").unlink(missing_ok=True), lambda d: (d/"interactions.parquet").unlink(missing_ok=True), lambda d: (d/"dataset.json").unlink(missing_ok=True),
    lambda d: pd.read_parquet(d/"interactions.parquet")[:0].to_parquet(d/"interactions.parquet"), lambda d: pd.read_parquet(d/"items.parquet")[:0].to_parquet(d/"items.parquet"),
    lambda d: pd.read_parquet(d/"interactions.parquet").set_index("user").to_parquet(d/"interactions.parquet"),
    lambda d: pd.read_parquet(d/"items.parquet").iloc[::-1].to_parquet(d/"items.parquet"),
    lambda d: pd.read_parquet(d/"interactions.parquet").astype({"user": "category"}).to_parquet(d/"interactions.parquet"),
]


def agree(d):
    problems = check_folder(d)
    errors = [p for p in problems if p.level == "error"]
    assert (not errors) == loads(d), say_problems(problems)
    for p in problems: assert p.level in ("error", "warning", "note") and p.what and p.remedy and p.file and (p.row is None or p.row >= 1)


@pytest.mark.parametrize("n", range(len(SPOILS)))
def test_check_and_load_agree_on_one_fault(tmp_path, n):
    SPOILS[n](d := shop(tmp_path/"s"))
    agree(d)


@settings(max_examples=80, **QUICK)
@given(st.lists(st.integers(0, len(SPOILS) - 1), min_size=2, max_size=5))
def test_check_and_load_agree_on_many_faults(tmp_path_factory, spoils):
    d = shop(tmp_path_factory.mktemp("s")/"s")
    for n in spoils:
        try: SPOILS[n](d)
        except Exception: pass  # the table is gone already
    agree(d)
    shutil.rmtree(d)


@settings(max_examples=60, **QUICK)
@given(st.sampled_from(["interactions.parquet", "items.parquet", "dataset.json"]), st.integers(0, 10**6), st.integers(1, 255), st.integers(0, 10**6))
def test_check_and_load_agree_on_damaged_bytes(tmp_path_factory, name, at, flip, cut):
    d = shop(tmp_path_factory.mktemp("s")/"s")
    b = bytearray((d/name).read_bytes())
    b[at % len(b)] ^= flip
    (d/name).write_bytes(bytes(b[:len(b) - cut % 3]))
    agree(d)
    shutil.rmtree(d)


# ---- CSV files of all manners
def tables(d, products="sku,name\n01,Lamp\n02,Pot\n", clicks="user,sku\nann,01\nbob,02\n", encoding="utf-8"):
    d.mkdir(parents=True, exist_ok=True)
    for n, s in dict(products=products, clicks=clicks).items(): (d/f"{n}.csv").write_bytes(s if isinstance(s, bytes) else s.encode(encoding))
    return d/"products.csv", d/"clicks.csv"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_manners_of_csv(tmp_path, encoding, delimiter, end):
    "BOM, semicolons, Latin-1, line ends: the same folder, and leading zeros survive."
    cut = lambda s: s.replace(",", delimiter).replace("\n", end)
    p = cut("SKU,Name,Größe,\n007,Théière,12,\n08,\"Pot\"\"s\",3,\n").replace("Größe", "Groesse" if encoding == "utf-8" else "Größe")
    a = tables(tmp_path, p, cut("Customer-ID,sku\n0001,007\n0001,08\n\n2,007\n"), encoding)
    before = [f.read_bytes() for f in a]
    made = from_tables(*a, to=tmp_path/"out")
    ds = load_dataset(made.folder)
    assert ds.item_ids.tolist() == ["007", "08"] and ds.user_ids.tolist() == ["0001", "2"] and ds.items["title"].tolist() == ["Théière", 'Pot"s']
    assert [f.read_bytes() for f in a] == before and ("latin" not in encoding or "it is not UTF-8" in made.notes[0])
    assert sorted(f.name for f in tmp_path.iterdir()) == ["clicks.csv", "out", "products.csv"]


def test_every_guess_is_reported_and_can_be_overruled(tmp_path):
    a = tables(tmp_path, "id,sku,name,text\n1,A,Lamp,x\n2,B,Pot,y\n", "who,id,when\nu,1,31.12.2023\n")
    with pytest.raises(UsageError, match="clicks.user"): from_tables(*a, to=tmp_path/"o")
    made = from_tables(*a, to=tmp_path/"o", columns={"products.item": "id", "user": "who", "title": "text"})
    said = "\n".join(made.notes)
    assert "item is the column 'id', as told" in said and "user is the column 'who', as told" in said and "title is the column 'text', as told" in said
    assert "start with the day" in said and "delimiter ','" in said
    assert load_dataset(tmp_path/"o").interactions["timestamp"].tolist() == [1703980800]
    assert "not 'id'" in "\n".join(guess_columns(["id", "sku"], "products")[1])
    for columns, why in (({"colour": "x"}, "no role 'colour'"), ({"user": "nobody"}, "no column 'nobody'"), ({"shops.item": "id"}, "no role")):
        with pytest.raises(UsageError, match=why): from_tables(*a, to=tmp_path/"p", columns=columns)


def test_duplicate_products(tmp_path):
    a = tables(tmp_path, "sku,name\n01,Lamp\n02,Pot\n01,Lamp\n")
    assert [(p.kind, p.row, p.id) for p in from_tables(*a, to=tmp_path/"a").problems] == [("repeated product", 3, "01")]
    a = tables(tmp_path, "sku,name\n01,Lamp\n02,Pot\n01,Lantern\n")
    with pytest.raises(CatalogueError, match="products.csv row 3") as e: from_tables(*a, to=tmp_path/"b")
    assert [(p.level, p.kind, p.row) for p in e.value.problems] == [("error", "duplicate product", 3)] and not (tmp_path/"b").exists()
    for which, title in (("first", "Lamp"), ("last", "Lantern")):
        ds = load_dataset(from_tables(*a, to=tmp_path/which, duplicates=which).folder)
        assert ds.items.set_index("item").loc["01", "title"] == title and ds.n_items == 2


def test_clicks_on_unknown_products_are_counted_and_dropped_or_refused(tmp_path):
    a = tables(tmp_path, clicks="user,sku\nann,01\nbob,99\nann,2\n,01\n")
    made = from_tables(*a, to=tmp_path/"a")
    assert [(p.kind, p.row, p.id) for p in made.problems] == [("half a click", 4, "01"), ("unknown product", 2, "99"), ("unknown product", 3, "2")]
    assert made.counts["interactions"] == 1
    with pytest.raises(CatalogueError): from_tables(*a, to=tmp_path/"b", unknown="refuse")
    a = tables(tmp_path, clicks="user,sku\nann,1\nbob,2\n")
    with pytest.raises(CatalogueError, match="leading zeros .'1' here, '01' there"): from_tables(*a, to=tmp_path/"b")


def test_nothing_is_written_with_an_error_and_all_errors_are_said(tmp_path):
    a = tables(tmp_path, "sku,name\n01,Lamp\n,Pot\n01,X\n02,a,b\n", "user,sku,date,rating\nann,01,2024-01-01,5\nbob,01,later,5\ncat,01,2024-01-01,good\n")
    with pytest.raises(CatalogueError) as e: from_tables(*a, to=tmp_path/"o")
    assert {(p.file, p.row, p.kind) for p in e.value.problems if p.level == "error"} == {
        ("products.csv", 2, "missing id"), ("products.csv", 3, "duplicate product"), ("products.csv", 4, "odd row"),
        ("clicks.csv", 2, "unreadable time"), ("clicks.csv", 3, "unreadable rating")}
    assert "4 more errors" in str(e.value) and sorted(f.name for f in tmp_path.iterdir()) == ["clicks.csv", "products.csv"]


def test_a_failure_while_writing_leaves_nothing_and_keeps_the_old(tmp_path, monkeypatch):
    a = tables(tmp_path)
    from_tables(*a, to=tmp_path/"o")
    old = {f.name: f.read_bytes() for f in (tmp_path/"o").iterdir()}
    with pytest.raises(UsageError, match="there already"): from_tables(*a, to=tmp_path/"o")
    def fail(*_): raise OSError("disk full")
    monkeypatch.setattr(importer, "load_dataset", fail)
    with pytest.raises(OSError): from_tables(*a, to=tmp_path/"o", replace=True)
    assert {f.name: f.read_bytes() for f in (tmp_path/"o").iterdir()} == old and len(list(tmp_path.iterdir())) == 3
    monkeypatch.undo()
    tables(tmp_path, "sku,name\n01,New\n02,Pot\n")
    assert load_dataset(from_tables(*a, to=tmp_path/"o", replace=True).folder).items["title"][0] == "New" and len(list(tmp_path.iterdir())) == 3
    (tmp_path/"mine").mkdir(); (tmp_path/"mine"/"letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="no dataset folder"): from_tables(*a, to=tmp_path/"mine", replace=True)


def test_pictures_by_stem_by_column_and_unmatched(tmp_path):
    a = tables(tmp_path, "sku,name,picture\n01,Lamp,\nB-2,Pot,shots/front.png\n03,Cup,\n04,Jug,\n05,Mug,gone.png\n", "user,sku\nann,01\n")
    (tmp_path/"photos"/"shots").mkdir(parents=True)
    for n, b in {"01.PNG": png(), "shots/front.png": png("blue"), "03.jpg": b"cut", "04.gif": png(format="GIF"), "logo.png": png(), "read.me": b""}.items(): (tmp_path/"photos"/n).write_bytes(b)
    made = from_tables(*a, tmp_path/"photos", tmp_path/"o")
    ds = load_dataset(tmp_path/"o")
    assert sorted(ds.images) == ["01", "04", "B-2"] and ds.images.read("B-2") == png("blue") and judge_picture(ds.images.read("04"))[0]
    assert {(p.kind, p.file, p.row, p.id) for p in made.problems} == {
        ("unread file", "photos/read.me", None, ""), ("unmatched picture", "photos/logo.png", None, ""), ("unreadable picture", "photos/03.jpg", None, "03"), ("no picture", "products.csv", 5, "05")}
    with zipfile.ZipFile(tmp_path/"photos.zip", "w") as z: z.write(tmp_path/"photos"/"01.PNG", "in/01.PNG")
    assert list(load_dataset(from_tables(*a, tmp_path/"photos.zip", tmp_path/"z").folder).images) == ["01"]
    with pytest.raises(UsageError, match="no folder of pictures"): from_tables(*a, tmp_path/"nowhere", tmp_path/"y")


def test_frames_are_taken_as_tables(tmp_path):
    made = from_tables(rows(item=[1., 2.], title=["a", None], price=[.5, 2]), rows(user=[7, 8], item=[1, 2], date=pd.to_datetime(["2024-01-31", None])), to=tmp_path/"o")
    ds = load_dataset(made.folder)
    assert ds.item_ids.tolist() == ["1", "2"] and ds.interactions["timestamp"].iloc[0] == 1706659200 and ds.items["price"].tolist() == [.5, 2]


@pytest.mark.parametrize("text,seconds", [("2024-01-31T12:00:00Z", 1706702400), ("2024-01-31 13:00:00+01:00", 1706702400), ("1706702400.7", 1706702400), ("1706702400000", 1706702400),
    ("1706702400000000", 1706702400), ("20240131", 1706659200), ("31.1.2024", 1706659200), ("31/01/2024", 1706659200), ("01/31/2024", 1706659200), ("31 Jan 2024", 1706659200)])
def test_dates(text, seconds):
    s, bad, _ = parse_times(pd.Series([text, ""]))
    assert not bad.any() and s[0]//1 == seconds and np.isnan(s[1])


def test_dates_that_cannot_be_told(tmp_path):
    for v in (["03/04/2024"], ["31/01/2024", "01/31/2024"]):
        with pytest.raises(UsageError, match="day or with the month"): parse_times(pd.Series(v))
    assert parse_times(pd.Series(["3/4/2024", "31/4/2024"]), True)[1].tolist() == [False, True]
    assert parse_times(pd.Series(["1", "1706702400000"]))[1].tolist() == [True, False]  # mixed units: the odd one is named
    a = tables(tmp_path, clicks="user,sku,date\nann,01,03/04/2024\n")
    with pytest.raises(CatalogueError, match="month-first"): from_tables(*a, to=tmp_path/"o")
    assert load_dataset(from_tables(*a, to=tmp_path/"o", dayfirst=False).folder).interactions["timestamp"][0] == 1709510400


def test_the_earliest_of_repeated_clicks_counts(tmp_path):
    a = tables(tmp_path, clicks="user,sku,time\nann,01,1700000300\nbob,02,1700000200\nann,01,1700000100\n")
    made = from_tables(*a, to=tmp_path/"o")
    assert load_dataset(made.folder).interactions["timestamp"].tolist() == [1700000200, 1700000100] and [p.row for p in made.problems] == [1]


# ---- whatever is thrown at the readers: a result or a UsageError
@settings(max_examples=150, **QUICK)
@given(st.one_of(st.binary(max_size=300), st.text(max_size=200).map(str.encode), st.text(alphabet='ab01,;"\n\r\t|é', max_size=200).map(lambda s: ("id,user\n" + s).encode())))
def test_reading_any_bytes(tmp_path_factory, b):
    f = tmp_path_factory.mktemp("f")/"t.csv"
    f.write_bytes(b)
    try: t = read_table(f)
    except UsageError: return
    assert len(t.rows) >= 0 and all(isinstance(v, str) for c in t.rows for v in t.rows[c])


CELL = st.text(alphabet="01ab ,;/\"\n.-:é<&\0", max_size=8)
@settings(max_examples=80, **QUICK)
@given(st.lists(st.tuples(CELL, CELL), max_size=6), st.lists(st.tuples(CELL, CELL, st.one_of(CELL, st.sampled_from(["2024-01-31", "31/12/2023", "1e99", "-1", "nan", "20241399", "99999999999999999999"]))), max_size=6))
def test_importing_any_cells(tmp_path_factory, products, clicks):
    d = tmp_path_factory.mktemp("f")
    p = rows(item=[x[0] for x in products], title=[x[1] for x in products]).astype(str)
    c = rows(user=[x[0] for x in clicks], item=[x[1] for x in clicks], date=[x[2] for x in clicks]).astype(str)
    p.to_csv(d/"p.csv", index=False); c.to_csv(d/"c.csv", index=False)
    try: made = from_tables(d/"p.csv", d/"c.csv", to=d/"o")
    except UsageError: assert not (d/"o").exists()
    else: assert not [x for x in check_folder(made.folder) if x.level == "error"]
    assert {f.name for f in d.iterdir()} <= {"p.csv", "c.csv", "o"}


@settings(max_examples=80, **QUICK)
@given(st.lists(st.one_of(st.text(max_size=12), st.floats().map(str), st.integers(-10**20, 10**20).map(str), st.tuples(*[st.integers(0, 40)]*2, st.sampled_from(["2024", "24", "0001", "9999"]), st.sampled_from("./-")).map(lambda x: x[3].join(map(str, x[:3])))), max_size=4))
def test_reading_any_time(values):
    try: s, bad, note = parse_times(pd.Series(values, dtype=str))
    except UsageError: return
    assert len(s) == len(bad) == len(values) and note
