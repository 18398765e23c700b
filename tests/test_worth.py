"What a click counts: ones change nothing, nights add up, the later word is not lost, and bad weights are named."
from dataclasses import replace as changed

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from scipy import sparse

from mamex.base import UsageError
from mamex.datasets.checks.folder import check_folder
from mamex.datasets.folders import load_dataset, save_dataset
from mamex.datasets.toy import toy
from mamex.protocol.splits import Split
from mamex.recommender.core import Recommender
from mamex.recommender.weights import DAY, heavier, recency, worth_of
from mamex.tastes import damped

QUICK = dict(deadline=None, suppress_health_check=list(HealthCheck))
SETTLED = dict(damp=.3, memory=.1)  # nothing to choose: two fits differ by their clicks alone


@pytest.fixture(scope="module")
def shop():
    "Two months of a shop, the last items new."
    ds = toy(n_users=40, n_items=40)
    x = ds.interactions[ds.interactions["item"] < 36].reset_index(drop=True)
    rng = np.random.default_rng(0)
    x = x.assign(timestamp=rng.integers(0, 60 * DAY, len(x)), weight=rng.choice([1., 3., 5.], len(x)))
    return changed(ds, interactions=x, info=ds.info | dict(weights="event=view:1,cart:3,buy:5"))


def fit(ds, **how): return Recommender.fit(ds, "tiny", progress=False, **SETTLED | how)
def scores(rec): return rec.users @ rec.e.T
def plain(ds): return changed(ds, interactions=ds.interactions.drop(columns=["weight", "timestamp"]))
def dense(worth): return worth.toarray()


@pytest.fixture(scope="module")
def weighed(shop): return fit(shop, half_life=20)


# ---- the matrix
@settings(max_examples=50, **QUICK)
@given(st.data())
def test_the_matrix_holds_the_weights_and_ones_are_no_weights(data):
    n, m = data.draw(st.integers(2, 6)), data.draw(st.integers(3, 8))
    met = np.array(data.draw(st.lists(st.lists(st.booleans(), min_size=m, max_size=m), min_size=n, max_size=n)))
    w = np.array(data.draw(st.lists(st.lists(st.floats(.1, 9), min_size=m, max_size=m), min_size=n, max_size=n)))
    pairs, cold = np.argwhere(met), np.array([m - 1])
    out = pairs[:, 1] == m - 1
    split = lambda worth: Split(n, m, pairs[~out], pairs[out], pairs[:0], cold, cold[:0], "", worth)
    warm, heavy = (met * w)[:, :m-1], split(sparse.csr_array(met * w))
    assert np.allclose(heavy.matrix().toarray()[:, :m-1], warm) and heavy.matrix("train", bool).sum() == met[:, :m-1].sum()
    for a in (0., .5): assert np.allclose(damped(heavy, a).toarray(), warm.T * np.maximum(warm.T.sum(1), 1)[:, None]**-a)
    for a in (0., .5): assert (damped(split(sparse.csr_array(met * 1.)), a) != damped(split(None), a)).nnz == 0


def test_ones_are_no_weights_to_the_bit(shop):
    ones = changed(shop, interactions=plain(shop).interactions.assign(weight=1.))
    a, b = fit(plain(shop)), fit(ones)
    assert (a.e == b.e).all() and (a.users == b.users).all() and a.worth is None and a.about.get("weights") is None


@pytest.mark.parametrize("refit", [True, False])
def test_what_weighs_more_is_served_and_what_was_met_stays_out(shop, refit):
    odd = shop.interactions["item"] % 2 == 1
    rec = fit(changed(shop, interactions=shop.interactions.assign(weight=np.where(odd, 20., .01))), refit=refit)
    other = fit(changed(shop, interactions=shop.interactions.assign(weight=np.where(odd, .01, 20.))), refit=refit)
    share = lambda r: np.mean(r.item_at.get_indexer(r.recommend(among="all", k=5)["item"]) % 2)
    assert share(rec) > share(other) + .1
    met = set(zip(shop.user_ids[shop.interactions["user"]], shop.item_ids[shop.interactions["item"]]))
    t = rec.recommend(among="all", k=40)
    assert not met & set(zip(t["user"], t["item"]))


@settings(max_examples=60, deadline=None)
@given(st.floats(.1, 1000), st.lists(st.floats(0, 1e9), min_size=1), st.floats(0, 1e9))
def test_half_of_a_click_is_left_after_a_half_life(h, t, later):
    a, b = recency(t, h, 1e9), recency(np.array(t) - h * DAY, h, 1e9)
    assert (0 < b).all() and np.allclose(b, np.maximum(a / 2, 2.**-30)) and (a <= 1).all()


# ---- nights
NIGHT = st.lists(st.tuples(st.sampled_from([f"u{n:04d}" for n in range(0, 40, 5)] + ["ann", "bob"]),
                           st.sampled_from([f"i{n:04d}" for n in range(40)]), st.sampled_from([.5, 1., 3., 5., 8.]),
                           st.integers(60 * DAY, 70 * DAY)), min_size=1, max_size=25)
table = lambda rows: pd.DataFrame(rows, columns=["user", "item", "weight", "timestamp"])


@settings(max_examples=12, **QUICK)
@given(first=NIGHT, second=NIGHT, refit=st.sampled_from(["never", "always"]))
def test_two_nights_are_one(weighed, first, second, refit):
    a, b = changed(weighed), changed(weighed)
    for n in (first, second): a.update(table(n), refit="never")
    b.update(table(first + second), refit="never")
    if refit == "always": a.update(refit="always"); b.update(refit="always")
    assert np.allclose(dense(a.worth), dense(b.worth)) and (a.seen != b.seen).nnz == 0
    assert (a.worth.astype(bool) != a.seen).nnz == 0
    np.testing.assert_allclose(scores(a), scores(b), atol=1e-5)


@settings(max_examples=6, **QUICK)
@given(NIGHT)
def test_a_refit_is_a_fit_of_the_union(shop, weighed, night):
    rec = changed(weighed)
    rec.update(table(night), refit="always")
    if rec.since is not None: rec.update(refit="always")
    old = shop.interactions.assign(user=shop.user_ids[shop.interactions["user"]], item=shop.item_ids[shop.interactions["item"]])
    until, both = max(t for *_, t in night), pd.concat([old, table(night)])
    w = both["weight"] * recency(both["timestamp"], 20, until)
    w = both.assign(weight=w).groupby(["user", "item"], sort=False)["weight"].max().reset_index()
    x = w.assign(user=rec.user_at.get_indexer(w["user"]), item=rec.item_at.get_indexer(w["item"]))
    union = fit(changed(shop, user_ids=rec.user_ids, interactions=x))
    assert np.allclose(dense(rec.worth), dense(union.worth), rtol=1e-5)
    np.testing.assert_allclose(scores(rec), scores(union), atol=1e-4)


def test_who_looked_and_bought_has_bought_and_the_same_night_again_changes_nothing(weighed):
    rec, user = changed(weighed), weighed.user_ids[3]
    item = rec.item_at[rec.seen[[3]].indices[0]]
    night = pd.DataFrame(dict(user=[user], item=[item], weight=[50.]))
    done = rec.update(night, refit="never")
    assert (done.clicks, done.known, done.heavier) == (0, 1, 1) and rec.worth[3, rec.item_at.get_loc(item)] == 50
    assert "counts more now: 1 user" in str(done) and not np.allclose(rec.users[3], weighed.users[3])
    assert (np.delete(rec.users, 3, 0) == np.delete(weighed.users, 3, 0)).all()
    was = rec.users.copy()
    assert rec.update(night, refit="never").heavier == 0 and (rec.users == was).all()
    assert rec.update(night.assign(weight=.1), refit="never").heavier == 0 and rec.worth[3, rec.item_at.get_loc(item)] == 50


def test_a_refit_asked_for_later_knows_of_what_counts_more(weighed):
    item = weighed.item_at[weighed.seen[[3]].indices[0]]
    night = pd.DataFrame(dict(user=[weighed.user_ids[3]], item=[item], weight=[50.]))
    a, b = changed(weighed), changed(weighed)
    a.update(night, refit="never")
    assert a.update(refit="always").refit and b.update(night, refit="always").refit
    np.testing.assert_allclose(scores(a), scores(b), atol=1e-6)


@pytest.mark.parametrize("when", [["2024-01-31", "2024-02-01"], pd.to_datetime(["2024-01-31", None]), [1706659200, np.nan]])
def test_dates_of_a_night_are_read_in_any_writing(shop, when):
    rec = fit(changed(shop, interactions=shop.interactions.assign(timestamp=1704067200)), half_life=30)
    rec.update(pd.DataFrame(dict(user=["ann", "bob"], item=["i0001", "i0002"], timestamp=when)), refit="never")
    w = rec.worth[rec.user_at.get_loc("ann"), rec.item_at.get_loc("i0001")]
    assert w == pytest.approx(2, rel=1e-6)


@pytest.mark.parametrize("odd, why", [(dict(weight=[1, -1]), "'weight' of -1 in row 2"), (dict(weight=[1, "much"]), "no number"),
                                      (dict(timestamp=[1, "soon"]), "'soon' in row 2"), (dict(timestamp=[1.7e12, 1.7e12]), "milliseconds")])
def test_a_night_with_odd_values_changes_nothing(weighed, odd, why):
    rec = changed(weighed)
    with pytest.raises(UsageError, match=why): rec.update(pd.DataFrame(dict(user=["ann", "bob"], item=["i0001", "i0002"]) | odd))
    assert (rec.users == weighed.users).all() and rec.seen.shape == weighed.seen.shape


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_weights_after_a_night_are_the_greater_ones(data):
    n, m = 3, 4
    draw = lambda s: np.array(data.draw(st.lists(st.lists(s, min_size=m, max_size=m), min_size=n, max_size=n)))
    seen, said = draw(st.booleans()), draw(st.sampled_from([0, 0, .5, 1, 3, 7])).astype(np.float32)
    worth = data.draw(st.sampled_from([None, np.float32(2), np.float32(.25)]))
    now = seen | (said > 0) | draw(st.booleans())
    before = seen * (np.float32(1) if worth is None else worth)
    after, more = heavier(None if worth is None else sparse.csr_array(before), *map(sparse.csr_array, (seen, now, said)))
    expected = np.where(seen, np.maximum(before, said), np.where(said > 0, said, now))
    assert (after.toarray() == expected).all() and more.tolist() == np.flatnonzero((seen & (said > before)).any(1)).tolist()


# ---- what is kept, and explained
def test_weights_are_saved_and_stay_with_new_items(weighed, tmp_path):
    rec = changed(weighed)
    rec.save(tmp_path/"m")
    back = Recommender.load(tmp_path/"m")
    assert (back.worth != weighed.worth).nnz == 0 and back.about["weights"] == weighed.about["weights"]
    back.add_items(pd.DataFrame(dict(item=["lamp"], title=["A lamp of oak"])))
    assert back.worth.shape == back.seen.shape and back.update({"u0001": ["lamp"]}, refit="never").clicks == 1
    assert back.worth[back.user_at.get_loc("u0001"), back.item_at.get_loc("lamp")] == 1
    back.save(tmp_path/"m")
    again = Recommender.load(tmp_path/"m")
    assert (again.worth != back.worth).nnz == 0


@pytest.mark.parametrize("night", [False, True])
def test_shares_of_a_score_are_exact(weighed, night):
    rec = changed(weighed)
    if night: rec.update(table([("u0001", "i0037", 5., 61 * DAY)]), refit="never")
    w = rec.shares(38, user="u0001")
    assert w.how.startswith("exact") and w.items["share"].sum() + w.rest == pytest.approx(w.score, abs=1e-6)
    if not night: assert w.rest == 0


# ---- the commands
def put(path, text): path.write_text(text); return path


def test_from_events_to_a_night(run, tmp_path):
    rng = np.random.default_rng(0)
    put(tmp_path/"p.csv", "sku,title\n" + "".join(f"p{n},{w} {v}\n" for n, (w, v) in enumerate(
        (w, v) for w in ("lamp", "chair", "table", "shelf") for v in ("oak", "red", "old", "small"))))
    rows = [(f"u{u}", f"p{i}", ("view", "buy", "hide")[(u + i) % 3 if i % 5 else 0], f"2024-0{1 + i % 6}-11")
            for u in range(12) for i in rng.choice(14, 7, replace=False)]
    put(tmp_path/"c.csv", "user,sku,event,date\n" + "".join(",".join(r) + "\n" for r in rows))
    make = ["import", tmp_path/"p.csv", tmp_path/"c.csv", "--to", tmp_path/"shop"]
    status, _, err = run(*make, "--weights", "event=view:1,buy:5")
    assert status == 2 and "other kinds of 'event': 'hide'" in err and not (tmp_path/"shop").exists()
    status, out, _ = run(*make, "--weights", "event=view:1,buy:5,hide:0")
    assert status == 0 and "clicks count by 'event'" in out and "not read: event" not in out
    ds = load_dataset(tmp_path/"shop")
    kinds = {(u, i): k for u, i, k, _ in rows}
    for u, i, w in zip(ds.user_ids[ds.interactions["user"]], ds.item_ids[ds.interactions["item"]], ds.interactions["weight"]):
        assert w == dict(view=1, buy=5)[kinds[u, i]]
    assert len(ds.interactions) == sum(k != "hide" for k in kinds.values())
    status, out, _ = run("fit", tmp_path/"shop", "--to", tmp_path/"m", "--encoder", "offline", "--half-life", "60")
    assert status == 0 and "by 'event=view:1,buy:5,hide:0', half of it after every 60 days" in out
    looked = next((u, i) for (u, i), k in kinds.items() if k == "view")
    put(tmp_path/"n.csv", f"user,sku,event,date\n{looked[0]},{looked[1]},buy,2024-06-12\nzoe,p15,view,2024-06-12\n")
    status, out, _ = run("update", tmp_path/"m", "--clicks", tmp_path/"n.csv", "--refit", "never")
    rec = Recommender.load(tmp_path/"m")
    at = rec.user_at.get_loc(looked[0]), rec.item_at.get_loc(looked[1])
    assert status == 0 and "counts more now: 1 user" in out and rec.worth[at] > 4
    before = (tmp_path/"m"/"recommender.json").read_bytes()
    put(tmp_path/"n.csv", "user,sku,event,date\nzoe,p14,gift,2024-06-13\n")
    status, _, err = run("update", tmp_path/"m", "--clicks", tmp_path/"n.csv")
    assert status == 2 and "'gift'" in err and (tmp_path/"m"/"recommender.json").read_bytes() == before
    put(tmp_path/"n.csv", "user,sku,date\nzoe,p14,2024-06-13\n")
    status, out, _ = run("update", tmp_path/"m", "--clicks", tmp_path/"n.csv", "--refit", "never")
    assert status == 0 and "every click counts one: the file has no 'event'" in out
    put(tmp_path/"n.csv", "user,sku\nzoe,p13\n")
    status, out, err = run("update", tmp_path/"m", "--clicks", tmp_path/"n.csv", "--refit", "never")
    assert status == 0, err
    put(tmp_path/"n.csv", "user,sku,date\nzoe,p12,2034-06-13\n")
    status, _, err = run("update", tmp_path/"m", "--clicks", tmp_path/"n.csv", "--refit", "never")
    assert status == 2 and "half-lives after the last one" in err


# ---- what is wrong is named
@pytest.mark.parametrize("weight", [0, -1, np.nan, np.inf, "much"])
def test_a_folder_with_a_weight_that_is_none(shop, tmp_path, weight):
    x = shop.interactions.assign(weight=[weight] + ["2"] * (len(shop.interactions) - 1))
    save_dataset(changed(shop, interactions=x.astype(dict(weight=str))), tmp_path/"shop")
    with pytest.raises(UsageError, match="'weight' (of .* in row 1: what a click counts|that is no number)"): load_dataset(tmp_path/"shop")
    found = [p for p in check_folder(tmp_path/"shop", pictures=False) if p.level == "error"]
    assert [(p.row, p.what) for p in found] == [(1, "the weight is no number above 0")]


def test_check_reads_weights(shop, tmp_path):
    save_dataset(shop, tmp_path/"shop")
    assert not [p for p in check_folder(tmp_path/"shop", pictures=False) if p.kind == "unread column" or p.level == "error"]


def test_of_a_repeated_pair_the_greatest_weight_stays(tmp_path):
    (tmp_path/"s").mkdir()
    pd.DataFrame(dict(user=["a", "a", "b"], item=["x", "x", "y"], weight=[1, 5, 2])).to_parquet(tmp_path/"s"/"interactions.parquet")
    pd.DataFrame(dict(item=["x", "y"])).to_parquet(tmp_path/"s"/"items.parquet")
    assert load_dataset(tmp_path/"s").interactions["weight"].tolist() == [5, 2]


def test_trained_models_count_once_and_say_so(shop):
    how = dict(encoder="tiny", config="released", progress=False, epochs=1, dim=8)
    with pytest.warns(UserWarning, match="a trained model counts each once"): rec = Recommender.fit(shop, **how)
    assert rec.worth is None and "weights" not in rec.about
    done = rec.update(table([("ann", "i0001", 5., 61 * DAY)]), refit="never")
    assert any("counts each once" in n for n in done.notes) and rec.worth is None
    with pytest.raises(UsageError, match="half_life is for a solved model"): Recommender.fit(shop, **how, half_life=30)


@pytest.mark.parametrize("half_life", [0, -1, True, "90", float("nan"), float("inf")])
def test_a_half_life_that_is_none(shop, half_life):
    with pytest.raises(UsageError, match="half_life is .*a number above 0"): fit(shop, half_life=half_life)


def test_a_half_life_needs_times(shop):
    with pytest.raises(UsageError, match="half_life needs the time of every click"): fit(plain(shop), half_life=30)
    late = shop.interactions["timestamp"].astype(float).where(shop.interactions.index > 2)
    with pytest.raises(UsageError, match="3 of .* have none"): fit(changed(shop, interactions=shop.interactions.assign(timestamp=late)), half_life=30)
