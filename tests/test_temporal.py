"Time: nothing is seen before its day, and behaviour is a modality like any other."
from dataclasses import replace
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest, torch
from hypothesis import example, given, settings, strategies as st
from conftest import needs
from mamex.base import UsageError
from mamex.datasets.core import Dataset
from mamex.datasets.folders import load_dataset
from mamex.vectors.features import Features
from mamex.extractor import Extractor
from mamex.vectors.catalogue import BEHAVIOUR
from mamex.trainer import preset
from mamex.protocol.windows import cuts, known, launches, poisoned, ranks_within, release_note, rolling, slices, split_rule, window
from mamex.extensions.behaviour import CONTEXT, STEPS, Collaborative, Life, after_n, calibrate
from mamex.studies.temporal_coldstart import MODELS, own_ridge, popularity_scorer, replay, timely, train_timed
from mamex.trainer import fit

N, R = 13, 3


def made(seed, M, present=.7):
    rng = np.random.default_rng(seed)
    mask = rng.random((N, M)) < present
    return Features({f"m{i}": (rng.normal(size=(N, 3 + i)) * mask[:, [i]]).astype(np.float32) for i in range(M)}, mask, "made up", {f"m{i}": {} for i in range(M)})


FIVE = SimpleNamespace(n_users=5)


def scores_of(m, f): return m.scorer(m.catalogue(f))(np.arange(5), np.arange(N))


def with_behaviour(f): return replace(f, vectors=f.vectors | {BEHAVIOUR: np.zeros((N, R), np.float32)}, mask=np.c_[f.mask, np.zeros(N, bool)])


def same_weights(big, small):
    "The weights of the smaller model, wherever both have them."
    of = dict(small.named_parameters())
    with torch.no_grad():
        for name, p in big.named_parameters():
            if BEHAVIOUR not in name: p[tuple(map(slice, of[name].shape))] = of[name]


sizes = dict(seed=st.integers(0, 999), M=st.integers(1, 4), d=st.integers(2, 40), K=st.integers(1, 4), gate=st.sampled_from(["dense", "sparse", "mean"]))


@given(**sizes)
@example(seed=2, M=1, d=2, K=1, gate="sparse")  # a modality alone whose logit is not 0
@settings(max_examples=80, deadline=None)
def test_behaviour_that_is_absent_changes_no_bit(seed, M, d, K, gate):
    f, c = made(seed, M), preset("released", dim=d, n_experts=K, top_k=min(2, K), gate=gate)
    torch.manual_seed(seed); plain, more = c.build(f, FIVE).eval(), c.build(with_behaviour(f), FIVE).eval()
    same_weights(more, plain)
    assert np.array_equal(scores_of(more, with_behaviour(f)), scores_of(plain, f))


@given(**sizes)
@settings(max_examples=40, deadline=None)
def test_order_of_items_and_modalities_does_not_matter(seed, M, d, K, gate):
    f, c, rng = made(seed, M), preset("released", dim=d, n_experts=K, top_k=min(2, K), gate=gate), np.random.default_rng(seed)
    torch.manual_seed(seed); a = c.build(f, FIVE).eval()
    scores = scores_of(a, f)
    rows = rng.permutation(N)
    other = replace(f, vectors={m: v[rows] for m, v in f.vectors.items()}, mask=f.mask[rows])
    assert np.allclose(scores_of(a, other), scores[:, rows], atol=1e-5) and np.array_equal(scores_of(a, f), scores)
    names = [str(m) for m in rng.permutation(f.modalities)]; at = [f.modalities.index(m) for m in names]
    b = c.build(f.subset(names), FIVE).eval()
    state = a.state_dict()
    if gate != "mean":
        state["gate.net.0.weight"] = torch.cat([state["gate.net.0.weight"].split(d, 1)[k] for k in at], 1)
        for k in ("gate.net.3.weight", "gate.net.3.bias"): state[k] = state[k][at]
    for k in ("fusion_aim", "adapter_aim"): state[k] = state[k][at]
    b.load_state_dict(state)
    assert np.allclose(scores_of(b, f.subset(names)), scores, atol=1e-5)


@given(seed=st.integers(0, 999), behaviour=st.booleans(), placeholder=st.booleans())
@settings(max_examples=60, deadline=None)
def test_an_item_of_which_nothing_is_known_never_ranks_first(seed, behaviour, placeholder):
    f = made(seed, 2); f.mask[3] = False; f.mask[4] = True
    for v in f.vectors.values(): v[3] = 0
    f = with_behaviour(f) if behaviour else f
    torch.manual_seed(seed); m = preset("released", dim=6, placeholder=placeholder).build(f, FIVE).eval()
    with torch.no_grad(): m.prior.normal_(0, 9)
    s = scores_of(m, f)
    assert np.isfinite(s).all()
    if not placeholder: assert (s[:, 3] < s.max(1)).all()


@given(st.lists(st.tuples(st.integers(0, 4), st.one_of(st.floats(0, 9), st.just(float("nan")))), max_size=40))
def test_ranks_within_an_item(rows):
    items, when = (np.array([r[k] for r in rows], t) for k, t in ((0, int), (1, float)))
    pos = ranks_within(items, when)
    for i in set(items):
        own = pos[items == i]
        assert sorted(own) == list(range(len(own)))
        t = np.nan_to_num(when[items == i])[np.argsort(own)]
        assert (np.diff(t) >= 0).all()


@given(st.lists(st.integers(0, 30), min_size=12, max_size=200), st.integers(1, 3), st.floats(.02, .2))
@settings(deadline=None)
def test_windows_do_not_overlap(days, n, share):
    born = np.array(days, float)
    try: found = cuts(born, n, share)
    except ValueError as e: assert "leave no item to train on" in str(e); return
    assert len(found) == n and found[-1][2] == np.inf
    for a, b, c in found:
        assert born.min() < a < b < c
        for lo, hi in ((a, b), (b, c)): assert ((born >= lo) & (born < hi)).sum() >= share * len(born)
    for old, new in zip(found, found[1:]): assert old[1:] == new[:2]


@pytest.fixture(scope="module")
def timed():
    "The shop with a time for every interaction: items appear one after the other, and live on."
    ds, rng = load_dataset("toy"), np.random.default_rng(0)
    t = ds.interactions["item"].to_numpy() * 86400. * 7 + rng.exponential(86400. * 90, ds.n_interactions)
    return replace(ds, interactions=ds.interactions.assign(timestamp=t)), Extractor("tiny").extract(ds, progress=False)


QUICK = preset("released", **timely(dict(dim=16, batch_size=2048, lr=1e-2, epochs=4, eval_every=2)))


def everything(ds, features, cut, by, models=MODELS):
    "All numbers of a window that are made before its test slice begins, of the items that are there by then: name → arrays."
    born, by = launches(ds, by)
    w = window(ds, features, born, cut, by, 5)
    cf, old = Collaborative(w.split, 8), np.r_[w.split.warm_items, w.split.val_items]
    out = {"floors": [cf.p, own_ridge(w)(np.arange(3), old), popularity_scorer(w, w.split.train)(np.arange(3), old)]}
    for name, ((run, _),) in train_timed(w, cf, models, QUICK, [0]).items():
        # means over all items and the joint pool hold the items of test as well
        history = [v for row in run.history for k, v in row.items() if "/" not in k or k.startswith("val_own/")]
        out[name] = [np.array(history), run.scorer()(np.arange(9), old), *(v.numpy() for v in run.model.state_dict().values())]
    return w, out


def test_no_look_ahead(timed):
    "Another future: not one number before the cut changes, and those after it do."
    ds, features = timed
    born, by = launches(ds); cut = cuts(born, 1, .15)[0]
    bad = poisoned(ds, born, cut[1])
    (w, a), (v, b) = everything(ds, features, cut, by), everything(bad, features, cut, by)
    assert (w.times("train") < cut[0]).all() and (w.times("val") < cut[1]).all() and len(w.split.train) > 1000
    for name in a:
        # a new item's age moves it to another expert, and sums over an expert's items are rounded in another order
        same = (lambda x, y: np.allclose(x, y, atol=1e-5)) if "time" in name else np.array_equal
        assert all(map(same, a[name], b[name])), name
    assert not np.array_equal(w.split.test, v.split.test)


DATED = ("first", "released", "released, no times", "index")


def small(seed, how):
    "A little shop with old items that live on, and its launches."
    rng = np.random.default_rng(seed)
    pairs = rng.permutation([(u, i) for u in range(14) for i in range(24)])[:150]
    start = np.sort(rng.integers(0, 40, 24))
    t = (start[pairs[:, 1]] + rng.integers(0, 25, len(pairs))).astype(float)
    if how == "released": t[rng.random(len(t)) < .2] = np.nan
    ids = np.array([f"i{k}" for k in range(24)])
    x = pd.DataFrame(dict(user=pairs[:, 0], item=pairs[:, 1]))
    ds = Dataset("toy", np.array([f"u{k}" for k in range(14)]), ids, x if how.endswith("no times") or how == "index" else x.assign(timestamp=t), pd.DataFrame(dict(item=ids)))
    launch = lambda ds: launches(ds, how)[0] if how in ("first", "index") else start.astype(float)
    return ds, launch


def core_by_hand(pairs, k):
    "Take away whoever has fewer than k, until nobody has."
    pairs = set(pairs)
    while True:
        n = {w: pd.Series([p[w] for p in pairs], dtype=int).value_counts() for w in (0, 1)}
        left = {p for p in pairs if n[0][p[0]] >= k and n[1][p[1]] >= k}
        if left == pairs: return left
        pairs = left


@given(seed=st.integers(0, 9999), how=st.sampled_from(DATED), k=st.integers(0, 5), a=st.floats(.3, .7), b=st.floats(.75, .95))
@settings(max_examples=150, deadline=None)
def test_a_window_holds_what_was_known_by_then(seed, how, k, a, b):
    "By hand: old interactions with old items, their core, and of new items what known users did with them in time."
    ds, launch = small(seed, how)
    born = launch(ds); val, test = np.nanquantile(born, [a, b])
    x, part = ds.interactions, slices(ds, born, (val, test, np.inf), k)
    rows = [(u, i, born[i], t) for u, i, t in zip(x["user"], x["item"], x.get("timestamp", pd.Series(np.nan, x.index)))]
    pairs = lambda lo, hi: {(u, i) for u, i, s, t in rows if lo <= s < hi and not t >= hi}
    train = core_by_hand(pairs(-np.inf, val), k)
    users = {u for u, _ in train}
    of = lambda p: set(map(tuple, x.loc[part == p, ["user", "item"]].to_numpy()))
    assert of(0) == train
    assert of(1) == {p for p in pairs(val, test) if p[0] in users}
    assert of(2) == {p for p in pairs(test, np.inf) if p[0] in users}


@given(seed=st.integers(0, 9999), how=st.sampled_from(DATED), k=st.integers(0, 5), a=st.floats(.3, .7), b=st.floats(.75, .95))
@settings(max_examples=150, deadline=None)
def test_another_future_changes_nothing_before_it(seed, how, k, a, b):
    "Neither what trains, nor the core, nor who is known; after the cut of test, nor what validates."
    ds, launch = small(seed, how)
    born = launch(ds); cut = (*np.nanquantile(born, [a, b]), np.inf)
    of = lambda ds, p: ds.interactions.loc[slices(ds, launch(ds), cut, k) == p].to_numpy(float)
    for at, parts in ((cut[0], [0]), (cut[1], [0, 1])):
        bad = poisoned(ds, born, at, seed)
        for p in parts: assert np.array_equal(of(ds, p), of(bad, p), equal_nan=True)


def test_a_later_interaction_makes_nobody_known():
    "A user and an item one interaction short of the core stay out, however much they do later."
    x = pd.DataFrame([(u, i, 1.) for u in range(4) for i in range(4)] + [(4, 0, 1.), (4, 1, 1.)] + [(4, i, 9.) for i in range(2, 8)] + [(u, i, 9.) for u in range(4) for i in (4, 5)], columns=["user", "item", "timestamp"])
    ids = np.array([f"i{k}" for k in range(8)])
    ds = Dataset("shop", np.array([f"u{k}" for k in range(5)]), ids, x, pd.DataFrame(dict(item=ids)))
    part = slices(ds, launches(ds)[0], (5., 8., np.inf), 3)
    assert set(x["user"][part == 0]) == {0, 1, 2, 3} and set(x["item"][part == 2]) == {4, 5}   # 6 and 7 were met by user 4 alone


def test_windows_that_ask_too_few_are_left_out(timed):
    ds, features = timed
    born, by = launches(ds)
    wins, sizes = rolling(ds, features, born, by, 5, .08, 5)
    assert len(wins) == 5 and all(r["kept"] for r in sizes)
    bar = sorted(min(r["asked"], r["validating"]) for r in sizes)[2]
    wins, sizes = rolling(ds, features, born, by, 5, .08, 5, bar)
    assert 2 < len(wins) == sum(r["kept"] for r in sizes) <= 3 and min(len(np.unique(w.split.test[:, 0])) for w in wins) >= bar
    assert [len(known(w, "test")[1]) for w in wins] == [r["new"] for r in sizes if r["kept"]]


@needs("movielens")
def test_users_who_never_come_back_are_refused():
    "Ratings of a film club's evening: no cut in time has 30 users on both sides."
    ds = load_dataset("movielens")
    born, by = launches(ds)
    assert by == "first"
    def none(): raise AssertionError("no vectors are needed for a refusal")
    with pytest.raises(UsageError, match="ask 30 users whom training knows") as e: rolling(ds, none, born, by, k=5)
    assert "\n" not in str(e.value) and "-p least" in str(e.value)


def test_what_has_no_times_is_no_split_by_time():
    days = np.random.default_rng(0).permutation(300)
    dated, timed = shop(DAYS.strftime("%Y-%m-%d")), shop(DAYS.strftime("%Y-%m-%d"), timestamp=days)
    assert split_rule(dated, launches(dated)[1], 5) == "by age (released: ISO dates; UTC where no zone is given), 5-core of what is known before the cut"
    assert launches(timed)[1] == "first" and split_rule(timed, "first") == "by time (first interaction)"
    assert split_rule(timed, "released").startswith("by time (released")
    with pytest.raises(UsageError, match="bear times"): launches(timed, "index")


def test_a_life_is_a_function_of_its_seed(timed, tmp_path):
    "The same twice, and the same when killed and resumed."
    ds, features = timed
    born, by = launches(ds); w = window(ds, features, born, cuts(born, 1, .15)[0], by)
    life = Life(w, Collaborative(w.split, 8), CONTEXT)
    c = replace(QUICK, context="both")
    class Kill(Exception): pass
    def die(row): raise Kill
    first = fit(life.features(), w.split, c, 1, life=life, progress=False)
    with pytest.raises(Kill): fit(life.features(), w.split, c, 1, life=life, progress=False, checkpoints=tmp_path, callback=die)
    again = fit(life.features(), w.split, c, 1, life=life, progress=False, checkpoints=tmp_path)
    assert first.history == again.history
    for x, y in zip(first.model.state_dict().values(), again.model.state_dict().values()): assert torch.equal(x, y)
    seen = replay(w, life.cf, {"m": [(first, life)]}, (0, 4))
    assert seen[0]["m"][0].equals(replay(w, life.cf, {"m": [(again, life)]}, (0,))[0]["m"][0])   # a replay changes nothing


def test_what_a_user_has_met_is_no_candidate(timed):
    ds, features = timed
    born, by = launches(ds); w = window(ds, features, born, cuts(born, 1, .15)[0], by)
    life = Life(w, Collaborative(w.split, 8))
    past, pairs, _ = life.so_far(3)
    met = {tuple(p) for p in w.split.test[past]}
    wants_old = lambda u, i: np.array([[float((a, b) in met) for b in i] for a in u])   # a model that ranks what was met first
    none = lambda u, i: np.zeros((len(u), len(i)))
    a, b = after_n(wants_old, w, past), after_n(none, w, past)
    assert set(a.index) == set(w.split.test[~past, 0]) and a["ndcg@20"].mean() == pytest.approx(b["ndcg@20"].mean(), abs=.03)


@needs("luxury")
def test_true_review_time():
    "Real reviews: nothing after the cut is trained on, and every new item's first review lies after it."
    ds = load_dataset("luxury")
    rng = np.random.default_rng(0)
    features = Features({"text": rng.normal(size=(ds.n_items, 8)).astype(np.float32)}, np.ones((ds.n_items, 1), bool), "made up", {})
    born, by = launches(ds)
    assert by == "first"
    for cut in cuts(born, 3, .1):
        w = window(ds, features, born, cut, by)
        assert w.times("train").max() < cut[0] and w.times("val").max() < cut[1] and w.born[w.split.val_items].min() >= cut[0] and w.born[w.split.test_items].min() >= cut[1]
        first = pd.Series(w.times("test")).groupby(w.split.test[:, 1]).min()
        assert (first >= w.born[first.index]).all()


# release dates as people write them

DAYS = pd.date_range("2015-01-05", "2021-12-20", periods=60)  # item k is older than item k + 1
WRITTEN = dict(iso="%Y-%m-%d", slashes="%Y/%m/%d", dots="%d.%m.%Y", american="%m/%d/%Y", words="%d %b %Y", long="%B %d, %Y", packed="%Y%m%d", stamp="%Y-%m-%dT%H:%M:%S+00:00")


def shop(released, **more):
    rng, n = np.random.default_rng(0), 60
    ids = np.array([f"i{k}" for k in range(n)])
    pairs = pd.DataFrame([(u, i) for u in range(30) for i in rng.choice(n, 10, replace=False)], columns=["user", "item"]).astype("int64").assign(**more)
    return Dataset("shop", np.array([f"u{k}" for k in range(30)]), ids, pairs, pd.DataFrame(dict(item=ids, title=ids, released=released)),
                   features={"image": rng.normal(size=(n, 8)).astype(np.float32)})


def newest(ds, by="released"):
    born, by = launches(ds, by)
    w = window(ds, Features(ds.features, np.ones((60, 1), bool), "", {}), born, cuts(born)[-1], by)
    return w.items[w.split.test_items].tolist(), w


@pytest.mark.parametrize("how", WRITTEN)
def test_the_newest_items_are_asked_for_however_dates_are_written(how):
    assert newest(shop(DAYS.strftime(WRITTEN[how])))[0] == list(range(54, 60))


@given(st.lists(st.sampled_from(list(WRITTEN)), min_size=60, max_size=60))
@settings(max_examples=20, deadline=None)
def test_or_the_split_refuses(hows):
    "Mixed writings: the same items, or one sentence that names `released`."
    try: got = newest(shop([d.strftime(WRITTEN[h]) for d, h in zip(DAYS, hows)]))[0]
    except UsageError as e: assert "released" in str(e) and "2024-01-31" in str(e) and "\n" not in str(e)
    else: assert got == list(range(54, 60))


@pytest.mark.parametrize("kind", [lambda d: d.to_pydatetime(), lambda d: d.tz_localize("UTC"), lambda d: d.date(), lambda d: np.datetime64(d, "ns")], ids=["datetime", "zone", "date", "numpy"])
def test_dates_that_are_dates(kind):
    assert newest(shop([kind(d) for d in DAYS]))[0] == list(range(54, 60))


@pytest.mark.parametrize("years", [list(range(1960, 2020)), [str(y) for y in range(1960, 2020)], pd.array(range(1960, 2020), "Int32"), [float(y) for y in range(1960, 2020)]], ids=["int", "text", "Int32", "float"])
def test_years_are_their_first_day(years):
    got, w = newest(shop(years))
    assert got == list(range(54, 60)) and w.split.rule == "by age (released: years, each as its first day)"
    assert launches(shop(years))[0].tolist() == [pd.Timestamp(f"{y}-01-01").timestamp() for y in range(1960, 2020)]


@pytest.mark.parametrize("junk", ["soon", "to be announced", "0000-00-00", "spring 99", "n/a yet", "2024-13-45"])
@pytest.mark.parametrize("share", [1., .5, .02])
def test_too_many_unreadable_dates_are_refused(junk, share):
    dates = list(DAYS.strftime("%Y-%m-%d")); n = max(1, int(share * 60))
    with pytest.raises(UsageError) as e: launches(shop([junk] * n + dates[n:]))
    said = str(e.value)
    assert f"{n} of the 60 dates in 'released' of shop cannot be read" in said and repr(junk) in said and "item 'i0'" in said and "2024-01-31" in said and "by='first'" in said


def test_few_unreadable_dates_and_missing_ones_are_counted_and_named():
    ds = shop(DAYS.strftime("%Y-%m-%d"))
    ds = replace(ds, items=pd.concat([ds.items] * 3, ignore_index=True), item_ids=np.array([f"i{k}" for k in range(180)]), features={})
    dates = ds.items["released"].tolist(); dates[7] = "soon"; dates[9:12] = [None, float("nan"), " "]
    ds = replace(ds, items=ds.items.assign(released=dates))
    born, by = launches(ds)
    rule = window(ds, Features({"x": np.ones((180, 2), np.float32)}, np.ones((180, 1), bool), "", {}), born, cuts(born)[-1], by).split.rule
    assert np.isnan(born[[7, 9, 10, 11]]).all() and np.isfinite(born).sum() == 176
    assert "3 of 180 items without a date" in rule and "1 dates unreadable and left out, the first 'soon' of item 'i7'" in rule


def test_a_date_in_the_future_is_said():
    assert "1 dates in the future, the first '2093-01-01' of item 'i59'" in release_note(shop([*DAYS.strftime("%Y-%m-%d")[:-1], "2093-01-01"]))


def test_a_column_without_a_date_is_no_launch():
    "Then the first interaction is."
    ds = shop([None] * 60, timestamp=np.arange(300))
    assert launches(ds)[1] == "first"
    with pytest.raises(UsageError, match="has no released"): launches(ds, "released")
