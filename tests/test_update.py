"`mamex update`: nights add up, a refit is a fit of the union, and a fault costs nothing."
import json, os, resource, shutil, subprocess, sys, threading, time
from dataclasses import fields, replace as changed
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from mamex import cli
from mamex.base import UsageError
from mamex.datasets.toy import toy
from mamex.recommender import updating
from mamex.recommender.core import LeftOut, Recommender
from mamex.recommender.store import alone, check_saved
from mamex.recommender.updating import Updated, relearned
from conftest import ROOT
from test_export import in_child, killed_at

QUICK = dict(deadline=None, suppress_health_check=list(HealthCheck))
ARRAYS = ("e", "users", "alpha", "carried", "met")


@pytest.fixture(scope="module")
def fitted(world): return Recommender.fit(world, "tiny", progress=False)

@pytest.fixture(scope="module")
def trained(world): return Recommender.fit(world, "tiny", "released", seed=3, progress=False, epochs=3, patience=3, dim=16)

@pytest.fixture
def best(fitted): return changed(fitted)  # a test may change it

@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory): return fitted.save(tmp_path_factory.mktemp("saved")/"model")

@pytest.fixture
def model(saved, tmp_path): return Path(shutil.copytree(saved, tmp_path/"model"))

def put(folder, name, text): (folder/name).write_text(text); return folder/name

def same(a, b, atol):
    "Counts and ids to the bit, everything else to rounding; vectors by the scores that they give."
    assert list(a.user_ids) == list(b.user_ids) and list(a.item_at) == list(b.item_at)
    assert (a.met == b.met).all() and (a.seen != b.seen).nnz == 0
    np.testing.assert_allclose(a.users @ a.e.T, b.users @ b.e.T, atol=atol)


# ---- nights add up
USERS = [f"u{n:04d}" for n in range(0, 60, 4)] + [f"new-{n}" for n in range(5)]
CLICKS = st.lists(st.tuples(st.sampled_from(USERS), st.sampled_from([f"i{n:04d}" for n in range(50)])), min_size=1, max_size=40)

def table(pairs): return pd.DataFrame(pairs, columns=["user", "item"])

@settings(max_examples=60, **QUICK)
@given(CLICKS, st.data())
def test_nights_that_are_folded_are_one_night(fitted, pairs, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(pairs)), max_size=4)))
    a, b, clicks = changed(fitted), changed(fitted), 0
    for lo, hi in zip([0, *cuts], [*cuts, len(pairs)]): clicks += a.update(table(pairs[lo:hi]), refit="never").clicks
    done = b.update(table(pairs), refit="never")
    assert done.clicks == clicks == len(set(pairs) - known(fitted)) and done.clicks + done.known == len(set(pairs))
    same(a, b, 1e-6)
    np.testing.assert_allclose(a.users, b.users, atol=1e-6)
    assert (a.first_met() == fitted.met).all() and (a.e == fitted.e).all()

def known(rec): return {(str(rec.user_ids[u]), str(rec.item_at[i])) for u, i in zip(*rec.seen.nonzero())}

@settings(max_examples=40, **QUICK)
@given(CLICKS)
def test_a_click_adds_its_part_and_nothing_else(fitted, pairs):
    "Whoever clicked is the sum of the parts of what he met; whoever did not has not moved; shares are exact for all."
    rec = changed(fitted)
    rec.update(table(pairs), refit="never")
    who = {u for u, i in set(pairs) - known(fitted)}
    for n, u in enumerate(rec.user_ids):
        sums = rec.parts.of[rec.seen[[n]].indices].sum(0)
        if u in who and sums.any(): np.testing.assert_allclose(rec.users[n], sums, atol=1e-5)
        elif u not in who: assert (rec.users[n] == fitted.users[n]).all()
    assert (rec.parts.of == fitted.parts.of).all()


def test_a_user_is_nearly_the_one_that_a_fit_of_the_union_would_make():
    "After 3 % more clicks: most of the first ten are those of a model solved again, and of walk-ins far fewer are."
    shop = toy(n_users=300, n_items=120)
    x, ids = shop.interactions, lambda t: [(shop.user_ids[u], shop.item_ids[i]) for u, i in t[["user", "item"]].to_numpy()]
    late = np.random.default_rng(0).random(len(x)) < .03
    rec = Recommender.fit(changed(shop, interactions=x[~late]), "tiny", progress=False)
    whole, told, walked = changed(rec), changed(rec), changed(rec, parts=None)
    whole.update(table(ids(x[late])), refit="always")
    for r in (told, walked): r.update(table(ids(x[late])), refit="never")
    other = [updating.changed_share(r, whole, np.unique(x[late]["user"])) for r in (told, walked)]
    assert other[0] < .15 and other[0] < .5 * other[1], other


def test_parts_come_back_from_a_folder_and_go_along_with_items(best, model, world):
    rec = Recommender.load(model)
    assert (rec.parts.of == best.parts.of).all() and (rec.parts.later == best.parts.later).all()
    text = dict(title=world.items["title"][3], description=world.items["description"][4])
    rec.add_items([dict(item="N-1", **text), dict(item="i0044", **text), dict(item="i0003", **text)], replace=True)
    new = rec.item_at.get_indexer(["N-1", "i0044"])
    np.testing.assert_allclose(rec.parts.of[new], rec.parts.foreseen(rec.e[new]), atol=1e-7)  # nobody has met them
    assert (rec.parts.of[3] == best.parts.of[3]).all()  # of this one the model has learned
    again = Recommender.load(rec.save(model))
    assert (again.parts.of == rec.parts.of).all() and len(again.parts.of) == 51


@settings(max_examples=12, **QUICK)
@given(CLICKS, st.data())
def test_nights_that_are_solved_again_are_one_night(fitted, pairs, data):
    cut = data.draw(st.integers(0, len(pairs)))
    refits = data.draw(st.tuples(st.sampled_from(["always", "never", "auto"]), st.just("always")))
    a, b = changed(fitted), changed(fitted)
    for part, refit in zip((pairs[:cut], pairs[cut:]), refits): a.update(table(part), refit=refit)
    b.update(table(pairs), refit="always")
    if a.since is not None: a.update(refit="always")  # the second night held nothing new
    if b.since is None and set(pairs) - known(fitted): same(a, b, 1e-5)


def test_solved_again_it_is_a_fit_of_the_union(fitted, best, world):
    "Settings as chosen, no search; new users, new clicks, items that were new."
    pairs = [("u0000", "i0045"), ("zoe", "i0045"), ("zoe", "i0003"), ("u0007", "i0049"), ("adam", "i0001")]
    best.update(table(pairs), refit="always")
    rows = pd.DataFrame(dict(user=best.user_at.get_indexer([u for u, _ in pairs]), item=best.item_at.get_indexer([i for _, i in pairs])))
    whole = changed(world, user_ids=best.user_ids, interactions=pd.concat([world.interactions[["user", "item"]], rows], ignore_index=True))
    fit = Recommender.fit(whole, "tiny", damp=fitted.about["damp"], memory=fitted.about["memory"], progress=False)
    same(fit, best, 1e-5)
    assert fit.about["interactions"] == best.about["interactions"] and fit.about["items_met"] == best.about["items_met"] and fit.about["users"] == best.about["users"]
    for k in ("alpha", "carried", "cosine"): np.testing.assert_allclose(getattr(fit, k), getattr(best, k), atol=1e-4)
    t = best.recommend(["zoe", "u0000"], among="all", k=50)
    assert not {("zoe", "i0045"), ("zoe", "i0003"), ("u0000", "i0045")} & set(zip(t["user"], t["item"]))


def test_new_items_come_along(fitted, best, world, tmp_path):
    "Added in an update, saved, loaded and solved again, as if they had been there at the fit."
    row = dict(item="N-1", title=world.items["title"][0], description=world.items["description"][1])
    best.update({"u0001": ["N-1", "i0044"], "zoe": ["N-1"]}, row, {"N-1": world.images.read("i0002")}, refit="never")
    again = Recommender.load(best.save(tmp_path/"m"))
    assert again.met[again.item_at.get_loc("N-1")] == 2 and len(again.inputs().mask) == 51
    same(again, best, 0)
    again.update({"u0002": ["N-1"]}, refit="always")
    items = pd.concat([world.items, pd.DataFrame([row])], ignore_index=True)
    pics = {i: world.images.read(i) for i in world.images} | {"N-1": world.images.read("i0002")}
    from mamex.datasets.pictures import Images
    rows = pd.DataFrame(dict(user=[1, 60, 2, 1], item=[50, 50, 50, 44]))
    whole = changed(world, user_ids=again.user_ids, item_ids=items["item"].to_numpy(str), items=items, images=Images(pics.get, pics),
                    interactions=pd.concat([world.interactions[["user", "item"]], rows], ignore_index=True))
    fit = Recommender.fit(whole, "tiny", damp=fitted.about["damp"], memory=fitted.about["memory"], progress=False, roles=fitted.about["roles"])
    same(fit, again, 1e-4)


def test_items_that_were_added_to_a_loaded_model_keep_their_features(model, world):
    rec = Recommender.load(model)
    rec.add_items(dict(item="N-1", title="A lamp of oak"))
    assert rec.features is None and len(rec.more) == 1  # not read for an add
    rec.add_items(dict(item="N-1", title="A lamp of brass"), replace=True)
    rec.save(model)
    f = Recommender.load(model).inputs()
    assert len(f.mask) == 51 and not rec.more and all(len(w.indptr) == 52 for w in f.words.values())
    other = Recommender.load(model).add_items(dict(item="N-2", title="A lamp of brass"))
    f = other.inputs()
    for m in f.words: assert (f.words[m][[50]] != f.words[m][[51]]).nnz == 0
    for m in f.vectors: np.testing.assert_allclose(f.vectors[m][50], f.vectors[m][51], atol=1e-6)


def test_what_is_known_changes_nothing(fitted, best):
    pairs = sorted(known(fitted))[::7]
    for refit in ("auto", "always", "never"):
        done = best.update(table(pairs * 2), refit=refit)
        assert (done.clicks, done.known, done.users, done.refit) == (0, len(pairs), 0, False) and best.since is None
    for k in ARRAYS: assert (getattr(best, k) == getattr(fitted, k)).all()


def test_unknown_items_and_odd_rows_are_named(best):
    done = best.update({"zoe": ["gone", "i0001"], "adam": ["gone", "lost"], "ann": 5}, refit="never")
    assert done.gone == ["gone", "lost"] and done.lost == 3 and done.clicks == 1 and "ann" in done.notes[0]
    assert list(best.user_ids[60:]) == ["zoe"]


def test_a_user_of_whom_nothing_is_read_is_the_average(trained):
    has = trained.has.copy(); has[:3] = False
    rec = changed(trained, has=has)
    rec.update({"zoe": ["i0000"], "u0000": ["i0005"]}, refit="never")
    np.testing.assert_allclose(rec.users[60], trained.users.mean(0), atol=1e-6)
    rec.update({"adam": ["i0001"]}, refit="never")
    np.testing.assert_allclose(rec.users[61], trained.users.mean(0), atol=1e-6)  # not of the users as they are now


def test_a_fault_leaves_the_recommender_as_it_was(best, monkeypatch):
    before = {f.name: getattr(best, f.name) for f in fields(best)}
    def broken(*_): raise OSError("no memory")
    monkeypatch.setattr(updating, "relearned", broken)
    with pytest.raises(OSError): best.update({"zoe": ["i0001"]}, dict(item="N-1", title="A lamp"), refit="always")
    assert all(getattr(best, k) is v for k, v in before.items() if k != "features") and len(best.items) == 50
    for bad in (dict(refit="perhaps"), dict(share=0), dict(share=1), dict(share="x")):
        with pytest.raises(UsageError, match=next(iter(bad))): best.update({"zoe": ["i0001"]}, **bad)


# ---- when
def test_auto_measures_then_foresees(best, monkeypatch):
    "What has been solved again to measure a change is kept; then nights pass by forecast until it exceeds the share."
    done = best.update({"u0000": ["i0044"], "u0001": ["i0045"]}, share=.999)
    assert done.refit and "solved again, which changes" in done.why and best.since is None and best.average is None
    rate = best.about["drift"]
    assert rate == pytest.approx(done.share / 2)
    monkeypatch.setattr(updating, "relearned", None)  # whoever calls it fails
    for n in (1, 2):
        done = best.update({f"u000{n + 1}": ["i0046"]}, share=.999)
        assert f"{rate * n:.1%}" in done.why and "by forecast" in done.why and done.share is None and len(best.since) == n
    monkeypatch.undo()
    done = best.update({"u0004": ["i0047"]}, share=1e-9)
    assert done.refit and best.since is None and done.share > 0 and "solved again, which changes" in done.why
    assert best.about["drift"] == pytest.approx(done.share / 3)


def test_the_measured_share_is_what_changes(best, fitted):
    "Counted place by place from what is recommended."
    best.update({"u0000": ["i0044", "i0048"], "zoe": ["i0045"]}, refit="never")
    other = relearned(best)
    who = ["u0000", "zoe"]
    first = [r.recommend(who, among="all", k=10).groupby("user")["item"].agg(set) for r in (best, other)]
    by_hand = 1 - np.mean([len(first[0][u] & first[1][u]) / 10 for u in who])
    assert updating.changed_share(best, other, best.user_at.get_indexer(who)) == pytest.approx(by_hand)


# ---- models that cannot be solved again
def test_a_trained_model_is_folded_and_says_so(trained, tmp_path):
    rec = Recommender.load(trained.save(tmp_path/"m"))
    assert not (tmp_path/"m"/"features.safetensors").exists()
    done = rec.update({"u0000": ["i0044"], "zoe": ["i0044", "i0003"]})
    assert not done.refit and "this model was trained" in done.why and (rec.e == trained.e).all()
    np.testing.assert_allclose(rec.users[60], trained.fold_in(["i0044", "i0003"]), atol=1e-6)
    with pytest.raises(UsageError, match="was trained.*--refit never"): rec.update({"u0000": ["i0045"]}, refit="always")
    assert Recommender.load(rec.save(tmp_path/"m")).recommend("zoe", among="all", k=3)["user"].tolist() == ["zoe"] * 3


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_folder_of_a_former_version_is_updated_without_a_refit(model, version):
    (model/"features.safetensors").unlink()
    said = json.loads((model/"recommender.json").read_text())
    del said["files"]["features.safetensors"]
    (model/"recommender.json").write_text(json.dumps(said | dict(version=version)))
    rec = Recommender.load(model)
    with pytest.raises(UsageError, match="does not keep what it learned from.*fit it once more"): rec.update({"zoe": ["i0001"]}, refit="always")
    done = rec.update({"zoe": ["i0001"]})
    assert done.clicks == 1 and "fit it once more" in done.why
    assert list(Recommender.load(rec.save(model)).user_ids[60:]) == ["zoe"] and not (model/"features.safetensors").exists()


def test_without_parts_whoever_clicked_walks_in(fitted, best):
    "A folder of a former version has no parts: its users are folded in by the ridge, and shares are told as that."
    best.parts = None
    best.update({"u0000": ["i0044"], "zoe": ["i0044", "i0003"]}, refit="never")
    np.testing.assert_allclose(best.users[60], fitted.fold_in(["i0044", "i0003"]), atol=1e-6)
    assert best.explain("i0049", user="zoe").why.how.startswith("exact") and "former version" in best.explain("i0049", user="u0005").why.how
    best.update(refit="always")
    assert best.parts and best.explain("i0049", user="u0005").why.rest == 0


def test_a_damaged_file_of_features_is_refused_where_it_is_needed(model):
    p = model/"features.safetensors"
    b = bytearray(p.read_bytes()); b[-1] ^= 1; p.write_bytes(b)
    rec = Recommender.load(model)
    assert len(rec.recommend("u0000"))
    with pytest.raises(UsageError, match="features.safetensors is damaged"): rec.update({"zoe": ["i0001"]})


def test_lean_models_and_their_size(run, tmp_path, world):
    from mamex.datasets.folders import save_dataset
    save_dataset(world, tmp_path/"shop")
    assert run("fit", tmp_path/"shop", "--to", tmp_path/"m", "--encoder", "tiny", "--lean")[0] == 0
    assert not (tmp_path/"m"/"features.safetensors").exists() and "features.safetensors" not in check_saved(tmp_path/"m")["files"]


# ---- what is said of an updated model
def test_shares_sum_to_the_score_after_an_update(best):
    best.update({"u0000": ["i0044"], "zoe": ["i0044", "i0003"]}, refit="never")
    for user, folded in (("u0000", True), ("zoe", True), ("u0005", False)):
        why = best.explain("i0049", user=user).why
        t = best.recommend(user, among=["i0049"], k=1)
        assert why.score == pytest.approx(t["score"][0], abs=1e-5) and why.items["share"].sum() + why.rest == pytest.approx(why.score, abs=1e-6)
        assert why.how.startswith("exact")
        assert ("i0044" in why.items["item"].tolist()) == folded
    assert len(best.recommend(histories={"walk-in": ["i0044"]}, k=3)) == 3


def test_an_item_that_is_replaced_after_a_click_is_told(best, world):
    "Its part is another one by now, and the users who clicked it are sums of the old one until the next update."
    text = dict(title=world.items["title"][3], description=world.items["description"][4])
    best.update({"zoe": ["i0044", "i0003"]}, refit="never")
    assert best.explain("i0049", user="zoe").why.how.startswith("exact")
    best.add_items(dict(item="i0044", **text), replace=True)
    why = best.explain("i0049", user="zoe").why
    assert "replaced after a click" in why.how and why.items["share"].sum() + why.rest == pytest.approx(why.score, abs=1e-6)
    best.update({"zoe": ["i0005"]}, refit="never")
    assert best.explain("i0049", user="zoe").why.how.startswith("exact")


# ---- the command
def test_the_command_from_files(model, run, tmp_path, world):
    (tmp_path/"photos").mkdir(); (tmp_path/"photos"/"N-1.png").write_bytes(world.images.read("i0002"))
    put(tmp_path, "tomorrow.csv", "sku;title\nN-1;A lamp of oak\nN-2;A keepsake\n")
    put(tmp_path, "today.csv", "customer;sku;stars;when\nu0000;i0046;5;03/04/2024\nzoe;N-1;4;x\nzoe;gone;5;\nadam;i0001;1;\n;i0001;5;\n")
    status, out, err = run("update", model, "--clicks", tmp_path/"today.csv", "--items", tmp_path/"tomorrow.csv", "--pictures", tmp_path/"photos", "--min-rating", 3)
    rec = Recommender.load(model)
    assert status == 3 and "2 new clicks, 1 new user, 2 new items" in out and "unknown items 'gone'" in err and "1 click lacks a user" in err
    assert list(rec.user_ids[60:]) == ["zoe"] and rec.met[rec.rows_of(["i0046", "N-1", "N-2"])].tolist() == [1, 1, 0]
    status, out, err = run("update", model, "--items", tmp_path/"tomorrow.csv", "--pictures", tmp_path/"photos")
    assert status == 0 and not err and "0 new items; known already: 0 clicks, 2 items" in out  # a night may come twice
    status, out, err = run("update", model, "--clicks", tmp_path/"today.csv", "--min-rating", 3, "--columns", "clicks.item=sku")
    assert status == 3 and "0 new clicks" in out and "known already: 2 clicks, 0 items" in out
    assert run("recommend", model, "--users", "zoe", "--k", 2)[0] == 0


@pytest.mark.parametrize("refit, says", [("never", "as told"), ("always", "solved again, which changes"), ("auto", "of the first ten places")])
def test_refits_of_the_command(model, run, tmp_path, refit, says):
    status, out, err = run("update", model, "--clicks", put(tmp_path, "c.csv", "user,item\nu0000,i0046\nzoe,i0046\n"), "--refit", refit)
    assert status == 0 and says in out and not err and (Recommender.load(model).since is None) == ("not solved" not in out)


def test_what_the_command_refuses(model, run, tmp_path):
    before = (model/"recommender.json").read_bytes()
    clicks = put(tmp_path, "c.csv", "user,item\nu0000,i0046\n")
    for argv, status, says in ((["update", model], 2, "nothing to bring in"), (["update", tmp_path/"none", "--clicks", clicks], 2, "holds no recommender"),
                               (["update", model, "--clicks", tmp_path/"none.csv"], 2, "there is no file"), (["update", model, "--clicks", clicks, "--share", 2], 2, "share is 2.0"),
                               (["update", model, "--clicks", clicks, "--pictures", tmp_path], 2, "give them as well"), (["update", model, "--clicks", clicks, "--columns", "x"], 2, "KEY=VALUE"),
                               (["update", model, "--clicks", put(tmp_path, "d.csv", "a,b\n1,2\n")], 2, "not clear"), (["update", model, "--clicks", clicks, "--where", "x=1"], 2, "names no column")):
        got, out, err = run(*argv)
        assert got == status and says in err and len(err.strip().splitlines()) == 1, (argv, err)
    got, out, err = run("update", model, "--clicks", put(tmp_path, "e.csv", "user,item\nu0000,i0046,x\n"))
    assert got == 1 and "Nothing was changed" in out
    assert (model/"recommender.json").read_bytes() == before


def test_a_night_without_news_writes_nothing(model, run, tmp_path, fitted):
    before = os.stat(model).st_ino
    u, i = sorted(known(fitted))[0]
    for text in ("user,item\n", f"user,item\n{u},{i}\n"):
        assert run("update", model, "--clicks", put(tmp_path, "c.csv", text))[0] == 0 and os.stat(model).st_ino == before
    status, _, err = run("update", model, "--clicks", put(tmp_path, "c.csv", "user,item\nu0000,gone\n"))
    assert status == 3 and "'gone'" in err and os.stat(model).st_ino == before


def test_help_has_an_example_and_no_import_is_needed(run):
    assert "example: mamex update model --clicks today.csv" in run("update", "--help")[1].replace("\n", " ")
    code = "from mamex.recommender.core import Recommender as R; from mamex.recommender import Recommender as S; print(R is S, R.update.__doc__[:4])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "True Fold\n"


# ---- filters of a call
def test_excluded_and_allowed_by_brute_force(fitted):
    rng = np.random.default_rng(0)
    ids = fitted.item_at.to_numpy(str)
    for seen in (True, False):
        whole = fitted.recommend(["u0000", "u0001", "u0002"], k=50, among="all", exclude_seen=seen)
        for _ in range(10):
            out, may = rng.choice(ids, 20, replace=False).tolist(), {u: rng.choice(ids, 15, replace=False).tolist() for u in ("u0000", "u0001")}
            with pytest.warns(LeftOut, match="'u0002' are allowed none"): t = fitted.recommend(["u0000", "u0001", "u0002"], k=5, among="all", exclude_seen=seen, exclude=out, allowed=may)
            keep = [i not in out and i in may.get(u, []) for u, i in zip(whole["user"], whole["item"])]
            want = whole[keep].groupby("user").head(5)
            assert list(zip(t["user"], t["item"])) == list(zip(want["user"], want["item"])) and not t.attrs["complete"]
            np.testing.assert_allclose(t["score"], want["score"], atol=1e-6)


def test_filters_of_the_command(saved, run, tmp_path):
    def items(*argv): status, _, err = run("recommend", saved, "--users", "u0000", "u0001", "--k", 50, "--out", tmp_path/"r.json", *argv); return status, err, json.loads((tmp_path/"r.json").read_text())
    new = [f"i{n:04d}" for n in range(44, 50)]
    status, err, t = items("--exclude", "i0044", put(tmp_path, "out.txt", "sku\ni0045\ni0046\n"))
    assert status == 0 and not err and {r["item"] for r in t} == set(new[3:])
    status, err, t = items("--exclude", "i0044", "nothing")
    assert status == 0 and "excluded items 'nothing' are unknown" in err and {r["item"] for r in t} == set(new[1:])
    for name, text in (("a.csv", "i0047\ni0048\n"), ("a.csv", "sku,stock\ni0047,1\ni0048,2\n")):
        status, err, t = items("--allowed", put(tmp_path, name, text))
        assert status == 0 and {r["item"] for r in t} == {"i0047", "i0048"}
    status, err, t = items("--allowed", put(tmp_path, "a.csv", "customer,sku\nu0000,i0047\nu0000,gone\n"))
    assert status == 3 and "'u0001' are allowed none" in err and "allowed items 'gone' are unknown" in err and [(r["user"], r["item"]) for r in t] == [("u0000", "i0047")]
    status, _, err = run("recommend", saved, "--users", "u0000", "--exclude", *new)
    assert status == 2 and "every candidate is excluded" in err


# ---- faults
def at(folder): return Recommender.load(folder).met[44:46].tolist()

def test_kill_9_at_many_steps_leaves_a_whole_model(model, tmp_path):
    "The old one or the new one; the next update sweeps what lies around, and nothing is counted twice."
    def work():
        with alone(model): rec = Recommender.load(model); rec.update({"zoe": ["i0044", "i0045"]}, refit="never"); rec.save(model)
    steps, status = 0, -9
    while status == -9 and steps < 900:
        steps += 3
        status = killed_at(steps, work)
        assert at(model) in ([0, 0], [1, 1])
        if at(model) == [1, 1]: break
    assert steps > 20
    work()
    assert at(model) == [1, 1] and [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_full_disk_leaves_the_old_model(model, tmp_path):
    limits = sorted({0, 4096, *(p.stat().st_size - 1 for p in model.iterdir())})
    def work():
        sys.stdout = sys.stderr = open(os.devnull, "w")  # what pytest reads is a file, too
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return cli.main(["update", str(model), "--clicks", str(clicks), "--refit", "never"])
    clicks = put(tmp_path, "c.csv", "user,item\nzoe,i0044\nzoe,i0045\n")
    for limit in limits[:4]:
        assert in_child(work) == 2, limit
        assert at(model) == [0, 0] and sorted(p.name for p in tmp_path.iterdir()) == ["c.csv", "model"]
    limit = 10**9
    assert in_child(work) == 0 and at(model) == [1, 1]


def test_two_updates_at_once_both_count(model, tmp_path):
    "In processes of their own; the second waits and starts from what the first one made."
    files = [put(tmp_path, f"{k}.csv", f"user,item\nuser-{k},i004{k}\n") for k in (4, 5)]
    code = "import sys; from mamex.cli import main; sys.exit(main(sys.argv[1:]))"
    with alone(model):  # both have to wait
        both = [subprocess.Popen([sys.executable, "-c", code, "update", str(model), "--clicks", str(f), "--refit", "never"], cwd=ROOT, stdout=subprocess.PIPE) for f in files]
        time.sleep(3)
        assert all(p.poll() is None for p in both) and at(model) == [0, 0]
    assert [p.wait(300) for p in both] == [0, 0] and at(model) == [1, 1] and len(Recommender.load(model).user_ids) == 62


def test_who_does_not_wait_is_refused_in_one_sentence(model, run, tmp_path):
    clicks, there, go = put(tmp_path, "c.csv", "user,item\nzoe,i0044\n"), threading.Event(), threading.Event()
    def hold():
        with alone(model): there.set(); go.wait(60)
    other = threading.Thread(target=hold); other.start(); there.wait(60)
    try: status, _, err = run("update", model, "--clicks", clicks, "--wait", 0)
    finally: go.set(); other.join()
    assert status == 2 and "is being changed by somebody else" in err and len(err.strip().splitlines()) == 1 and at(model) == [0, 0]
    assert run("update", model, "--clicks", clicks)[0] == 0 and at(model) == [1, 0]


def test_a_folder_that_has_changed_is_noticed(model, tmp_path):
    a, b = Recommender.load(model), Recommender.load(model)
    a.update({"zoe": ["i0044"]}, refit="never"); a.save(model)
    with pytest.raises(UsageError, match="has changed since it was read: load it again"): b.update({"adam": ["i0045"]})
    with pytest.raises(UsageError, match="has changed since it was read: load it again"): b.save(model)
    assert len(b.recommend("u0000")) and len(b.add_items(dict(item="N-1", title="A lamp")).items) == 51  # who serves goes on
    a.update({"adam": ["i0045"]}, refit="never"); a.save(model)
    assert at(model) == [1, 1]


def test_a_reader_meets_one_model_or_the_other(model):
    "Loaded again and again while updates come to its place."
    stop, faults, seen = threading.Event(), [], set()
    def read():
        while not stop.is_set():
            try: rec = Recommender.load(model); seen.add(len(rec.user_ids)); assert rec.seen.shape[0] == len(rec.user_ids) == len(rec.users)
            except Exception as e: faults.append(e); return
    reader = threading.Thread(target=read); reader.start()
    rec = Recommender.load(model)
    for n in range(8): rec.update({f"new-{n}": ["i0044"]}, refit="never"); rec.save(model)
    stop.set(); reader.join()
    assert not faults and len(seen) > 1, faults


def test_what_was_done_in_words():
    assert str(Updated(clicks=1, users=2, known=3, why="as told", seconds=.24)) == "1 new click, 2 new users, 0 new items; known already: 3 clicks, 0 items; 0.2 seconds\nas told"
