"The way of a shop through the command line, and what a recommender promises."
import io, json, os, shutil, subprocess, sys, warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from scipy import sparse

from mamex import cli, trainer
from mamex.datasets import Dataset
from mamex.recommender import core, explaining, fitting, folding, store
from mamex.vectors import texts

from mamex.base import UsageError
from mamex.datasets.folders import load_dataset, save_dataset
from mamex.datasets.toy import toy
from mamex.vectors.features import Features
from mamex.extractor import Extractor
from mamex.model import Config
from mamex.trainer import preset
from mamex.recommender.core import Recommender
from mamex.recommender.ranking import top_items
from mamex.protocol.splits import Split, cold_split
from conftest import ROOT

QUICK = dict(deadline=None, suppress_health_check=list(HealthCheck))
FEW = dict(epochs=30, patience=20, dim=32)


@pytest.fixture(scope="module")
def fitted(world): return Recommender.fit(world, "tiny", "released", seed=3, progress=False, **FEW)

@pytest.fixture
def rec(fitted, tmp_path): return Recommender.load(fitted.save(tmp_path/"fresh"))  # a test may change it

@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory): return fitted.save(tmp_path_factory.mktemp("saved")/"model")


# ---- the whole way in a shell, from an empty folder
def photos_and_tables(d):
    ds = toy(n_users=60, n_items=50)
    sku = np.array([f"{n:05d}" for n in range(50)])
    (d/"photos").mkdir()
    for n, i in enumerate(ds.item_ids):
        if i in ds.images: (d/"photos"/f"{sku[n]}.png").write_bytes(ds.images.read(i))
    ds.items.assign(sku=sku)[["sku", "title", "description"]].to_csv(d/"products.csv", index=False)
    t = ds.interactions[ds.interactions["item"] < 44]
    pd.DataFrame(dict(customer=ds.user_ids[t["user"]], sku=sku[t["item"]])).to_csv(d/"clicks.csv", index=False)
    pd.DataFrame(dict(sku=["later"], title=["A lamp for the garden"])).to_csv(d/"tomorrow.csv", index=False)
    (d/"walkin.json").write_text('{"walk-in": ["00003"]}')


def test_the_way_of_a_shop_through_the_command_line(tmp_path):
    photos_and_tables(tmp_path)
    def mamex(line, status=0):
        done = subprocess.run([sys.executable, "-m", "mamex.cli", *line.split()], cwd=tmp_path, capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=str(ROOT)))
        assert done.returncode == status and "Traceback" not in done.stderr, done.stdout + done.stderr
        return done.stdout, done.stderr
    out, _ = mamex("import products.csv clicks.csv --pictures photos --to shop")
    assert "item is the column 'sku'" in out and "49 of 50 products matched" in out
    done = subprocess.run([sys.executable, "-m", "mamex.cli", "check", "shop"], cwd=tmp_path, capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=str(ROOT)))
    assert done.returncode == 0 and "0 errors" in done.stdout
    mamex("fit shop --to model --encoder tiny")
    mamex("recommend model --users u0000 u0001 --k 3 --histories walkin.json --out recommendations.csv")
    t = pd.read_csv(tmp_path/"recommendations.csv", dtype=dict(item=str))
    assert list(t) == ["user", "rank", "item", "score", "title"] and t["user"].tolist() == ["u0000"]*3 + ["u0001"]*3 + ["walk-in"]*3 and set(t["item"]) <= {f"{n:05d}" for n in range(44, 50)}
    _, err = mamex("recommend model --users nobody", 2)
    assert "unknown users 'nobody'" in err and len(err.strip().splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clicks.csv", "model", "photos", "products.csv", "recommendations.csv", "shop", "tomorrow.csv", "walkin.json"]


def test_commands_and_their_status(tmp_path, saved, capsys):
    "0: fine, 1: problems in data, 2: wrong usage; one sentence on stderr."
    photos_and_tables(tmp_path)
    def run(*argv):
        try: status = cli.main([str(a) for a in argv])
        except SystemExit as e: status = e.code
        return status, *capsys.readouterr()
    shutil.copytree(saved, tmp_path/"m")
    status, out, _ = run("add", tmp_path/"m", tmp_path/"tomorrow.csv")
    assert status == 0 and "51 items" in out
    status, out, _ = run("explain", tmp_path/"m", "later")
    assert status == 0 and "missing: image" in out
    assert run("add", tmp_path/"m", tmp_path/"tomorrow.csv")[0] == 2  # known by now
    status, out, _ = run("recommend", tmp_path/"m", "--users", "u0001", "--among", "later", "i0047", "--out", tmp_path/"r.json")
    assert status == 0 and [r["rank"] for r in json.loads((tmp_path/"r.json").read_text())] == [1, 2]
    (tmp_path/"users.txt").write_text("u0003\n\nu0004\n")
    status, out, _ = run("recommend", tmp_path/"m", "--users-from", tmp_path/"users.txt", "--top-k", 2)
    assert status == 0 and out.count("u0003") == out.count("u0004") == 2
    (tmp_path/"products.csv").write_text("sku,name\n1,a\n1,b\n")
    status, out, _ = run("import", tmp_path/"products.csv", tmp_path/"clicks.csv", "--to", tmp_path/"s")
    assert status == 1 and "products.csv row 2" in out and "Nothing was written" in out and not (tmp_path/"s").exists()
    (tmp_path/"bad").mkdir(); (tmp_path/"bad"/"items.parquet").write_bytes(b"")
    status, out, err = run("check", tmp_path/"bad")
    assert status == 1 and "interactions.parquet" in out and "items.parquet" in out
    save_dataset(toy(n_users=9, n_items=20), tmp_path/"good")
    assert run("check", tmp_path/"good")[0] == 0 and run("check", tmp_path/"good", "--strict")[0] == 1
    for argv in (["check", tmp_path/"none"], ["fit", "toy", "--to", tmp_path/"x", "--encoder", "tinny"], ["fit", "toy", "--to", tmp_path/"x", "--set", "epoch=3"], ["fly"], [],
                 ["recommend", tmp_path/"none"], ["recommend", saved, "--out", "x.txt"], ["recommend", saved, "--k", 0], ["recommend", saved, "--users-from", tmp_path/"none"],
                 ["import", "none.csv", "none.csv", "--to", tmp_path/"x"], ["explain", saved, "nothing"]):
        status, _, err = run(*argv)
        assert status == 2 and err and "Traceback" not in err, argv
    assert not (tmp_path/"x").exists()


def test_a_command_can_be_added(capsys, monkeypatch):
    monkeypatch.setattr(cli, "COMMANDS", dict(cli.COMMANDS))
    @cli.command("fetch", cli.opt("name"))
    def fetch(a):
        "get a set"
        print("got", a.name); return 0
    assert cli.main(["fetch", "sport"]) == 0 and "got sport" in capsys.readouterr().out


# ---- ranking
@settings(max_examples=80, **QUICK)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 90), st.integers(1, 12), st.integers(1, 40), st.integers(1, 5), st.floats(0, 1))
def test_running_top_k_is_a_stable_sort(seed, n_users, n_items, k, block, chunk, share):
    "Many ties, any blocks, any bans: the same as sorting the whole row; equal scores in the catalogue's order."
    rng = np.random.default_rng(seed)
    U, V = (rng.integers(-1, 2, (n, 2)).astype(np.float32) for n in (n_users, n_items))
    no = rng.random((n_users, n_items)) < share
    I, S = top_items(U, lambda a, b: V[a:b], n_items, k, sparse.csr_array(no), block, chunk)
    for u in range(n_users):
        s = U[u] @ V.T
        best = [i for i in np.argsort(-s, kind="stable") if not no[u, i]][:k]
        assert I[u][I[u] >= 0].tolist() == best and S[u][:len(best)].tolist() == s[best].tolist()


def test_recommendations_are_sorted_unseen_and_the_model_s(rec, world):
    seen = set(zip(world.user_ids[world.interactions["user"]], world.item_ids[world.interactions["item"]]))
    t = rec.recommend(k=50, among="all")
    assert not seen & set(zip(t["user"], t["item"])) and len(t) == 60*50 - len(seen)
    for _, g in t.groupby("user"): assert (np.diff(g["score"]) <= 0).all() and g["rank"].tolist() == list(range(1, len(g) + 1))
    all_ = rec.recommend(["u0007"], k=50, among="all", exclude_seen=False)
    assert len(all_) == 50 and len(rec.recommend(["u0007"], top_k=4, among=["i0001", "i0003", "i0001"], exclude_seen=False)) == 2
    catalogue = rec.model.catalogue(Extractor("tiny").extract(world, progress=False))
    score = rec.model.scorer(catalogue)(np.array([7]), np.arange(50))[0]
    bare = ~rec.has.any(1)
    np.testing.assert_allclose(all_.set_index("item").loc[world.item_ids, "score"], score, rtol=0, atol=2e-6)
    assert set(rec.recommend()["item"]) == set(world.item_ids[44:]) and not bare.all()
    a, b = (x.set_index(["user", "item"])["score"].sort_index() for x in (t, rec.recommend(k=50, among="all", block=7)))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)  # smaller blocks round otherwise
    pd.testing.assert_frame_equal(t, rec.recommend(k=50, among="all"), check_exact=True)


def test_what_is_asked_wrongly_is_said(rec):
    for call, why in ((lambda: rec.recommend(["x", "y"]), "unknown users 'x', 'y'.*histories"), (lambda: rec.recommend(["u0000"], among=["y", "z"]), "unknown items 'y', 'z'"),
                      (lambda: rec.recommend(["u0000"], among="newest"), "'new', 'all'"), (lambda: rec.recommend(["u0000"], k=0), "k is 0"), (lambda: rec.recommend(["u0000"], among=[]), "no item to recommend"),
                      (lambda: rec.recommend(histories={"u0000": ["i0001"]}), "are known"), (lambda: rec.recommend(histories={"new": ["zz"]}), "unknown items 'zz'"),
                      (lambda: rec.recommend({"a": ["i0000"]}), "histories="), (lambda: rec.explain("zz"), "unknown items 'zz'")):
        with pytest.raises(UsageError, match=why): call()


# ---- training
def test_same_input_and_seed_same_bytes(fitted, world, saved, tmp_path):
    again = Recommender.fit(world, "tiny", "released", seed=3, progress=False, **FEW).save(tmp_path/"again")
    for n in ("model.safetensors", "items.safetensors", "items.parquet", "users.parquet"): assert (again/n).read_bytes() == (saved/n).read_bytes()


def test_held_out_items_choose_and_everything_trains(fitted, world, monkeypatch):
    seen = []
    class Spy(trainer.Trainer):
        def __init__(self, features, split, *a, **k): super().__init__(features, split, *a, **k); seen.append((split, self))
    monkeypatch.setattr(fitting, "Trainer", Spy); monkeypatch.setattr(trainer, "Trainer", Spy)
    rec = Recommender.fit(world, "tiny", "released", seed=3, progress=False, **FEW)
    (choose, _), (everything, t) = seen
    assert len(choose.val_items) == 9 and not set(choose.train[:, 1]) & set(choose.val_items) and len(choose.train) + len(choose.val) == world.n_interactions
    assert len(everything.train) == world.n_interactions and len(everything.cold_items) == 0 and everything.n_items == 44
    assert t.next_epoch == rec.about["epochs"] and rec.about["held_out"] == "9 of 44 items held out, seed 3" and set(rec.about["fold_in"]) == {*(f"λ = {x:g}" for x in folding.LAMBDAS), *(f"κ = {x:g}" for x in folding.PRIORS), "trained"}
    one = Recommender.fit(world, "tiny", "released", seed=3, refit=False, progress=False, **FEW)
    assert len(seen) == 3 and not np.array_equal(one.users, rec.users) and one.about["epochs"] == rec.about["epochs"]


def test_small_and_odd_shops(tmp_path):
    ds = toy(n_users=6, n_items=20)
    few = replace(ds, interactions=ds.interactions[ds.interactions["item"] < 4])
    with pytest.raises(UsageError, match="4 items that somebody has met: .* at least 5"): Recommender.fit(few, "tiny", progress=False)
    least = replace(ds, interactions=pd.DataFrame(dict(user=[0, 1, 2, 3, 4, 5], item=[0, 1, 2, 3, 4, 0])))  # one interaction a user, five items met
    for refit in (True, False):
        rec = Recommender.fit(least, "tiny", "released", refit=refit, progress=False, epochs=3)
        assert len(rec.recommend(k=3)) == 18 and np.isfinite(rec.users).all()
        assert len(Recommender.fit(least, "tiny", refit=refit, progress=False).recommend(k=3)) == 18
    for kw, why in ((dict(holdout=1), "share"), (dict(config="best of all"), "preset"), (dict(config="released", epoch=3), "epochs"), (dict(config="released", context="gate"), "dates"),
                    (dict(epochs=3), "solved and has no epochs"), (dict(seed=-1), "seed is -1"), (dict(seed=1.5), "whole number")):
        with pytest.raises(UsageError, match=why): Recommender.fit(ds, "tiny", progress=False, **kw)


# ---- items that come later
def test_added_items_have_the_scores_of_items_that_were_there(fitted, world):
    "To the rounding of a matrix product: a catalogue without three items, and these added, is the catalogue."
    out = [45, 46, 49]
    keep = np.delete(np.arange(50), out)
    less = replace(world, items=world.items.iloc[keep].reset_index(drop=True), item_ids=world.item_ids[keep], images=world.images.only(world.item_ids[keep]))
    rec = Recommender.fit(less, "tiny", "released", seed=3, progress=False, **FEW)
    # on some processors the last digits of a vector depend on how many items the encoder read with it
    for name, w in fitted.model.state_dict().items(): torch.testing.assert_close(rec.model.state_dict()[name], w, atol=1e-5, rtol=1e-4, msg=name)
    ids = world.item_ids[out]
    rec.add_items(world.items.iloc[out], {i: world.images.read(i) for i in ids if i in world.images})
    a, b = (r.recommend(k=3, among=list(ids)).set_index(["user", "item"])["score"].sort_index() for r in (rec, fitted))
    np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4)
    np.testing.assert_array_equal(rec.has[-3:], fitted.has[out])


def test_add_items_in_all_ways(rec, tmp_path):
    Image.new("RGB", (9, 9), "red").save(tmp_path/"red.png")
    before = rec.recommend(k=50, among="all")
    rec.add_items(pd.DataFrame(dict(item=["p", "q"], title=["Lamp", None], colour=["red", "blue"])), {"p": tmp_path/"red.png", "q": Image.new("F", (4, 4))})
    rec.add_items(dict(item="r", title="A lamp")).add_items([dict(item=7, title=8.)]).add_items([])
    assert rec.items["item"].tolist()[-4:] == ["p", "q", "r", "7"] and rec.has[-4:].tolist() == [[True, True], [True, False], [False, True], [False, True]]
    t = rec.recommend(["u0000"], k=99)
    assert {"p", "q", "r", "7"} <= set(t["item"]) and np.isfinite(t["score"]).all() and t.set_index("item").loc["p", "title"] == "Lamp"
    assert rec.items["title"].tolist()[-1] == "8" and rec.explain("7").missing == ["image"]
    with pytest.raises(UsageError, match="reads nothing of the new items 'blank': they bring no value, it reads title, description, pictures"): rec.add_items(dict(item="blank"))
    after = rec.recommend(k=60, among=before["item"].unique())
    a, b = (x.set_index(["user", "item"])["score"].sort_index() for x in (before, after))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)  # the others are where they were
    again = Recommender.load(rec.save(tmp_path/"m"))
    pd.testing.assert_frame_equal(again.recommend(k=60, among="all"), rec.recommend(k=60, among="all"))


def test_replacing_and_refusing_items(rec):
    n, old = len(rec.items), rec.e[10].copy()
    for call, why in ((lambda: rec.add_items([dict(item="new"), dict(item="i0010")]), "nothing of the new items 'new'.*'i0010' are known.*replace=True"), (lambda: rec.add_items([dict(item="i0010"), dict(item="i0011", title="A lamp")]), "'i0010', 'i0011' are known.*replace=True; --replace"), (lambda: rec.add_items([dict(item="a"), dict(item="a")]), "stands twice"),
                      (lambda: rec.add_items([dict(name="a")]), "column 'item'"), (lambda: rec.add_items([dict(item=" ")]), "row 1 has no id"), (lambda: rec.add_items([dict(item="a")], {"b": b""}), "pictures of 'b'"),
                      (lambda: rec.add_items([dict(item="a")], {"a": "/no/such.png"}), "cannot be read"), (lambda: rec.add_items([dict(item="a")], vectors=dict(image=np.ones((1, 3)))), "shape")):
        with pytest.raises(UsageError, match=why): call()
    assert len(rec.items) == n  # all or none
    rec.add_items(dict(item="i0010", title="Something else entirely"), replace=True)
    assert len(rec.items) == n and rec.items["title"][10] == "Something else entirely" and rec.items["description"][10] is None and not np.array_equal(rec.e[10], old) and rec.has[10].tolist() == [False, True] and rec.met[10] > 0
    with pytest.warns(UserWarning, match="cannot be read"), pytest.raises(UsageError, match="nothing of the new items 'b'"): rec.add_items(dict(item="b"), {"b": b"no picture"})
    assert len(rec.items) == n and not rec.add_items(dict(item="c", title="A lamp")).refused


def test_known_items_stay_and_the_others_come_in(rec, tmp_path):
    "The known ones are named in a warning; pictures of theirs are not looked at."
    n, old, title = len(rec.items), rec.e[10].copy(), rec.items["title"][10]
    with pytest.warns(core.LeftOut, match="items 'i0010' are known and stay as they are; to replace them, say replace=True; the rest is added"):
        assert rec.add_items([dict(item="i0010", title="Something else"), dict(item="a", title="A lamp")], {"i0010": b"no picture"}) is rec
    assert len(rec.items) == n + 1 and rec.items["title"][10] == title and np.array_equal(rec.e[10], old)
    assert rec.refused == rec.stayed == ["i0010"] and rec.items["item"].iloc[-1] == "a" and rec.has[-1].tolist() == [False, True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rec.add_items(dict(item="b", title="A lamp"))
    assert rec.refused == rec.stayed == [] and Recommender.load(rec.save(tmp_path/"m")).stayed == []


def test_known_items_stay_with_vectors_of_ones_own(world):
    "Each new item gets the row that was given for it."
    x = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    rec = Recommender.fit(replace(world, features=dict(audio=x), images=None), "ready", "released", progress=False, **FEW)
    with pytest.warns(core.LeftOut, match="'i0003' are known"):
        rec.add_items([dict(item="a"), dict(item="i0003"), dict(item="b")], vectors=dict(audio=[x[45], x[46], x[47]]))
    t = rec.recommend(["u0000"], k=99).set_index("item")["score"]
    assert t["a"] == pytest.approx(t["i0045"], abs=1e-6) and t["b"] == pytest.approx(t["i0047"], abs=1e-6)
    with pytest.raises(UsageError, match="1 audio vectors of 2 items"): rec.add_items([dict(item="c"), dict(item="i0003")], vectors=dict(audio=x[:1]))


def test_a_recommender_of_ready_vectors(tmp_path, world):
    x = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32); x[49] = 0
    rec = Recommender.fit(replace(world, features=dict(audio=x), images=None), "ready", "released", progress=False, **FEW)
    rec = Recommender.load(rec.save(tmp_path/"m"))
    with pytest.raises(UsageError, match="ready vectors"): rec.add_items(dict(item="a"))
    with pytest.warns(core.LeftOut, match="nothing of the new items 'b': their vectors are empty.*the rest is added"):
        rec.add_items([dict(item="a"), dict(item="b")], vectors=dict(audio=np.stack([x[45], np.zeros(6)])))
    t = rec.recommend(["u0000"], k=99).set_index("item")["score"]
    assert t["a"] == pytest.approx(t["i0045"], abs=1e-6) and "b" not in t and rec.refused == ["b"]
    assert t["i0049"] == pytest.approx(np.mean([t[i] for i in ("i0044", "i0045", "i0046", "i0047", "i0048", "a")]), abs=1e-5)  # what has nothing stands at the mean


def test_an_explanation_adds_up(rec, world):
    for i in ("i0000", "i0045"):
        e = rec.explain(i, n=4)
        row = int(i[1:])
        assert e.alpha.sum() == pytest.approx(1, abs=1e-5) and len(e.neighbours) == 4 and i not in set(e.neighbours["item"]) and set(e.neighbours["item"]) <= set(world.item_ids[:44])
        v = rec.e / np.linalg.norm(rec.e, axis=1, keepdims=True)
        assert e.neighbours["cosine"].iloc[0] == pytest.approx(max((v @ v[row])[j] for j in range(44) if j != row and rec.has[j].any()), abs=1e-6)
        for _, g in e.experts.groupby("modality"): assert g["weight"].sum() == pytest.approx(1, abs=1e-5) and len(g) == 2
        assert e.missing == [m for m, h in zip(rec.model.modalities, rec.has[row]) if not h] and e.met == (world.interactions["item"] == row).sum()


# ---- users who come later
def test_folded_in_users_rank_as_well_as_trained_ones():
    "On toy: users kept away from training and folded in from their history, beside the same users trained. Chosen nowhere on what is asked here."
    ds = toy()
    f = Extractor("tiny").extract(ds, progress=False)
    t = folding.fold_in_test(ds, f, cold_split(ds, seed=1), preset("released", epochs=60, patience=60, dim=64), seed=1)["ndcg@10"]
    assert t["kept away, folded in"] > .85*t["trained with the others"] and t["kept away, folded in"] > 1.2*t["kept away, average user"]


def test_fold_in_is_the_ridge(rec, world):
    rows = np.flatnonzero((rec.met > 0) & rec.has.any(1))
    X = rec.e[rows] - rec.e[rows].mean(0, dtype=np.float64)
    A = X.T @ X
    lam = rec.about["fold_in_lambda"]
    h = [r for r in (1, 5, 46) if rec.has[r].any()]
    crowd = rec.met[rows] @ X / rec.met[rows].sum()
    u = np.linalg.solve(A + lam*np.trace(A)/len(A)*np.eye(len(A)), (rec.e[h] - rec.e[rows].mean(0, dtype=np.float64)).sum(0) + rec.about["fold_in_prior"]*crowd)
    got = rec.fold_in([world.item_ids[i] for i in h]*2)
    np.testing.assert_allclose(got, u/np.linalg.norm(u)*np.linalg.norm(rec.users, axis=1).mean(), rtol=1e-4, atol=1e-6)
    t = rec.recommend(["u0001"], histories={"new": ["i0001", "i0046"]}, k=99, among="all")
    assert list(dict.fromkeys(t["user"])) == ["u0001", "new"] and not {"i0001", "i0046"} & set(t[t["user"] == "new"]["item"]) and len(t[t["user"] == "new"]) == 48
    with pytest.warns(UserWarning, match="average user"): np.testing.assert_array_equal(rec.fold_in([]), rec.users.mean(0))


def test_one_click_serves_better_than_none():
    "Users all like a crowd's kind, and each one kind of his own: a click is outweighed by the crowd without being lost, and a long history outweighs it."
    rng, n = np.random.default_rng(0), 400
    kinds = rng.integers(1, 8, n); kinds[:80] = 0
    e = (np.eye(8)[kinds] + .3*rng.normal(size=(n, 8))).astype(np.float32)
    own = rng.integers(1, 8, 150)
    cold = np.arange(0, n, 4)
    met = np.stack([rng.random((150, n)) < .05 + .2*(kinds == 0) + .3*(kinds[None] == own[:, None])][0].nonzero(), 1)
    is_cold = np.isin(met[:, 1], cold)
    split = Split(150, n, met[~is_cold], met[is_cold], met[:0], cold, cold[:0], "made up")
    how = folding.choose_fold_in(e, np.eye(8, dtype=np.float32)[own], split, preset("best"))
    worth = lambda k: how["fold_in"][f"κ = {k:g}"]
    assert how["fold_in_prior"] > 0 and worth(how["fold_in_prior"]) > 1.05*worth(0), how


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_first_clicks_are_the_beginning_of_the_longer_ones(world, n):
    pairs = world.interactions[["user", "item"]].drop_duplicates().to_numpy(np.int64)
    few, more = ({*map(tuple, folding.first_of(pairs, k))} for k in (n, n + 1))
    assert few <= more <= {*map(tuple, pairs)} and np.bincount([u for u, _ in few]).max() == n


def test_who_has_no_click_gets_what_the_average_user_gets(rec):
    t = rec.recommend(histories={"stranger": [], "guest": ["i0001"]}, k=5)
    assert t.attrs["complete"] and t[t["user"] == "stranger"]["score"].tolist() == pytest.approx(np.sort(rec.users.mean(0) @ rec.vectors_of(c := rec.candidates())(0, len(c)).T)[::-1][:5], rel=1e-5)
    assert any("'stranger' is empty: the average user" in w for w in t.attrs["said"])


# ---- saved folders
def test_round_trip_to_the_bit(fitted, saved):
    again = Recommender.load(saved)
    for k in ("e", "alpha", "gates", "has", "met", "users"): assert getattr(again, k).tobytes() == getattr(fitted, k).tobytes() and getattr(again, k).dtype == getattr(fitted, k).dtype
    a, b = (r.recommend(k=50, among="all", histories={"n": ["i0001"]}) for r in (fitted, again))
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    assert str(fitted.explain("i0003")) == str(again.explain("i0003")) and again.about == json.loads(json.dumps(fitted.about))


@settings(max_examples=60, **QUICK)
@given(st.sampled_from(["model.safetensors", "items.safetensors", "items.parquet", "users.parquet", "recommender.json"]), st.integers(0, 10**9), st.sampled_from(["flip", "cut", "drop", "empty"]))
def test_a_damaged_folder_is_refused(tmp_path_factory, saved, name, at, how):
    d = tmp_path_factory.mktemp("d")/"m"
    shutil.copytree(saved, d)
    b = bytearray((d/name).read_bytes())
    if how == "drop": (d/name).unlink()
    else:
        b[at % len(b)] ^= 1 + at % 255
        (d/name).write_bytes(b if how == "flip" else b[:at % len(b)] if how == "cut" else b"")
    if name == "recommender.json" and how == "flip":  # a flipped letter of the record may leave a record
        try: Recommender.load(d)
        except UsageError: pass
    else:
        with pytest.raises(UsageError): Recommender.load(d)
    shutil.rmtree(d)


def test_mixed_forged_and_foreign_folders_are_refused(saved, fitted, tmp_path):
    import hashlib
    def forged(change=lambda r: None, **files):
        shutil.copytree(saved, d := tmp_path/f"f{len(list(tmp_path.iterdir()))}")
        r = json.loads((d/"recommender.json").read_text())
        for n, b in files.items(): (d/n.replace("_", ".")).write_bytes(b); r["files"][n.replace("_", ".")] = hashlib.sha256(b).hexdigest()
        change(r)
        (d/"recommender.json").write_text(json.dumps(r))
        return d
    few = io.BytesIO(); pd.DataFrame(dict(user=["a"])).to_parquet(few)
    for d, why in ((forged(users_parquet=few.getvalue()), "sizes differ"), (forged(model_safetensors=b"x"), "not a checkpoint"), (forged(lambda r: r.update(version=99)), "format version 99"),
                   (forged(lambda r: r.update(format="other")), "no recommender"), (forged(lambda r: r.pop("about")), "cannot be read"), (forged(lambda r: r["about"].update(widths={"image": 64})), "modalities"),
                   (forged(lambda r: r.update(files=[])), "damaged"), (tmp_path, "holds no recommender")):
        with pytest.raises(UsageError, match=why): Recommender.load(d)
    (tmp_path/"mine").mkdir(); (tmp_path/"mine"/"letter").write_text("dear")
    with pytest.raises(UsageError, match="choose another place"): fitted.save(tmp_path/"mine")
    assert (tmp_path/"mine"/"letter").read_text() == "dear"


def test_saving_is_all_or_nothing(rec, tmp_path, monkeypatch):
    d = rec.save(tmp_path/"x"/"m")
    old = {p.name: p.read_bytes() for p in d.iterdir()}
    monkeypatch.setattr(store, "write_atomic", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    rec.items["title"] = "other"
    with pytest.raises(OSError): rec.save(d)
    assert {p.name: p.read_bytes() for p in d.iterdir()} == old and [p.name for p in d.parent.iterdir()] == ["m"]
    assert not any(b"pickle" in b for b in old.values())


# ---- size
MILLION = """
import resource, time, numpy as np, pandas as pd, torch
from scipy import sparse
from mamex.vectors.features import Features
from mamex.model import MAMEX, Config
from mamex.recommender.core import Recommender, embed
n, users, rng = 1_000_000, 1000, np.random.default_rng(0)
part = n // 10  # through the model; the rest of the vectors is drawn
f = Features(dict(image=rng.standard_normal((part, 16), np.float32), text=rng.standard_normal((part, 16), np.float32)), np.ones((part, 2), bool), "made up", {})
torch.manual_seed(0)
model = MAMEX(dict(image=16, text=16), users, Config(dim=128)).eval()
start = time.perf_counter()
rows = embed(model, f)
made = time.perf_counter() - start
e = rng.standard_normal((n, 128), np.float32); e *= rows["e"].std(); e[:part] = rows["e"]
rows = {k: np.resize(v, (n, *v.shape[1:])) for k, v in rows.items() if k != "e"} | dict(e=e)
met = np.zeros(n, np.int64); met[:500_000] = 1
seen = sparse.csr_array((np.ones(50 * users, bool), (np.repeat(np.arange(users), 50), rng.integers(0, n, 50 * users))), shape=(users, n))
items = pd.DataFrame(dict(item=[f"i{i}" for i in range(n)]))
rec = Recommender(model, np.arange(users).astype(str), items, **rows, met=met, seen=seen, about=dict(encoder="made up", fold_in_lambda=1.))
start = time.perf_counter()
t = rec.recommend(k=10, among="all")
ranked = time.perf_counter() - start
assert len(t) == 10 * users and (np.diff(t["score"].to_numpy().reshape(users, 10), axis=1) <= 0).all()
u = 17
s = rec.users[u] @ rec.e.T; s[seen[[u]].indices] = -np.inf
own = t.iloc[10*u:10*u+10]
np.testing.assert_allclose(own["score"], np.sort(s)[::-1][:10], rtol=1e-4)
np.testing.assert_allclose(own["score"], s[[int(i[1:]) for i in own["item"]]], rtol=1e-4)
rec.fold_in(["i5", "i77"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, made, ranked)
"""

def test_a_million_items_for_a_thousand_users_in_two_gigabytes():
    done = subprocess.run([sys.executable, "-c", MILLION], capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr
    peak, made, ranked = map(float, done.stdout.split())
    peak /= 1024 * (1024 if sys.platform == "darwin" else 1)
    print(f"peak {peak:.0f} MiB, {made:.1f} s to embed, {ranked:.1f} s to rank")
    assert peak < 2048


# ---- ids, tables and histories of numpy and pandas
WRITINGS = [list, tuple, set, iter, np.array, pd.Series, pd.Index, pd.Categorical, pd.array, lambda x: pd.Series(x, index=["a"]*len(x)), lambda x: np.array(x, object), lambda x: {i: 0 for i in x}.keys()]

@pytest.fixture(scope="module")
def numbered():
    "Users and items whose ids are digits."
    rng = np.random.default_rng(0)
    p = pd.DataFrame([(u, i) for u in range(20) for i in rng.choice(25, 6, replace=False)], columns=["user", "item"]).astype("int64")
    ids = np.array([str(k) for k in range(30)])
    ds = Dataset("d", np.array([str(k) for k in range(20)]), ids, p, pd.DataFrame(dict(item=ids, title=ids)), features=dict(image=rng.normal(size=(30, 8)).astype(np.float32)))
    return Recommender.fit(ds, "ready", progress=False)


@pytest.mark.parametrize("kind", [int, str, np.int64, np.uint8, float, np.float32, np.str_])
def test_ids_in_whatever_holds_them(numbered, kind):
    want = numbered.recommend(["3", "5"], k=2)["item"].tolist()
    assert numbered.recommend(kind(3), k=2)["item"].tolist() == want[:2] and str(numbered.explain(kind(3))) == str(numbered.explain("3"))
    for write in WRITINGS:
        assert sorted(numbered.recommend(write([kind(3), kind(5)]), k=2)["item"]) == sorted(want)
        assert numbered.rows_of(write([kind(3)])).tolist() == [3] and len(numbered.recommend("3", among=write([kind(26), kind(27)]))) == 2
        np.testing.assert_array_equal(numbered.fold_in(write([kind(3)])), numbered.fold_in(["3"]))
        if write is not iter: assert numbered.recommend(histories={"x": write([kind(3)])}, k=2)["item"].tolist() == numbered.recommend(histories={"x": ["3"]}, k=2)["item"].tolist()


@settings(max_examples=60, **QUICK)
@given(st.sets(st.integers(0, 24), min_size=1, max_size=6), st.sampled_from([np.int64, np.int32, float, str, np.str_]), st.integers(0, 6))
def test_a_history_is_the_same_in_every_shape(numbered, items, kind, shape):
    h = [kind(i) for i in sorted(items)]
    given_ = [{"x": h}, {"x": np.array(h)}, pd.DataFrame(dict(user="x", item=h)), pd.Series({"x": h}), [dict(user="x", items=h)], [("x", i) for i in h], pd.Series(h, index=["x"]*len(h))][shape]
    pd.testing.assert_frame_equal(numbered.recommend(histories=given_, k=4), numbered.recommend(histories={"x": [str(i) for i in sorted(items)]}, k=4))


def test_what_is_no_id_is_said_and_stops_nobody(numbered):
    for odd in (None, np.nan, pd.NA, pd.NaT, True, 1.5, 2.**60, ["3"]):
        with pytest.warns(core.LeftOut, match="1 of the users is no id"): t = numbered.recommend(["3", odd], k=1)
        assert t["user"].tolist() == ["3"] and not t.attrs["complete"]
        with pytest.raises(UsageError, match="number 2 of the items is no id"): numbered.rows_of(["3", odd])
        with pytest.raises(UsageError, match="nobody can be served"): numbered.recommend([odd])
    with pytest.raises(UsageError, match="one column of the table"): numbered.recommend(pd.DataFrame(dict(user=[3])))
    with pytest.raises(UsageError, match="in one row"): numbered.recommend(np.array([[3, 5]]))


def test_numbers_of_numpy_as_settings(numbered, tmp_path):
    for k in (np.int64(2), np.array(2), np.uint8(2)): assert len(numbered.recommend("3", k=k)) == 2
    for k in (2., np.float64(2), "2", True, None, np.bool_(True), [2]):
        with pytest.raises(UsageError, match="whole number of at least 1"): numbered.recommend("3", k=k)
    ds = toy(n_users=30, n_items=40)
    a, b = Recommender.fit(ds, "tiny", seed=np.int64(1), holdout=np.float64(.25), dim=np.int32(16), ridge=np.float32(.5), progress=False), Recommender.fit(ds, "tiny", seed=1, holdout=.25, dim=16, ridge=.5, progress=False)
    assert a.e.tobytes() == b.e.tobytes() and json.loads(json.dumps(a.about))["seed"] == 1
    Recommender.load(a.save(tmp_path/"m"))


def test_one_does_not_stop_the_others(numbered):
    with pytest.warns(core.LeftOut) as said: t = numbered.recommend(["3", "gone"], k=1, among=["new", "lost"], histories={"x": ["1", "off"], "y": ["off"], "z": [], "w": "1", "5": ["1"]})
    assert t["user"].tolist() == ["3", "x", "z"] and t.attrs["unknown"] == dict(users=["gone"], items=["off", "lost"]) and set(t.attrs["unserved"]) == {"gone", "y", "w", "5"}
    said = "\n".join(str(w.message) for w in said)
    for word in ("'gone'", "'off', 'lost'", "'z'", "'w'", "'y'", "'5' are known"): assert word in said
    assert "np." not in said
    t = numbered.recommend(k=1)
    assert t.attrs["complete"] and len(t) == 20
    for nobody in (dict(histories={}), dict(histories=pd.DataFrame(dict(user=[], item=[]))), dict(users=[]), dict(histories=[])):
        with pytest.warns(core.LeftOut, match="serve"): assert len(numbered.recommend(**nobody)) == 0
    for wrong in (dict(users=["gone"]), dict(histories={"x": ["off"]}), dict(histories={"x": "1"}), dict(users=[None])):
        with pytest.raises(UsageError, match="nobody can be served"): numbered.recommend(**wrong)
    with pytest.warns(core.LeftOut, match="have met every candidate"): t = numbered.recommend(histories={"x": ["1"], "y": ["2"]}, among=["1"])
    assert t["user"].tolist() == ["y"] and t.attrs["unserved"] == {"x": "met"}


def test_new_items_of_numpy_and_pandas(rec):
    text = dict(title="A lamp", description=None)
    for n, items in enumerate([pd.Series(dict(item=np.int64(900), **text)), pd.DataFrame(dict(item=[901, 902], title=["A lamp", pd.NA], description=[np.nan, "of glass"]), index=[5, 5]),
                               pd.DataFrame(dict(title=pd.Categorical(["A lamp"])), index=pd.Index([903], name="item")), dict(item=np.array([904, 905]), title=np.array(["a", "b"])),
                               [pd.Series(dict(item="906", title="c"))], pd.DataFrame(dict(item=pd.array([907, 908], dtype="Int64"), title=["d", "e"], when=pd.to_datetime(["2024-01-01", None]), tags=[["x"], None]))]):
        rec.add_items(items)
    assert rec.items["item"].tolist()[-9:] == [str(n) for n in range(900, 909)] and rec.has[-9:, 1].all()
    pictures = {909: Image.new("I;16", (9, 9), 40000), 910: Image.new("F", (9, 9)), 911: None}
    rec.add_items(dict(item=[909, 910, 911], title=["a", "b", "c"]), pd.Series(pictures))
    assert rec.has[-3:, 0].tolist() == [True, True, False]
    with pytest.raises(UsageError, match="row 2 has no id"): rec.add_items(dict(item=["x", None], title="a"))


def test_pictures_of_new_items_are_as_shown(rec):
    "A photo that is turned by its EXIF is the photo that lies as it is shown, whether it comes as a file or opened."
    im = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    exif = Image.Exif(); exif[0x0112] = 6
    im.save(b := io.BytesIO(), "PNG", exif=exif)
    im.transpose(Image.Transpose.ROTATE_270).save(turned := io.BytesIO(), "PNG")
    rec.add_items(dict(item=["file", "open", "turned"]), dict(file=b.getvalue(), open=Image.open(io.BytesIO(b.getvalue())), turned=turned.getvalue()))
    np.testing.assert_allclose(rec.e[-3:-1], rec.e[[-1, -1]], atol=1e-5)


# ---- who carried the score
@pytest.fixture(scope="module")
def best(world): return Recommender.fit(world, "tiny", progress=False)

@settings(max_examples=80, **QUICK)
@given(st.integers(0, 59), st.integers(0, 49), st.booleans())
def test_shares_of_best_sum_to_the_score_exactly(best, user, item, refit):
    "No remainder: the user's vector is the sum of the parts of what he met."
    u, i = f"u{user:04d}", f"i{item:04d}"
    why = best.explain(i, user=u).why
    met = set(best.items["item"][best.seen[[user]].indices])
    assert set(why.items["item"]) == met and why.rest == 0 and why.how == explaining.EXACT_SHARES
    assert why.items["share"].sum() == pytest.approx(why.score, abs=1e-5*np.abs(why.items["share"]).sum())
    got = best.recommend(u, k=50, among="new" if item > 43 else "all", exclude_seen=False).set_index("item")["score"]
    assert why.score == pytest.approx(got[i], abs=1e-6)


@pytest.mark.parametrize("how", [{}, dict(refit=False)])
def test_users_of_best_are_sums_over_what_they_met(world, best, how):
    "Also of what was held out, where the model has not learned from it."
    rec = Recommender.fit(world, "tiny", progress=False, **how) if how else best
    np.testing.assert_allclose(rec.seen @ rec.parts.of, rec.users, atol=1e-5*np.abs(rec.users).max())


@pytest.mark.parametrize("how", [dict(refit=False), dict(config="released", **FEW), dict(config="released", refit=False, **FEW)])
def test_shares_and_remainder_sum_for_every_kind_of_model(world, how):
    rec = Recommender.fit(world, "tiny", progress=False, **how)
    for u in ("u0003", "u0017"):
        for i in ("i0001", "i0046"):
            why = rec.explain(i, user=u).why
            assert why.items["share"].sum() + why.rest == pytest.approx(why.score, abs=1e-6) and np.isfinite(why.items["share"]).all()
            assert (why.how == explaining.LAID_OVER) == ("config" in how) and ("no single item" in str(why)) == (why.rest != 0)
    walk = rec.explain("i0046", history=["i0001", "i0007", "i0007"]).why
    assert (walk.rest == 0) == (rec.about["fold_in_prior"] == 0) and ("clicks of all users" in walk.how) == (walk.rest != 0)
    assert set(walk.items["item"]) == {"i0001", "i0007"} and walk.items["share"].sum() + walk.rest == pytest.approx(walk.score, rel=1e-4)
    with pytest.raises(UsageError, match="give one of them"): rec.explain("i0046", user="u0003", history=["i0001"])
    with pytest.raises(UsageError, match="unknown users 'nobody'"): rec.explain("i0046", user="nobody")


def test_views_are_the_nearest_by_each_modality(best, fitted, world):
    f = Extractor("tiny", text_columns=texts.text_modalities(world)).extract(world, progress=False)
    for rec in (best, fitted):
        for i in ("i0001", "i0046"):
            e = rec.explain(i, n=3)
            assert e.carried.sum() == pytest.approx(1, abs=1e-5) and i not in set(e.views["item"]) and set(e.views["item"]) <= set(world.item_ids[:44])
            assert (e.views.groupby("modality").size() == 3).all() and set(e.views["modality"]) == set(rec.model.modalities) - set(e.missing)
    v = f.vectors["image"]; has = f.mask[:, 0]
    v = v - v[:44][has[:44]].mean(0); v /= np.linalg.norm(v, axis=1, keepdims=True)
    near = [n for n in np.argsort(-(v @ v[46])) if n < 44 and has[n]][:3]
    assert best.explain("i0046", n=3).views.query("modality == 'image'")["item"].tolist() == list(world.item_ids[near])
    best_again = best.explain("i0046")
    best.add_items(dict(item="twin", title=world.items["title"][46], description=world.items["description"][46]), {"twin": world.images.read("i0046")})
    pd.testing.assert_frame_equal(best.explain("twin").views, best_again.views)


@pytest.mark.parametrize("reach", [0., 1e-4, 2., 100.])  # the ends of float32: nothing left, or nothing but ones
def test_a_solved_model_is_embedded_as_its_forward_pass_says(world, reach):
    n = len(world.items)
    shop = replace(world, items=world.items.assign(price=[None if k % 5 == 0 else f"${2 ** (k % 9)}.00" for k in range(n)]))
    rec = Recommender.fit(shop, "tiny", progress=False, reach=reach, damp=.3, memory=.1)
    model, f = rec.model, rec.features
    shelf = model.catalogue(f)
    with torch.no_grad(): it, alike = model(shelf), {m: model.likeness(m, shelf).clamp(min=-1) for m in model.modalities}
    parts = core.embed(model, f, 7, rec.anchors, np.arange(n))
    for x in (vars(rec), parts):
        np.testing.assert_allclose(x["e"], it.e, atol=1e-5 * float(it.e.abs().max()))
        np.testing.assert_allclose(x["carried"], core.carried_by(it), atol=1e-4)
    place = {r: k for k, r in enumerate(rec.anchors.rows)}
    for k, m in enumerate(model.modalities):
        for i in np.flatnonzero(it.has[:, k].numpy()):
            c = alike[m][i].where(model.placed(m), torch.tensor(-9.))
            if i in place: c[place[i]] = -9
            c = c[c > -9].sort(descending=True).values[:core.VIEWS].numpy()
            np.testing.assert_allclose(parts["cosine"][i, k, :len(c)], c, atol=1e-5)
            assert (parts["near"][i, k, :len(c)] >= 0).all() and (parts["near"][i, k, len(c):] == -1).all()


def test_a_price_is_a_number_and_no_text(world):
    "Neither prices nor addresses are handed to the encoder; a new item's price is read, whatever its currency."
    n = len(world.items)
    shop = replace(world, items=world.items.assign(price=[f"${5 + k % 9}.00" for k in range(n)], link=[f"https://shop.example/{k}" for k in range(n)]))
    rec = Recommender.fit(shop, "tiny", progress=False)
    assert "price number" in rec.model.modalities and not {"price", "link", "link words", "price words"} & set(rec.model.modalities)
    assert rec.reads() == ["title", "description", "price"] and not rec.about["watch"]
    rec.add_items([dict(item="a", title="A red lamp", price="5,00 €"), dict(item="b", title="A red lamp", price="1,300.00")])
    a, b = rec.rows_of(["a", "b"])
    k = rec.model.modalities.index("price number")
    assert rec.cosine[a, k].max() == pytest.approx(1, abs=1e-5) and rec.cosine[b, k].max() < 0


def test_dates_that_cannot_be_told_apart_stop_nobody(world):
    "Day or month first? The column is left out, with a warning, and the rest is learned."
    shop = replace(world, items=world.items.assign(released=["03/04/2024", "05/06/2023"] * (len(world.items) // 2)))
    with pytest.warns(UserWarning, match="the column 'released'.*left out of the views"): rec = Recommender.fit(shop, "tiny", progress=False)
    assert "released year" not in rec.model.modalities and "title words" in rec.model.modalities
    with pytest.raises(UsageError, match="roles are read from columns"):
        Recommender.fit(shop, features=Extractor("tiny").extract(world, progress=False), roles=dict(title="text"), progress=False)


# ---- folders of the former version
def test_a_folder_of_the_former_version_still_serves(saved, tmp_path):
    import hashlib, safetensors.numpy
    shutil.copytree(saved, d := tmp_path/"old")
    arrays = {k: v for k, v in safetensors.numpy.load_file(d/"items.safetensors").items() if k not in ("carried", "near", "cosine", "anchor_rows", "anchor_z")}
    (d/"items.safetensors").write_bytes(safetensors.numpy.save(arrays))
    r = json.loads((d/"recommender.json").read_text())
    r["version"], r["files"]["items.safetensors"] = 1, hashlib.sha256((d/"items.safetensors").read_bytes()).hexdigest()
    for k in ("beside", "long_text"): r["about"].pop(k)
    (d/"recommender.json").write_text(json.dumps(r))
    old, new = Recommender.load(d), Recommender.load(saved)
    pd.testing.assert_frame_equal(old.recommend(k=5, among="all"), new.recommend(k=5, among="all"))
    assert "a former version kept no views" in str(old.explain("i0003")) and old.explain("i0003", user="u0001").why.score and fitting.beside_told(old.about)
    old.add_items(dict(item="later", title="A lamp"))
    assert Recommender.load(old.save(tmp_path/"again")).explain("later").missing == ["image"]
