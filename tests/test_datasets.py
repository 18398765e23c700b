"Chapter 00: folders there and back, every fault a sentence, the k-core, the toy world, and counts of real data."
import datetime, io, json, os, tempfile, warnings, zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from mamex import base
from mamex.datasets import core as core_module, folders, pictures as pictures_module, reading, toy as toy_module
from mamex.base import UsageError
from mamex.datasets.core import dataset_card, k_core
from mamex.datasets.folders import load_dataset, save_dataset
from mamex.datasets.pictures import Images
from mamex.datasets.toy import toy


@pytest.fixture(scope="module")
def world(): return toy()

def frame(**columns): return pd.DataFrame(columns)

def card_of(ds): return dict(dataset_card(ds)[["what", "value"]].values)

def contract(d, inter=None, items=None, info='{"name": "shop", "title": "Shop"}'):
    d.mkdir(parents=True, exist_ok=True)
    inter = frame(user=["b", "a", "b"], item=["y", "x", "x"]) if inter is None else inter
    items = frame(item=["x", "y", "new"], title=["X", None, ""]) if items is None else items
    inter.to_parquet(d/"interactions.parquet"); items.to_parquet(d/"items.parquet"); (d/"dataset.json").write_text(info)
    return d

def authors(d, audio=True, n=4):
    d.mkdir(parents=True)
    for part, text in dict(train="0 0 1\n1 1 2\n2\n", val="2 2\n", test="0 3\n5 3\n\n").items():
        (d/f"{part}.txt").write_text(text)
    np.save(d/"cold_item_index.npy", [3, 2])
    for m, k in dict(image=5, text=6, audio=2).items():
        if audio or m != "audio": np.save(d/f"{m}_feat.npy", np.arange(n*k, dtype="float64").reshape(n, k))
    return d

def mmrec(d, sep="\t", maps=True):
    d.mkdir(parents=True)
    rows = ("userID itemID rating timestamp x_label", "1 1 5.0 1100000000 0", "0 0 4.0 1200000000 2", "1 1 1.0 5 0")
    (d/"mini.inter").write_text("\n".join(rows).replace(" ", "\t"))
    if maps:
        (d/"i_id_mapping.csv").write_text(f"asin{sep}itemID\nB02{sep}1\nB01{sep}0\nB03{sep}2\n")
        (d/"u_id_mapping.csv").write_text(f"user_id{sep}userID\nann{sep}0\nbob{sep}1\n")
    np.save(d/"text_feat.npy", np.ones((3, 3)))
    return d

def same(a, b):
    assert list(a.user_ids) == list(b.user_ids) and list(a.item_ids) == list(b.item_ids)
    pd.testing.assert_frame_equal(a.interactions, b.interactions)
    pd.testing.assert_frame_equal(a.items, b.items)
    assert (a.images is None) == (b.images is None)
    if a.images is not None:
        assert {i: a.images.read(i) for i in a.images} == {i: b.images.read(i) for i in b.images}
    assert a.features.keys() == b.features.keys()
    assert all((a.features[m] == b.features[m]).all() for m in a.features)


# ---- folders there and back
def test_contract_round_trip(tmp_path, world):
    ds = load_dataset(save_dataset(world, tmp_path/"toy2"))
    assert ds.name == "toy2" and ds.info["name"] == "toy" and ds.truth is None
    same(world, ds)
    files = sorted(p.name for p in (tmp_path/"toy2").iterdir())
    assert files == ["dataset.json", "images.zip", "interactions.parquet", "items.parquet"]

def test_round_trip_keeps_columns_and_vectors(tmp_path):
    t = frame(user=["b", "a", "b"], item=["y", "x", "x"], rating=[1, 2., 3], timestamp=[5, 6, 7], position=[0, 0, 1])
    ds = load_dataset(contract(tmp_path/"a", t))
    pictures = Images({"x": b"RIFF....WEBP", "y": b"\xff\xd8"}.get, "xy")
    ds = replace(ds, features={"audio": np.eye(3, 2, dtype="float32")}, images=pictures)
    two = load_dataset(save_dataset(ds, tmp_path/"b"))
    same(ds, two)
    assert list(two.interactions.dtypes.astype(str)) == ["int64", "int64", "float64", "int64", "int64"]
    assert sorted(zipfile.ZipFile(tmp_path/"b"/"images.zip").namelist()) == ["x.webp", "y.jpg"]

def test_saving_twice_gives_the_same_bytes(tmp_path, world):
    a, b = (save_dataset(world, tmp_path/n) for n in "ab")
    assert all((b/p.name).read_bytes() == p.read_bytes() for p in a.iterdir())

def test_order_and_new_items(tmp_path):
    ds = load_dataset(contract(tmp_path/"shop"))
    assert list(ds.user_ids) == ["b", "a"] and list(ds.item_ids) == ["x", "y", "new"] and ds.images is None
    assert ds.interactions.to_numpy().tolist() == [[0, 1], [1, 0], [0, 0]]
    assert ds.features == {} and ds.ready_split is None
    assert repr(ds) == "Dataset('shop': 2 users, 3 items, 3 interactions)"

def test_ids_as_numbers_and_repeats(tmp_path):
    ds = load_dataset(contract(tmp_path/"s", frame(user=[3, 3, 3], item=[7., 8., 7.]), frame(item=[8, 7])))
    assert list(ds.user_ids) == ["3"] and list(ds.item_ids) == ["8", "7"] and ds.info["repeats"] == 1
    assert list(ds.items["item"]) == ["8", "7"] and ds.interactions.to_numpy().tolist() == [[0, 1], [0, 0]]

def test_dataset_json_is_optional_and_may_lack_all(tmp_path):
    f = contract(tmp_path/"shop"); (f/"dataset.json").unlink()
    assert load_dataset(f).info == dict(name="shop", repeats=0)
    assert card_of(load_dataset(f))["licence"] == "not stated"

def test_image_folder(tmp_path):
    d = contract(tmp_path/"s")/"images"; d.mkdir()
    for n in ("x.jpg", "x.png", "y.WEBP", "stray.png", "y.txt"): (d/n).write_bytes(n.encode())
    (d/"new.png").symlink_to(d/"gone.png")  # no file at all: there, but unreadable
    ds = load_dataset(tmp_path/"s")
    assert list(ds.images) == ["x", "y", "new"] and ds.info["stray_images"] == 1
    assert (ds.images.read("x"), ds.images.read("new"), ds.images.read("stray")) == (b"x.jpg", b"", None)
    assert card_of(ds)["pictures of unknown items"] == "1"

def test_damaged_and_huge_pictures_are_empty_bytes(tmp_path, monkeypatch):
    f = contract(tmp_path/"s")/"images.zip"
    with zipfile.ZipFile(f, "w") as z: z.writestr("images/x.png", b"A"*50); z.writestr("y.png", b"B"*5)
    b = f.read_bytes(); f.write_bytes(b.replace(b"A"*50, b"A"*49 + b"C"))  # the checksum no longer fits
    im = load_dataset(tmp_path/"s").images
    assert (im.read("x"), im.read("y")) == (b"", b"BBBBB")
    monkeypatch.setattr(pictures_module, "MAX_PICTURE", 4)
    assert im.read("y") == b""

def test_authors_folder(tmp_path):
    ds = load_dataset(authors(tmp_path/"lat"))
    assert list(ds.user_ids) == ["0", "1", "2", "5"] and list(ds.item_ids) == list("0123")
    assert [(m, x.shape) for m, x in ds.features.items()] == [("image", (4, 5)), ("text", (4, 6)), ("audio", (4, 2))]
    assert all(x.dtype == np.float32 for x in ds.features.values())
    want = dict(train=[[0, 0], [0, 1], [1, 1], [1, 2]], val=[[2, 2]], test=[[0, 3], [3, 3]], cold_items=[2, 3])
    assert {k: v.tolist() for k, v in ds.ready_split.items()} == want
    assert all(v.dtype == np.int64 for v in ds.ready_split.values())
    assert list(ds.interactions) == ["user", "item"] and ds.n_interactions == 7
    card = card_of(ds)
    assert card["ready split"] == "train 4, val 1, test 2, cold_items 2"
    assert card["ready vectors: text"].startswith("6 numbers")

def test_authors_folder_with_two_or_no_vectors(tmp_path):
    assert list(load_dataset(authors(tmp_path/"two", audio=False)).features) == ["image", "text"]
    for f in (d := authors(tmp_path/"none")).glob("*_feat.npy"): f.unlink()
    assert load_dataset(d).n_items == 4

@pytest.mark.parametrize("sep", ["\t", ","])
def test_mmrec_folder(tmp_path, sep):
    ds = load_dataset(mmrec(tmp_path/"m", sep))
    assert list(ds.user_ids) == ["bob", "ann"] and list(ds.item_ids) == ["B01", "B02", "B03"]
    assert ds.interactions[["user", "item"]].to_numpy().tolist() == [[0, 1], [1, 0]] and ds.info["repeats"] == 1
    assert list(ds.interactions) == ["user", "item", "rating", "timestamp"] and ds.ready_split is None

def test_mmrec_folder_without_mappings_or_vectors(tmp_path):
    d = mmrec(tmp_path/"m", maps=False)
    assert list(load_dataset(d).item_ids) == ["0", "1", "2"]
    (d/"text_feat.npy").unlink()
    assert sorted(load_dataset(d).item_ids) == ["0", "1"]


# ---- every fault is one sentence that names the thing
def objects(path, *x): np.save(path, np.array(x, dtype=object), allow_pickle=True)

CONTRACT_FAULTS = {
    "no items table": (lambda d: (d/"items.parquet").unlink(), "items.parquet is missing"),
    "no interactions": (lambda d: (d/"interactions.parquet").unlink(), "interactions.parquet is missing"),
    "broken parquet": (lambda d: (d/"items.parquet").write_bytes(b"PAR1"), "items.parquet cannot be read as a parquet"),
    "cut parquet": (lambda d: os.truncate(d/"items.parquet", 300), "items.parquet cannot be read"),
    "broken json": (lambda d: (d/"dataset.json").write_text("{"), "dataset.json cannot be read as a JSON object"),
    "json list": (lambda d: (d/"dataset.json").write_text("[1]"), "should hold a JSON object, not a list"),
    "json bytes": (lambda d: (d/"dataset.json").write_bytes(b"\xff\xfe\xfa"), "dataset.json cannot be read"),
    "no user column": (lambda d: contract(d, frame(u=["a"], item=["x"])), "lacks the column 'user': it has u, item"),
    "no item column": (lambda d: contract(d, items=frame(asin=["x"])), "items.parquet lacks the column 'item'"),
    "empty ids": (lambda d: contract(d, frame(user=["a", None], item=["x", "y"])), "has 1 rows without 'user'"),
    "unknown item": (lambda d: contract(d, frame(user=["a"], item=["zz"])), "lacks (1 of 1, the first with 'zz')"),
    "twice": (lambda d: contract(d, items=frame(item=["x", "y", "x"])), "item 'x' stands twice"),
    "no rows": (lambda d: contract(d, frame(user=[], item=[])), "holds no interactions"),
    "milliseconds": (lambda d: contract(d, frame(user=["a"], item=["x"], timestamp=[10**12])), "not milliseconds"),
    "words for ratings": (lambda d: contract(d, frame(user=["a"], item=["x"], rating=["good"])), "'rating' that is no"),
    "lists for text": (lambda d: contract(d, items=frame(item=["x"], description=[["a"]])), "is not text"),
    "broken zip": (lambda d: (d/"images.zip").write_bytes(b"PK no"), "images.zip cannot be read as a zip"),
    "rows": (lambda d: np.save(d/"text_feat.npy", np.ones((5, 2))), "text_feat.npy has 5 rows for 3 items"),
    "flat vectors": (lambda d: np.save(d/"text_feat.npy", np.ones(3)), "should be a matrix of numbers"),
    "words for vectors": (lambda d: np.save(d/"text_feat.npy", np.array([["a"]]*3)), "should be a matrix of numbers"),
    "infinite": (lambda d: np.save(d/"text_feat.npy", np.full((3, 2), np.inf)), "infinite values"),
    "pickle": (lambda d: objects(d/"text_feat.npy", {}, {}, {}), "without Python objects"),
    "broken npy": (lambda d: (d/"text_feat.npy").write_bytes(b"\x93NUMPY"), "text_feat.npy cannot be read"),
}
AUTHORS_FAULTS = {
    "no val": (lambda d: (d/"val.txt").unlink(), "val.txt is missing"),
    "no cold": (lambda d: (d/"cold_item_index.npy").unlink(), "cold_item_index.npy is missing"),
    "words": (lambda d: (d/"train.txt").write_text("0 one two"), "train.txt cannot be read as lines of integers"),
    "cold range": (lambda d: np.save(d/"cold_item_index.npy", [4]), "integers from 0 to 3"),
    "cold floats": (lambda d: np.save(d/"cold_item_index.npy", [.5]), "integers from 0 to 3"),
    "cold pickle": (lambda d: objects(d/"cold_item_index.npy", 3, None), "without Python objects"),
    "item range": (lambda d: (d/"test.txt").write_text("0 9"), "the vectors lacks (1 of 6, the first with '9')"),
    "rows": (lambda d: np.save(d/"text_feat.npy", np.ones((3, 2))), "text_feat.npy has 3 rows for 4 items"),
}
MMREC_FAULTS = {
    "column": (lambda d: (d/"mini.inter").write_text("user\titem\n0\t1\n"), "mini.inter lacks the column 'userID'"),
    "two inters": (lambda d: (d/"other.inter").write_text("x"), "keep one .inter file"),
    "empty": (lambda d: (d/"mini.inter").write_text(""), "mini.inter cannot be read"),
    "gap": (lambda d: (d/"i_id_mapping.csv").write_text("asin\titemID\nA\t0\nB\t2\n"), "should number its rows 0, 1"),
    "short": (lambda d: (d/"u_id_mapping.csv").write_text("user_id\tuserID\nann\t0\n"), "has no userID '1'"),
    "three columns": (lambda d: (d/"i_id_mapping.csv").write_text("a\tb\titemID\nA\tx\t0"), "should have two columns"),
    "rows": (lambda d: np.save(d/"text_feat.npy", np.ones((2, 2))), "text_feat.npy has 2 rows for 3 items"),
}

@pytest.mark.parametrize("make, fault", [
    pytest.param(make, fault, id=f"{make.__name__}: {name}")
    for make, faults in ((contract, CONTRACT_FAULTS), (authors, AUTHORS_FAULTS), (mmrec, MMREC_FAULTS))
    for name, fault in faults.items()])
def test_fault(tmp_path, make, fault):
    d, (harm, sentence) = make(tmp_path/"set"), fault
    harm(d)
    with pytest.raises(UsageError) as e: load_dataset(d)
    text = str(e.value)
    assert sentence in text and "\n" not in text and text.endswith(".") and len(text) < 600
    assert e.value._render_traceback_() == [f"UsageError: {text}"]


# ---- names, places, writing
def test_names(tmp_path, monkeypatch):
    contract(tmp_path/"one"/"shop"); contract(tmp_path/"two"/"shop", items=frame(item=["x", "y"]))
    authors(tmp_path/"two"/"lat")
    (tmp_path/"two"/"nothing").mkdir()
    monkeypatch.setenv("MAMEX_DATA", os.pathsep.join(str(tmp_path/n) for n in ("one", "gone", "two")))
    monkeypatch.chdir(tmp_path)
    assert base.dataset_roots() == [tmp_path/n for n in ("one", "gone", "two", "data")] + [base.cache_dir()/"datasets"]
    assert folders.known_datasets() == ["toy", "lat", "shop"] and load_dataset("shop").n_items == 3
    assert load_dataset("two/shop").n_items == 2 and load_dataset("toy").name == "toy"
    near = r"no dataset 'shops' \(did you mean 'shop'\?\): known here are toy, lat, shop.*MAMEX_DATA"
    says = {"shops": near, "zzzz": "no dataset 'zzzz': known", "nothing": "holds no dataset", "": "holds no dataset"}
    for name, sentence in says.items():
        with pytest.raises(UsageError, match=sentence): load_dataset(name)
    monkeypatch.chdir(tmp_path/"two"/"shop")
    assert load_dataset(".").n_items == 2 and load_dataset(".").name == load_dataset(Path("../shop")).name == "shop"

def test_project_root_and_cache(tmp_path, monkeypatch):
    (tmp_path/"p"/"nbs").mkdir(parents=True)
    (tmp_path/"p"/"settings.ini").write_text("[DEFAULT]\nlib_name = mamex\n")
    monkeypatch.chdir(tmp_path/"p"/"nbs")
    assert base.project_root() == tmp_path/"p"
    (tmp_path/"p"/"nbs"/"settings.ini").write_text("not an ini")
    assert base.project_root() == tmp_path/"p"
    (tmp_path/"p"/"settings.ini").write_text("[DEFAULT]\nlib_name = other\n")
    assert base.project_root() == tmp_path/"p"/"nbs"
    monkeypatch.setenv("MAMEX_CACHE", str(tmp_path/"c"))
    assert base.cache_dir() == tmp_path/"c" and not base.cache_dir().exists()
    monkeypatch.delenv("MAMEX_CACHE")
    assert "mamex" in str(base.cache_dir())

def test_write_atomic(tmp_path):
    f = base.write_atomic(tmp_path/"a"/"b.txt", "é")
    assert f.read_bytes() == "é".encode() and base.write_atomic(f, b"2").read_bytes() == b"2"
    with pytest.raises(TypeError): base.write_atomic(f, 5)
    assert [p.name for p in f.parent.iterdir()] == ["b.txt"] and f.read_bytes() == b"2"

def test_what_save_refuses(tmp_path):
    lat = load_dataset(authors(tmp_path/"lat"))
    with pytest.raises(UsageError, match="ready split"): save_dataset(lat, tmp_path/"x")
    same(lat, load_dataset(save_dataset(replace(lat, ready_split=None), tmp_path/"x")))
    ds = load_dataset(contract(tmp_path/"s", items=frame(item=["x", "y", "a/b"])))
    ds = replace(ds, images=Images({}.get, ["a/b"]))
    with pytest.raises(UsageError, match="'a/b' cannot name a picture"): save_dataset(ds, tmp_path/"y")


# ---- k-core
def graph(pairs, n_items=8):
    inter = frame(user=[f"u{u}" for u, _ in pairs], item=[str(i) for _, i in pairs])
    items = frame(item=[str(i) for i in range(n_items)])
    ds = reading._assemble(Path("g"), inter, items, {"text": np.arange(n_items, dtype="float32")[:, None]})
    return replace(ds, truth=frame(n=range(n_items)), images=Images(lambda i: i.encode(), items["item"]))

def by_hand(pairs, k):
    "The k-core by removing one node at a time."
    pairs = set(pairs)
    while True:
        deg = {}
        for u, i in pairs:
            for v in (("u", u), ("i", i)): deg[v] = deg.get(v, 0) + 1
        if not (low := [v for v in sorted(deg) if deg[v] < k]): return pairs
        pairs = {(u, i) for u, i in pairs if low[0] not in (("u", u), ("i", i))}

@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=60), st.integers(1, 4))
def test_k_core(pairs, k):
    ds, want = graph(pairs), by_hand(pairs, k)  # largest subset: removal in any order leaves the same
    if not want:
        with pytest.raises(UsageError, match="is left in its"): k_core(ds, k)
        return
    c = k_core(ds, k)
    t = c.interactions
    assert {(int(c.user_ids[u][1:]), int(c.item_ids[i])) for u, i in zip(t.user, t.item)} == want
    assert t.user.value_counts().min() >= k and t.item.value_counts().min() >= k
    assert set(t.user) == set(range(c.n_users)) and set(t.item) == set(range(c.n_items))
    ints = [int(i) for i in c.item_ids]  # everything is cut alike, and order is kept
    assert ints == sorted(ints) == list(c.features["text"][:, 0]) == list(c.truth["n"])
    assert list(c.items["item"]) == list(c.item_ids)
    assert [u for u in ds.user_ids if u in set(c.user_ids)] == list(c.user_ids) and list(c.images) == list(c.item_ids)
    same(c, k_core(c, k))

@pytest.mark.parametrize("k", [0, -1, 2.5, "5"])
def test_k_core_refuses_k(world, k):
    with pytest.raises(UsageError, match="whole number k"): k_core(world, k)

def test_k_core_refuses_ready_split(tmp_path):
    ds = load_dataset(authors(tmp_path/"l"))
    with pytest.raises(UsageError, match="has a ready split, which a k-core would cut"): k_core(ds)


# ---- toy
def test_toy_is_deterministic(world):
    same(world, toy())
    pd.testing.assert_frame_equal(world.truth, toy().truth)
    assert not world.interactions.equals(toy(1).interactions)

@pytest.mark.parametrize("size", [(300, 400), (60, 80), (20, 20), (5, 20), (5, 100), (200, 30)])
def test_toy_is_its_own_5_core(size):
    ds = toy(3, *size)
    assert (ds.n_users, ds.n_items) == size
    same(ds, k_core(ds))

def test_toy_texts_and_pictures_tell_only_their_traits(world):
    seen = {w for k in toy_module.SEEN for w in toy_module.TRAITS[k]}
    read = {w for k in toy_module.READ for v in toy_module.READ[k].values() for w in v}
    says = (world.items["title"].fillna("") + " " + world.items["description"].fillna("")).str.lower()
    assert not seen & set(" ".join(says).replace(".", " ").split())
    names = says.map(lambda t: any(w in t for w in read))
    assert (names == world.truth["text_informative"]).all()
    for r, t in zip(world.truth.itertuples(), says):
        if r.text_informative: assert all(any(w in t for w in toy_module.READ[k][getattr(r, k)]) for k in toy_module.READ)
    sizes = {Image.open(io.BytesIO(world.images.read(i))).size for i in world.images}
    assert sizes == {(64, 64)} and world.images.read(world.item_ids[0])[:4] == b"\x89PNG"

def test_toy_parts_are_disjoint(world):
    t, there = world.truth, np.array([i in world.images for i in world.item_ids])
    written = world.items["title"].notna()
    assert (~there).sum() == (~written).sum() == 4 and (t.picture_informative | t.text_informative).all()
    assert (there & ~t.picture_informative).sum() == (written & ~t.text_informative).sum() == 80
    assert world.info["counts"] == dict(users=300, items=400, interactions=world.n_interactions, images=396,
                                        items_with_title=396, items_with_description=396)

@pytest.mark.parametrize("size", [(4, 400), (300, 19)])
def test_toy_refuses_sizes(size):
    with pytest.raises(UsageError, match="at least"): toy(0, *size)


# ---- the card
def test_card(tmp_path):
    items = frame(item=["x", "y", "z"], title=["X", " ", None], released=[None, None, None])
    f = contract(tmp_path/"s", frame(user=["a", "a"], item=["x", "y"], timestamp=[0, 86400]), items)
    (f/"images").mkdir(); (f/"images"/"z.png").write_bytes(b"?")
    np.save(f/"text_feat.npy", np.array([[1., 2], [0, 0], [np.nan, np.nan]]))
    card = dataset_card(load_dataset(f))
    assert list(card) == ["what", "value", "known on the first day"] and card.map(type).eq(str).all(axis=None)
    c = dict(card[["what", "value"]].values)
    want = {"items with title": "1", "items with picture": "1", "items with neither picture nor text": "1",
            "density": "66.667%", "time of interactions": "1970-01-01 to 1970-01-02", "items released": "not stated",
            "items never met": "1",
            "ready vectors: text": "2 numbers each, absent for 2 items"}
    assert {k: c[k] for k in want} == want


# ---- real data, where it is
REAL = dict(movielens=(610, 9742, 100836), luxury=(1841, 842, 16826), baby=(19445, 7050, 160792),
            clothing=(39387, 23033, 278677), sport=(35598, 18357, 296337))

def real(name):
    if not any((r/name).is_dir() for r in base.dataset_roots()):
        pytest.skip(f"no dataset {name!r} here: set MAMEX_DATA to the folder that holds it")
    return load_dataset(name)

@pytest.mark.parametrize("name", REAL)
def test_real_counts(name):
    ds = real(name)
    assert (ds.n_users, ds.n_items, ds.n_interactions) == REAL[name]
    n = ds.info["counts"]
    assert (len(ds.images) if ds.images else 0) == n["images"]
    card = card_of(ds)
    for c in ("title", "description"):
        if c in ds.items: assert card[f"items with {c}"] == f"{n[f'items_with_{c}']:,}"

def test_movielens_5_core():
    ds = k_core(real("movielens"))
    assert (ds.n_users, ds.n_items, ds.n_interactions, len(ds.images)) == (610, 3650, 90274, 3629)
    assert Image.open(io.BytesIO(ds.images.read(ds.item_ids[0]))).size[0] > 0


# ---- folders of other people, spoiled at random: a set, or one sentence
words = st.lists(st.one_of(st.integers(-3, 9).map(str), st.sampled_from(["", "\n", "99999999999999999999", "4000000000", "1e3", "nan", "x", "\t", "é", "\0"])), max_size=14).map(" ".join)

@settings(max_examples=120, deadline=None)
@given(st.sampled_from([authors, mmrec]), st.integers(0, 9), st.one_of(words.map(str.encode), st.binary(max_size=80)), st.integers(0, 400), st.booleans())
def test_spoiled_folders_of_others(make, which, junk, at, whole):
    with tempfile.TemporaryDirectory() as d:
        folder = make(Path(d)/"f")
        f = sorted(p for p in folder.iterdir())[which % len(list(folder.iterdir()))]
        b = f.read_bytes(); at = min(at, len(b))
        f.write_bytes(junk if whole else b[:at] + junk + b[at + len(junk):])
        try: ds = load_dataset(folder)
        except UsageError as e: assert "\n" not in str(e)
        else: assert ds.n_interactions and ds.interactions["item"].between(0, ds.n_items - 1).all()


# ---- ids are text from the first byte, whoever wrote them
ODD_IDS = ["007", "7", "NA", "nan", "null", "None", "1e5", "1.0", "True", '5" pipe', '"quoted"', "a, b", "a b", "#N/A", "-", "é", "e\u0301", "0x1F", "12345678901234567890", "ids\u200b"]

def as_written(ids, kind):
    "The ids as a column of parquet holds them."
    s = pd.Series(ids, dtype=object)
    return dict(text=s, category=s.astype("category"), bytes=s.map(str.encode), string=s.astype("string"))[kind]

@pytest.mark.parametrize("kind", ["text", "category", "bytes", "string"])
def test_parquet_keeps_ids(tmp_path, kind):
    ids = as_written(ODD_IDS, kind)
    ds = load_dataset(contract(tmp_path/"s", frame(user=ids, item=ids[::-1].reset_index(drop=True)), frame(item=ids)))
    assert list(ds.item_ids) == ODD_IDS and list(ds.user_ids) == ODD_IDS and list(ds.items["item"]) == ODD_IDS
    assert ds.interactions["item"].tolist() == list(range(len(ODD_IDS)))[::-1]

@pytest.mark.parametrize("dtype, biggest, fits", [("float64", 2**53 - 1, True), ("float64", 2**53, False), ("float32", 2**24 - 1, True), ("float32", 2**24, False),
                                                  ("int64", 2**62, True), ("uint64", 2**63 + 1, True), ("Int64", 2**62, True), ("Float64", 2**60, False)])
def test_ids_as_numbers_are_exact_or_refused(tmp_path, dtype, biggest, fits):
    d = contract(tmp_path/"s", frame(user=pd.Series([1, biggest], dtype=dtype), item=["x", "y"]))
    if fits: assert list(load_dataset(d).user_ids) == ["1", str(biggest)]
    else:
        with pytest.raises(UsageError, match="no user id in row 2 .*floating-point"): load_dataset(d)

def test_ids_that_are_none(tmp_path):
    for bad, says in (([True, False], "truth value"), ([1.5, 2.], "fraction"), ([["a"], ["b"]], "lists"), (["a", None], "rows without 'user'")):
        with pytest.raises(UsageError, match=says): load_dataset(contract(tmp_path/"s", frame(user=bad, item=["x", "y"])))

def test_unknown_items_are_hinted_at(tmp_path):
    for here, there in (("7", "007"), ("e\u0301", "é"), ("1.0", "1")):
        with pytest.raises(UsageError, match="perhaps"): load_dataset(contract(tmp_path/"s", frame(user=["a"], item=[here]), frame(item=[there, "other"])))

tokens = st.text(st.characters(blacklist_characters="\t\n\r\0", blacklist_categories=["Cs", "Zl", "Zp"]), min_size=1, max_size=8).filter(lambda s: s.strip() and not s.startswith('"') and s[0] != "\ufeff")

@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(tokens, st.sampled_from([i for i in ODD_IDS if not i.startswith('"')])), min_size=1, max_size=8, unique=True), st.sampled_from(["\t", ","]), st.booleans(), st.booleans())
def test_mmrec_mapping_keeps_ids(ids, sep, number_first, crlf):
    if sep == "," and number_first is None: return
    with tempfile.TemporaryDirectory() as d:
        d = mmrec(Path(d)/"m", maps=False); (d/"text_feat.npy").unlink()
        line = lambda i, n: f"{n}{sep}{i}" if number_first else f"{i}{sep}{n}"
        text = ("\r\n" if crlf else "\n").join([line("asin", "itemID"), *(line(i, n) for n, i in enumerate(ids)), ""])
        (d/"i_id_mapping.csv").write_bytes(text.encode())
        (d/"mini.inter").write_text("userID\titemID\n" + "".join(f"0\t{n}\n" for n in range(len(ids))))
        assert list(load_dataset(d).item_ids) == ids

@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(tokens, st.sampled_from(ODD_IDS[:9])), min_size=1, max_size=8, unique=True), st.booleans())
def test_recbole_keeps_ids_and_rows(ids, items):
    with tempfile.TemporaryDirectory() as d:
        (d := Path(d)/"r").mkdir()
        (d/"r.inter").write_bytes(("user_id:token\titem_id:token\n" + "".join(f"u\t{i}\n" for i in ids)).encode())
        if items: (d/"r.item").write_bytes(("item_id:token\ttitle:token_seq\tprice:float\n" + "".join(f'{i}\t"lone {n}\t\n' for n, i in enumerate(ids))).encode())
        ds = load_dataset(d)
        assert list(ds.item_ids) == ids and ds.n_interactions == len(ids)
        if items: assert ds.items["title"].tolist() == [f'"lone {n}' for n in range(len(ids))]

@pytest.mark.parametrize("text, says", [
    ("1\t10\t5\t881250949\n2\t11\t3\t881250949\n", "has no header.*user_id:token"),
    ("0,1,5.0\n1,2,4\n", "has no header"),
    ("userID,itemID\n0,1\n", "not separated by tabs"),
    ("user_id:token\tmovie:token\n1\t2\n", "lacks the column 'item_id'.*rename"),
    ("userID\tmovie\n1\t2\n", "lacks the column 'itemID'"),
    ("userID\titemID\n1\t2\t3\n", "cannot be read as a tab separated table"),
    ("userID\titemID\n1\n", "rows without 'itemID'"),
    ("user_id:token\titem_id:token\ttimestamp:float\n1\t2\tsoon\n", "no number and no date, 'soon' in row 1"),
])
def test_inter_says_the_remedy(tmp_path, text, says):
    (tmp_path/"s").mkdir(); (tmp_path/"s"/"s.inter").write_text(text)
    with pytest.raises(UsageError, match=says): load_dataset(tmp_path/"s")

def test_recbole_vectors_need_items(tmp_path):
    (d := tmp_path/"s").mkdir(); (d/"s.inter").write_text("user_id:token\titem_id:token\nu\tb\nu\ta\n"); np.save(d/"image_feat.npy", np.eye(3))
    with pytest.raises(UsageError, match="no s.item that says whose row"): load_dataset(d)
    (d/"s.item").write_text("item_id:token\tmovie_title:token_seq\trelease_year:token\na\tA\t1995\nb\tNA\t\nc\tC\t1997\n")
    ds = load_dataset(d)
    assert list(ds.item_ids) == ["a", "b", "c"] and ds.items["title"].tolist() == ["A", "NA", "C"] and ds.interactions["item"].tolist() == [1, 0]
    assert core_module.release_times(ds.items)[0][[0, 2]].tolist() == [788918400, 852076800]


# ---- LATTICE's own folders
def lattice(d, core="0-core", cold=True):
    (d/core).mkdir(parents=True)
    parts = dict(train={"0": [0, 1], "1": [1]}, val={"0": [2], "1": []}, test={"0": [], "1": [3 if cold else 0]})
    for p, met in parts.items(): (d/core/f"{p}.json").write_text(json.dumps(met))
    np.save(d/"image_feat.npy", np.eye(5))
    return d

def test_lattice_folder(tmp_path):
    ds = load_dataset(lattice(tmp_path/"sports"))
    assert list(ds.item_ids) == list("01234") and {k: v.tolist() for k, v in ds.ready_split.items()} == dict(
        train=[[0, 0], [0, 1], [1, 1]], val=[[0, 2]], test=[[1, 3]], cold_items=[2, 3])

def test_lattice_ids_and_warm_split(tmp_path):
    d = lattice(tmp_path/"sports", "5-core", cold=False)
    (d/"5-core"/"item_list.txt").write_text("".join(f"{i}\t{n}\n" for n, i in enumerate(["007", "NA", "1e5", 'a"', "b c"])))
    (d/"5-core"/"user_list.txt").write_text("ann\t0\nbob\t1\n")
    ds = load_dataset(d)
    assert list(ds.item_ids) == ["007", "NA", "1e5", 'a"', "b c"] and list(ds.user_ids) == ["ann", "bob"] and ds.ready_split is None and ds.n_interactions == 5
    lattice(d, "0-core")
    assert load_dataset(d).ready_split["cold_items"].tolist() == [2, 3] and list(load_dataset(d).user_ids) == ["ann", "bob"]

@pytest.mark.parametrize("harm, says", [
    (lambda d: (d/"0-core"/"val.json").unlink(), "val.json is missing"),
    (lambda d: (d/"0-core"/"val.json").write_text("{"), "cannot be read as a JSON object"),
    (lambda d: (d/"0-core"/"val.json").write_text('{"ann": [1]}'), "number users and items"),
    (lambda d: (d/"0-core"/"test.json").write_text('{"0": [9]}'), "lacks|integers from 0 to 4"),
    (lambda d: (d/"0-core"/"item_list.txt").write_text("a\t0\n"), "should list 5 ids"),
])
def test_lattice_faults(tmp_path, harm, says):
    harm(d := lattice(tmp_path/"s"))
    with pytest.raises(UsageError, match=says): load_dataset(d)


# ---- folders of no known kind: the sentence says what to do with what lies there
@pytest.mark.parametrize("names, says", [
    (["products.csv", "clicks.csv"], "mamex import"), (["a.jsonl"], r"read_json\('a.jsonl', lines=True\)"), (["shop.inter.gz"], "gunzip shop.inter.gz"),
    (["clicks.parquet"], "interactions.parquet"), (["shop.xlsx"], "mamex import"), ([], "it needs interactions.parquet"), ([".DS_Store"], "it needs interactions.parquet")])
def test_unknown_folders(tmp_path, names, says):
    (d := tmp_path/"s").mkdir()
    for n in names: (d/n).write_text("x")
    with pytest.raises(UsageError, match=f"holds no dataset.*{says}"): load_dataset(d)

def test_one_folder_too_high_or_deep(tmp_path):
    contract(tmp_path/"shops"/"mine"); lattice(tmp_path/"sports")
    with pytest.raises(UsageError, match="give its folder mine instead"): load_dataset(tmp_path/"shops")
    with pytest.raises(UsageError, match="give the folder above it"): load_dataset(tmp_path/"sports"/"0-core")
    with pytest.raises(UsageError, match="is a file: give the dataset folder"): load_dataset(tmp_path/"shops"/"mine"/"items.parquet")

def test_column_names_that_are_nearly_right(tmp_path):
    for t, says in ((frame(user_id=["a"], item_id=["x"]), "rename 'user_id' to 'user'"), (frame(User=["a"], item=["x"]), "rename 'User' to 'user'"),
                    (frame(user=["a"], item=["x"]).set_index("user"), "index=False")):
        with pytest.raises(UsageError, match=says): load_dataset(contract(tmp_path/"s", t))


# ---- times
JAN, FEB = 1704067200, 1706745600  # 2024-01-01, 2024-02-01
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_parquet_datetimes_are_seconds(tmp_path, unit, zone):
    t = pd.Series(pd.to_datetime(["2024-01-01", "2024-02-01"])).dt.as_unit(unit)
    if zone: t = t.dt.tz_localize("UTC").dt.tz_convert(zone)
    ds = load_dataset(contract(tmp_path/"s", frame(user=["a", "b"], item=["x", "y"], timestamp=t)))
    assert ds.interactions["timestamp"].tolist() == [JAN, FEB] and ds.interactions["timestamp"].dtype == "int64"

@pytest.mark.parametrize("values, want", [
    (pd.to_datetime(["2024-01-01", None]), [JAN, None]), ([datetime.date(2024, 1, 1), None], [JAN, None]), (["2024-01-01", "01.02.2024"], [JAN, FEB]),
    (["2024-01-01T00:00:00Z", ""], [JAN, None]), (["1704067200", "1706745600"], [JAN, FEB]), ([JAN, -1], [JAN, None]), ([float(JAN), np.nan], [JAN, None]),
    (["1/31/2024", "2/1/2024"], [JAN + 30*86400, FEB])])
def test_times_of_any_writing(tmp_path, values, want):
    got = load_dataset(contract(tmp_path/"s", frame(user=["a", "b"], item=["x", "y"], timestamp=values))).interactions["timestamp"]
    assert [None if pd.isna(v) else v for v in got] == want

@pytest.mark.parametrize("values, says", [
    (["2024-01-01", "soon"], "'soon' in row 2"), (["03/04/2024", "05/06/2024"], "write dates as 2024-01-31"), ([20240131120000, 20240201120000], "dates as text"),
    ([JAN*1000, FEB*1000], "not milliseconds")])
def test_times_that_are_refused(tmp_path, values, says):
    with pytest.raises(UsageError, match=says): load_dataset(contract(tmp_path/"s", frame(user=["a", "b"], item=["x", "y"], timestamp=values)))

@pytest.mark.parametrize("values, says", [([20240131, JAN], "1 lie in 1970"), ([45000, 45001], "2 lie in 1970"), ([JAN, 4*10**9], "1 lie in the future"), ([JAN, FEB], None)])
def test_odd_times_load_with_a_word(tmp_path, values, says):
    d = contract(tmp_path/"s", frame(user=["a", "b"], item=["x", "y"], timestamp=values))
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter("always"); load_dataset(d)
    assert [str(x.message) for x in w] == [] if says is None else len(w) == 1 and says in str(w[0].message) and "\n" not in str(w[0].message)

DAYS = pd.date_range("1995-02-03", "2023-12-28", periods=40)
@pytest.mark.parametrize("write", [lambda d: d.strftime("%Y-%m-%d"), lambda d: d.strftime("%d.%m.%Y"), lambda d: d.strftime("%m/%d/%Y"), lambda d: d.strftime("%Y%m%d"), lambda d: d,
                                   lambda d: d.date(), lambda d: d.tz_localize("UTC"), lambda d: d.strftime("%B %d, %Y"), lambda d: int(d.strftime("%Y%m%d")), lambda d: d.isoformat()])
def test_release_times(write):
    sec, bad, note = core_module.release_times(frame(released=[write(d) for d in DAYS] + [None]))
    assert not bad.any() and np.isnan(sec[-1]) and note
    assert (np.abs(sec[:-1] - (DAYS.normalize() - pd.Timestamp(0)).total_seconds()) < 86400).all()

@pytest.mark.parametrize("values", [[1995, 1996], [1995., np.nan], pd.array([1995, None], dtype="Int32"), ["1995", "1996"], ["1995.0", ""], pd.array([1995, 1996], dtype="int16")])
def test_release_years(values):
    sec, bad, note = core_module.release_times(frame(released=values))
    assert sec[0] == 788918400 and not bad.any() and "years" in note

def test_releases_that_cannot_be_read_are_marked_and_counted(tmp_path):
    items = frame(item=["x", "y", "z"], released=["1999-03-05", "soon", None])
    sec, bad, _ = core_module.release_times(items)
    assert bad.tolist() == [False, True, False] and np.isnan(sec[1:]).all()
    assert card_of(load_dataset(contract(tmp_path/"s", items=items, inter=frame(user=["a"], item=["x"]))))["items released"] == "1999-03-05 to 1999-03-05; 1 not stated; 1 cannot be read"
    with pytest.raises(UsageError, match="'released'.*2024-01-31"): core_module.release_times(frame(released=["03/04/2024"]))
    assert "not read" in core_module._released(frame(released=["03/04/2024"]))


# ---- pictures
def put(where, files):
    for n, b in files.items():
        (f := where/n).parent.mkdir(parents=True, exist_ok=True)
        f.write_bytes(b)

TREE = {"010/x.jpg": b"deep", "y.JPG": b"y", "new.gif": b"GIF8", "a/b/y.png": b"second", "__MACOSX/010/._x.jpg": b"?", ".DS_Store": b"?", "Thumbs.db": b"?", "010/._x.jpg": b"?", "@eaDir/x.jpg": b"?", "q.bmp": b"stray"}
@pytest.mark.parametrize("as_zip", [False, True])
def test_pictures_in_sub_folders(tmp_path, as_zip):
    from mamex.datasets.checks.folder import check_folder
    d = contract(tmp_path/"s")
    if as_zip:
        with zipfile.ZipFile(d/"images.zip", "w") as z: [z.writestr(n, b) for n, b in TREE.items()]
    else: put(d/"images", TREE)
    ds = load_dataset(d)
    assert {i: ds.images.read(i) for i in ds.images} == {"x": b"deep", "y": b"y", "new": b"GIF8"} and ds.info["stray_images"] == 1
    said = {(p.kind, p.file.partition("/")[2]) for p in check_folder(d) if p.file.startswith("images")}
    assert {k for k in said if k[0] != "unreadable picture"} == {("two pictures", "a/b/y.png"), ("stray picture", "q.bmp")}

ACCENTS = ["é", "e\u0301", "ü", "u\u0308", "Å", "A\u030a", "カ\u3099", "ガ", "7", "07"]
@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(ACCENTS), min_size=1, max_size=6, unique=True), st.lists(st.sampled_from(ACCENTS), max_size=6, unique=True))
def test_names_in_one_form(items, names):
    at, one = pictures_module.match_names(items, names), pictures_module.one_form
    assert all(at[i] == i for i in set(items) & set(names))  # exact: its own
    assert len(set(at.values())) == len(at)                  # nobody else's
    assert all(one(i) == one(n) for i, n in at.items())
    for i in set(items) - set(at): assert not [n for n in names if one(n) == one(i) and n not in items] or sum(one(j) == one(i) and j not in names for j in items) > 1

def test_zip_names_without_the_flag_for_utf8(tmp_path):
    d = contract(tmp_path/"s", items=frame(item=["é", "ü", "x"]), inter=frame(user=["a"], item=["x"]))
    names = {"A"*6: "é.png".encode(), "B"*7: "u\u0308.png".encode()}
    with zipfile.ZipFile(d/"images.zip", "w") as z: [z.writestr(n, b) for n, b in names.items()]
    b = (d/"images.zip").read_bytes()
    for n, raw in names.items(): b = b.replace(n.encode(), raw)  # the bytes of UTF-8, unmarked
    (d/"images.zip").write_bytes(b)
    im = load_dataset(d).images
    assert {i: im.read(i) for i in im} == {"é": "é.png".encode(), "ü": "u\u0308.png".encode()}

def test_a_picture_stays_its_items_when_items_go(tmp_path):
    d = contract(tmp_path/"s", items=frame(item=["é", "e\u0301", "x"]), inter=frame(user=["a"], item=["e\u0301"]))
    put(d/"images", {"é.png": b"hers"})
    ds = load_dataset(d)
    assert list(ds.images) == ["é"] and list(k_core(ds, 1).item_ids) == ["e\u0301"] and not len(k_core(ds, 1).images)


# ---- one long id
def test_one_long_id_does_not_make_all_ids_as_wide(tmp_path):
    import tracemalloc
    n, ids = 100_000, [f"i{k}" for k in range(100_000)]
    ids[5] = "x"*100_000
    d = contract(tmp_path/"s", frame(user=ids, item=ids), frame(item=ids))
    tracemalloc.start()
    try: ds = load_dataset(d); peak = tracemalloc.get_traced_memory()[1]
    finally: tracemalloc.stop()
    assert ds.item_ids.dtype == ds.user_ids.dtype == object and type(ds.item_ids[5]) is str and len(ds.item_ids[5]) == 100_000
    assert peak < 300e6  # as fixed-width text one column alone would take 40 GB
    assert k_core(ds, 1).item_ids.dtype == object and toy().item_ids.dtype == object


# ---- words of users
def test_a_planted_column_of_users_is_no_text(world):
    met = np.bincount(world.interactions["item"], minlength=world.n_items)
    tags = replace(world, items=world.items.assign(tags=[" ".join(["nice"]*m) or None for m in met]))
    assert core_module.text_columns(tags.items, tags.info) == ["title", "description"] and core_module.feedback_columns(tags.items, tags.info) == ["tags"]
    day = dataset_card(tags).set_index("what")["known on the first day"]
    assert day["items with tags, not read"] == "no (feedback)" and day["items with title"] == day["items with picture"] == "yes" and day["density"] == ""

def test_a_planted_column_of_any_name_is_warned_of(tmp_path, world):
    from mamex.datasets.checks.folder import check_folder
    met = np.bincount(world.interactions["item"], minlength=world.n_items)
    rng = np.random.default_rng(0)
    skewed = world.interactions.assign(item=np.minimum(rng.zipf(1.3, world.n_interactions) - 1, world.n_items - 1)).drop_duplicates()
    count = np.bincount(skewed["item"], minlength=world.n_items)
    half = world.interactions[world.interactions["item"] < 300]
    for inter, text in ((skewed, ["good "*m or None for m in count]), (half, ["good" if i < 300 else None for i in range(400)])):
        ds = replace(world, interactions=inter.reset_index(drop=True), items=world.items.assign(blurbs=text))
        d = save_dataset(ds, tmp_path/"s")
        said = {p.what.split("'")[1]: p for p in check_folder(d, pictures=False) if p.kind.startswith("column of users?")}
        assert set(said) == {"blurbs"} and '"feedback": ["blurbs"]' in said["blurbs"].remedy
        info = json.loads((d/"dataset.json").read_text())
        for role, text_too in (("feedback", False), ("content", True)):
            (d/"dataset.json").write_text(json.dumps(info | {role: ["blurbs"]}))
            assert not [p for p in check_folder(d, pictures=False) if p.kind.startswith("column of users?")]
            assert ("blurbs" in core_module.text_columns(ds.items, load_dataset(d).info)) == text_too

@pytest.mark.parametrize("name", REAL)
def test_real_texts_are_not_taken_for_words_of_users(name):
    from mamex.datasets.checks.content import longest_met
    from mamex.datasets.checks.folder import check_folder
    ds = real(name)
    assert not [p for p in check_folder(name, pictures=False) if p.kind.startswith("column of users?") or p.level == "error"]
    if "tags" in ds.items:
        met = np.bincount(ds.interactions["item"], minlength=ds.n_items)
        length = {c: ds.items[c].map(lambda v: len(v) if isinstance(v, str) else 0).to_numpy() for c in ("tags", "title", "description", "genres")}
        x = {c: longest_met(v, met) for c, v in length.items()}
        assert x["tags"] > 4 > 2 > max(x["title"], x["description"], x["genres"])


# ---- what check says to a shop that is well
def test_a_healthy_shop_gets_a_handful_of_lines(tmp_path, world):
    from mamex.datasets.checks.folder import check_folder
    from mamex.datasets.checks.problems import say_problems
    half = replace(world, interactions=world.interactions[world.interactions["item"] < 90].reset_index(drop=True),
                   items=world.items.assign(title=["A &amp; B" if k % 2 else None for k in range(400)]))
    found = check_folder(save_dataset(half, tmp_path/"s"))
    lines = say_problems(found).splitlines()
    assert len(found) > 500 and len(lines) < 8 and all(len(l) < 300 for l in lines) and "np." not in "".join(lines)
    assert all((p.level == "note") == p.remedy.startswith("Nothing to do") for p in found)
    assert len(say_problems(found, None).splitlines()) == len(found) + 1

def test_check_command_counts_warnings_not_notes(tmp_path, world, capsys):
    from mamex.cli import main
    d = str(save_dataset(replace(world, interactions=world.interactions[world.interactions["item"] < 300].reset_index(drop=True)), tmp_path/"s"))
    assert main(["check", d, "--strict", "--no-pictures"]) == 1  # no title for some: warnings
    full = replace(world, items=world.items.fillna(dict(title="T", description="D")), interactions=world.interactions[world.interactions["item"] < 300].reset_index(drop=True), info=world.info | dict(counts={}))
    d = str(save_dataset(full, tmp_path/"t"))
    capsys.readouterr()
    assert main(["check", d, "--strict", "--no-pictures"]) == 0
    short = capsys.readouterr().out
    assert main(["check", d, "--all", "--no-pictures"]) == 0
    assert "nobody has met this item, 100 times" in short and len(short.splitlines()) == 2 and len(capsys.readouterr().out.splitlines()) == 101
