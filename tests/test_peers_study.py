"The peers' study: what accuracy does not see, the search that survives a kill, Holm, the page, attributes, and the notebook end to end."
import json, shutil
from dataclasses import replace
import numpy as np, pandas as pd, papermill as pm, pytest
from hypothesis import given, settings, strategies as st
from conftest import ROOT
from mamex.rivals.peers import SPACES
from mamex.protocol.folds import cold_folds
from mamex.protocol.verdicts import LOOKS
from mamex.studies import claims, follow, front, overview, peers, peers_page, search
from mamex.studies.evidence import AWAY
from mamex.vectors.attributes import attribute_features, multi_hot, truncated_svd
from mamex.protocol.exposure import (agreement, bands, exposure, cold_popularity, gini, jaccard, jensen_shannon,
                                     overlap, top_k)
from mamex.base import UsageError
from mamex.datasets.folders import load_dataset
from mamex.extractor import Extractor
from mamex.protocol.intervals import holm
from mamex.protocol.metrics import relevant_places
from mamex.vectors.choose import choose_encoder
from mamex.extractor import extract
from mamex.protocol.splits import Split, cold_split
from mamex.trainer import fit


@pytest.fixture(scope="module")
def toy():
    ds = load_dataset("toy")
    return ds, Extractor("tiny").extract(ds, progress=False), cold_split(ds)


# beyond accuracy

@given(st.integers(1, 30), st.integers(1, 25), st.integers(1, 30), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_lists_are_the_ranks_below_k(n, p, k, values, seed):
    s = np.random.default_rng(seed).integers(0, values, (n, p)).astype(float)  # few values: many ties
    first, size = (x.reshape(n, p) for x in relevant_places(s, np.ones_like(s, bool))[1:])
    top = top_k(s, k)
    place, at = np.arange(min(k, p)), lambda x: np.take_along_axis(x, top, 1)
    assert top.shape == (n, min(k, p)) and ((at(first) <= place) & (place < at(first) + at(size))).all()


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40).filter(any), st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_gini_is_a_gini(x, factor):
    g = gini(x)
    assert -1e-12 <= g <= 1 - 1 / len(x) + 1e-12
    assert np.isclose(g, gini(np.multiply(x, factor))) and np.isclose(g, gini(x[::-1]))
    assert np.isclose(g, np.abs(np.subtract.outer(x, x)).mean() / (2 * np.mean(x)))
    assert gini([*x, *x]) == pytest.approx(g)  # a population twice as large


@given(st.integers(2, 5), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_divergence_is_symmetric_and_bounded(b, seed):
    p, q = np.random.default_rng(seed).dirichlet(np.full(b, .3), (2, 8))
    d = jensen_shannon(p, q)
    assert np.allclose(d, jensen_shannon(q, p)) and (d >= -1e-12).all() and (d <= 1 + 1e-12).all() and np.allclose(jensen_shannon(p, p), 0)


@given(st.lists(st.integers(0, 100), min_size=1, max_size=40).filter(any))
@settings(max_examples=100, deadline=None)
def test_bands_follow_popularity(counts):
    c = np.array(counts); b = bands(c)
    order = np.argsort(-c, kind="stable")
    assert (np.diff(b[order]) >= 0).all() and b[order[0]] == 0
    head = c[b == 0].sum() / c.sum()
    assert head >= .2 or (b == 0).all()


def test_measures_by_hand():
    "Three users, four items met by 4, 2, 1 and 1; lists of two."
    split = Split(4, 6, np.array([[0, 0]]), np.array([[0, 2], [1, 2], [2, 2], [3, 2]]), np.array([[0, 3], [1, 3], [1, 4], [2, 5]]), np.array([2]), np.array([3, 4, 5]))
    assert cold_popularity(split).tolist() == [0, 0, 4, 2, 1, 1]
    want = {0: (2, 3), 1: (2, 3), 2: (4, 3)}
    got = exposure(lambda u, i: np.array([[2. * (y == want[x][0]) + (y == want[x][1]) for y in i] for x in u]), split, k=2)
    assert got["coverage"] == 3 / 4 and got["gini"] == gini([2, 3, 1, 0])
    assert got["novelty"] == pytest.approx((2 * 0 + 3 * 1 + 1 * 2) / 6)          # -log2 of 4/4, 2/4, 1/4
    assert got["popularity_lift"] == pytest.approx((3 + 3 + 1.5) / (2 + 1.5 + 1))
    half = (.5 * np.log2(.5 / .75) + .5 * np.log2(.5 / .25) + np.log2(1 / .75)) / 2  # (½, ½, 0) from (0, 1, 0)
    # bands: 2 head, 3 and 4 middle, 5 tail; user 2 is shown the middle only and took the tail
    assert got["miscalibration"] == pytest.approx((half + half + 1) / 3)
    own = exposure(lambda u, i: np.tile(-i.astype(float), (len(u), 1)), split, pool="own", k=1)
    assert own["coverage"] == 1 / 3 and own["novelty"] == pytest.approx(1)


@given(st.integers(1, 400))
@settings(max_examples=12, deadline=None)
def test_blocks_do_not_show(toy, chunk):
    ds, f, split = toy
    noise = np.random.default_rng(0).random((ds.n_users, ds.n_items))
    score = lambda u, i: noise[np.ix_(u, i)]
    a, b = exposure(score, split), exposure(score, split, chunk=chunk)
    assert all(a[m] == pytest.approx(b[m], abs=1e-12) for m in a)
    assert overlap(score, score, split, split.cold_items, chunk=chunk) == 1


def test_no_measure_of_a_broken_model(toy):
    ds, f, split = toy
    with pytest.raises(UsageError, match="NaN"): exposure(lambda u, i: np.full((len(u), len(i)), np.nan), split)
    with pytest.raises(UsageError, match="at least 1"): exposure(lambda u, i: np.zeros((len(u), len(i))), split, k=0)


def test_modalities_that_say_the_same_agree(toy):
    ds, f, split = toy
    run = fit(f, split, search.defaults("milk", dict(epochs=2, eval_every=1)), progress=False)
    before = run.model.scorer()(np.arange(3), split.cold_items)
    got = agreement(run, f, split)
    assert 0 < got["image/text"] < 1
    assert (run.model.scorer()(np.arange(3), split.cold_items) == before).all()
    assert agreement(run, f, split, k=10**6) == {}  # no list is a choice


# attributes

def test_attributes_become_a_modality(toy):
    ds = load_dataset("toy")
    ids = np.random.default_rng(0).integers(0, 25, (ds.n_items, 3))
    ds.items["attributes"] = [None if n % 7 == 0 else " ".join(map(str, r)) for n, r in enumerate(ids)]
    f = extract(ds, "attributes")
    assert f.modalities == ["attributes"] and f.encoder == "attributes" and f.counts["attributes"]["missing"] == len(ids[::7])
    assert (f.mask[:, 0] == (np.arange(ds.n_items) % 7 > 0)).all() and not f.vectors["attributes"][::7].any()
    assert f.fingerprint == attribute_features(ds).fingerprint
    a = f.vectors["attributes"]; twins = [(1, 2)] if (ids[1] == ids[2]).all() else []
    ds.items.loc[2, "attributes"] = ds.items.loc[1, "attributes"]
    b = attribute_features(ds).vectors["attributes"]
    assert np.allclose(b[1], b[2], atol=1e-5) and (twins or not np.allclose(a[1], a[2], atol=1e-3))
    fit(f, cold_split(ds), search.defaults("mamex", dict(epochs=1, eval_every=1)), progress=False)  # items without anything and all


def test_attributes_do_not_look_at_interactions(toy):
    ds = load_dataset("toy"); ds.items["attributes"] = ds.items["title"]
    before = attribute_features(ds).fingerprint
    ds.interactions = ds.interactions.iloc[::2]
    assert attribute_features(ds).fingerprint == before


@pytest.mark.parametrize("column", [[None] * 400, ["same"] * 400, [f"own{n}" for n in range(400)]])
def test_attributes_that_say_nothing_are_refused(column):
    ds = load_dataset("toy"); ds.items["attributes"] = column
    with pytest.raises(UsageError, match="fewer than two attributes that items share"): attribute_features(ds)


def test_a_set_of_attributes_alone_is_recognised():
    ds = load_dataset("toy"); ds.name, ds.images = "shop", None
    ds.items = ds.items[[]].assign(attributes="a b")
    assert choose_encoder(ds) == ("attributes", "neither pictures nor texts")


# the search and the tests

def test_holm_by_hand():
    assert np.allclose(holm(np.array([.01, .04, .03, .005])), [.03, .06, .06, .02])
    assert np.allclose(holm(np.array([.5, .9])), [1, 1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_holm_lies_between_p_and_bonferroni(p):
    p = np.array(p); h = holm(p)
    assert (h >= p - 1e-12).all() and (h <= np.minimum(1, p * len(p)) + 1e-12).all() and (np.diff(h[np.argsort(p, kind="stable")]) >= -1e-12).all()


LEARNED = dict(epochs=25, eval_every=1, batch_size=16384, lr=1e-6, until="converged")  # nothing to gain: over after 20 validations


def fold(ds): return cold_folds(ds, 10, AWAY)[:1]


def facts(trials): return [{k: v for k, v in t.items() if k != "seconds"} for t in trials]


def test_a_killed_search_goes_on_as_if_nothing_had_been(toy, tmp_path, monkeypatch):
    "Killed after each of the first trials; what was trained is read, and not trained again."
    ds, f, _ = toy
    base, space, trained = search.defaults("clcrec", LEARNED), SPACES["clcrec"], []
    class Kill(Exception): pass
    def kill(): raise Kill
    was = follow.follow
    monkeypatch.setattr(follow, "follow", lambda *a, **k: (trained.append(1), was(*a, **k))[1])
    go = lambda n, where, **k: search.tune(f, fold(ds), base, space, n, 1e6, tmp_path / where, **k)
    whole = go(5, "a")
    assert len(trained) == 5 and len({json.dumps(t["settings"]) for t in whole}) == 5 and whole[0]["settings"] == {}
    for n in range(3):
        with pytest.raises(Kill): go(5, "b", each=kill)
    assert facts(go(5, "b")) == facts(whole) and len(trained) == 10
    assert facts(go(3, "a")) == facts(whole[:3]) and len(trained) == 10  # fewer are a part of more
    assert go(2, "a", seed=1)[1]["settings"] != whole[1]["settings"]


def test_the_search_asks_no_test_item(toy, tmp_path):
    "Other answers in the test half, the same trials."
    ds, f, _ = toy
    split, = fold(ds)
    rng = np.random.default_rng(0)
    other = replace(split, test=np.stack([split.test[:, 0], rng.permutation(split.test[:, 1])], 1))
    a, b = (search.tune(f, [s], search.defaults("milk", LEARNED), SPACES["milk"], 3, 1e6, tmp_path / str(n)) for n, s in enumerate((split, other)))
    assert facts(a) == facts(b)
    assert AWAY not in range(max(LOOKS))  # no report comes there


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from(["finished", "cut", "failed"])), max_size=30))
@settings(max_examples=60, deadline=None)
def test_a_trial_that_was_cut_is_never_chosen(trials):
    trials = [dict(value=v if s != "failed" else None, state=s) for v, s in trials]
    best, ok = search.best_of(trials), [t["value"] for t in trials if t["state"] == "finished"]
    assert (best is None) == (not ok) and (best is None or best["state"] == "finished" and best["value"] == max(ok))


def test_what_was_cut_or_failed_is_counted(toy, tmp_path):
    ds, f, _ = toy
    short = search.tune(f, fold(ds), search.defaults("mtpr", LEARNED | dict(epochs=2)), SPACES["mtpr"], 2, 1e6, tmp_path)
    assert [t["state"] for t in short] == ["cut", "cut"] and short[0]["value"] > 0
    wild = search.tune(f, fold(ds), search.defaults("milk", LEARNED | dict(lr=1e30)), SPACES["milk"], 1, 1e6, tmp_path)
    assert [t["state"] for t in wild] == ["failed"] and wild[0]["why"]
    assert len(search.tune(f, fold(ds), search.defaults("mtpr", LEARNED), SPACES["mtpr"], 9, 1e-9, tmp_path)) == 1  # the cap
    found = {n: dict(trials=t, best=search.best_of(t), informed=0, space=SPACES["milk"]) for n, t in dict(milk=wild, mamex=short).items()}
    assert peers_page.search_table(found)[["cut", "failed", "chosen"]].values.tolist() == [[0, 1, "nothing: no trial ended well"], [2, 0, "nothing: no trial ended well"]]
    assert list(peers.finalists(found, LEARNED)) == ["mamex/released"]


def test_twelve_trials_are_drawn_by_what_is_known():
    "A planted optimum: what comes after the random trials lies nearer to it, and there are at least twelve of them."
    space, base, trials = dict(alpha=("float", 0., .95), beta=("float", 0., .95)), search.defaults("gar", {}), []
    for n in range(20):
        s = search.ask(space, base, trials)
        at = s or dict(alpha=base.alpha, beta=base.beta)
        trials.append(dict(settings=s, state="finished", value=-abs(at["alpha"] - .7) - abs(at["beta"] - .2)))
    assert search.informed(trials) == search.INFORMED == 12 and search.informed(trials[:8]) == 0
    worth = [t["value"] for t in trials]
    assert np.median(worth[search.RANDOM:]) > np.median(worth[1:search.RANDOM]) and max(worth[search.RANDOM:]) > max(worth[:search.RANDOM])


@pytest.mark.parametrize("name", search.contenders())
def test_every_model_can_be_asked_and_built(toy, name):
    base, past = search.defaults(name, {}), [dict(settings={}, value=.1, state="finished")]
    for n in range(4):
        s = search.ask(SPACES[name], base, past)
        assert set(s) == set(SPACES[name]) and search.holds(SPACES[name], replace(base, **s))
        past.append(dict(settings=s, value=.1 + n / 100, state="finished"))


# the notebook

@pytest.fixture(scope="module")
def report(tmp_path_factory):
    "One peer, two trials, three folds: the whole notebook, in haste."
    out = tmp_path_factory.mktemp("peers")
    pm.execute_notebook(ROOT / "nbs" / "peers.ipynb", out / "peers.ipynb", dict(quick=True, out=str(out), device="cpu"), progress_bar=False, cwd=str(ROOT / "nbs"))
    return out, json.loads((out / "peers.json").read_text())


def test_notebook_end_to_end(report):
    out, r = report
    assert list(r["search"]) == ["milk", "mamex"] and all(len(s["trials"]) == 2 for s in r["search"].values())
    assert {"random", "ridge/all", "linear-cf", "milk", "mamex/released", "mamex/tuned", "mamex/best"} <= set(r["folds"]["own"])
    assert {len(v) for v in r["folds"]["own"].values()} == {3} and set(r["verdicts"]) == {"peers", "floors", "best", "released"}
    assert r["reference"] == dict(peers="mamex/tuned", floors="mamex/tuned", best="mamex/best", released="mamex/released")
    assert list(r["verdicts"]["peers"]) == ["milk"] and list(r["verdicts"]["released"]) == ["mamex/tuned", "milk"]
    assert r["cost"]["milk"]["parameters"] > 0 and r["cost"]["mamex/tuned"]["seconds_per_epoch"] > 0
    assert 0 < r["beyond"]["mamex/tuned"]["coverage"] <= 1 and "agreement image/text" in r["beyond"]["milk"]
    assert r["fidelity"]["milk"]["repository"] and (out / "peers_verdicts.png").stat().st_size > 2000


def test_page_is_a_function_of_the_json(report):
    out, r = report
    assert (out / "peers.md").read_text() == peers.page(r).rstrip() + "\n"
    assert "Fewer than 12 informed trials: `milk`, `mamex`" in peers.page(r)
    changed = json.loads(json.dumps(r)); changed["verdicts"]["peers"]["milk"]["diff"] += .5
    assert peers.page(changed) != peers.page(r)
    sport = json.loads(json.dumps(r)); sport["card"]["dataset"]["name"] = "sport"
    assert "not comparable" in peers.page(sport) and "not comparable" not in peers.page(r)


def test_claim_and_figure_over_datasets(report, tmp_path):
    out, r = report
    claim = next(c for c in claims.CLAIMS if c.notebook == "peers")
    told = json.loads(json.dumps(r)); told["verdicts"]["peers"]["milk"]["verdict"] = "better"
    assert claim.judge(told).verdict == claims.FAILS  # one peer that ranks better is enough
    assert claim.judge({k: v for k, v in r.items() if k != "verdicts"}) == claims.OLD
    for n in ("a", "b"): (tmp_path / n).mkdir(); shutil.copy(out / "peers.json", tmp_path / n)
    reports = front.over_folds(claims.read_reports(tmp_path), "peers")
    assert list(reports) == ["a", "b"] and len(overview.plot_over_datasets(reports).axes) == 2
    page = front.index_page(tmp_path)
    assert "| a | " in page and "[peers](a/peers.md)" in page  # a set with this report alone


@pytest.mark.parametrize("bad", [0, -1, "long", None, True, float("nan"), float("inf")])
def test_budgets_are_numbers_above_zero(bad):
    with pytest.raises(UsageError, match="above 0"): search.positive(bad)


@pytest.mark.parametrize("bad, sentence", [(dict(model=["milk"]), "unknown parameter 'model'"), (dict(models=["mlik"]), "did you mean 'milk'")])
def test_notebook_refuses_what_it_does_not_know(bad, sentence, tmp_path):
    with pytest.raises(pm.exceptions.PapermillExecutionError, match=sentence):
        pm.execute_notebook(ROOT / "nbs" / "peers.ipynb", tmp_path / "x.ipynb", bad, progress_bar=False, cwd=str(ROOT / "nbs"))


def test_bad_trials_cost_no_informed_ones(monkeypatch):
    "Cut, failed, or with defaults outside the space: what comes after eight trials is drawn by what is known."
    space, base, asked = SPACES["mtpr"], search.defaults("mtpr", dict(batch_size=16384)), []
    assert not search.holds(space, base)
    was = search.optuna.samplers.TPESampler._sample
    monkeypatch.setattr(search.optuna.samplers.TPESampler, "_sample", lambda self, *a, **k: (asked.append(1), was(self, *a, **k))[1])
    trials = []
    for n in range(12):
        before = len(asked)
        trials.append(dict(settings=search.ask(space, base, trials), value=.1 + n / 100, state=["finished", "cut", "failed"][n % 3]))
        assert (len(asked) > before) == (n >= search.RANDOM), n
