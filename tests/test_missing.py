"Ways to live without a modality: what holds for every way and every pattern of gaps."
from dataclasses import replace
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from mamex.base import UsageError
from mamex.vectors.features import Features
from mamex.extensions.fills import WAYS, with_fills, way_config
from mamex.extensions.losing import without_modality
from mamex.base import progress_bar
from mamex.extensions.losing import kinds_of
from mamex.protocol.intervals import fold_interval
from mamex.protocol.metrics import evaluate
from mamex.studies.missing_follow import View, Watch, follow_views, view_of, watched
from mamex.studies.missing_modality import recommend
from mamex.studies.missing_page import page as missing_page
from types import SimpleNamespace
from mamex.trainer import Trainer, preset

N, SMALL = 14, preset("released", dim=4, n_experts=2, top_k=1)


def made(seed, M, present):
    "N items with M modalities; the last four are cold."
    rng = np.random.default_rng(seed)
    mask = rng.random((N, M)) < present
    return Features({f"m{i}": (rng.normal(size=(N, 3 + i)) * mask[:, [i]]).astype(np.float32) for i in range(M)}, mask, "made up", {})


def model(features, way, state=None):
    torch.manual_seed(0)
    m = way_config(SMALL, way, 0.).build(features, SimpleNamespace(n_users=3))
    if state: m.load_state_dict(state)
    return m.eval()


def items(features, way, state=None): return (lambda m: m(m.catalogue(features)))(model(features, way, state))


def scorer(features, way, state=None): return (lambda m: m.scorer(m.catalogue(features)))(model(features, way, state))


gaps = (st.integers(0, 999), st.integers(1, 3), st.sampled_from([0., .3, .7, 1.]))
ways, donors, everybody = st.sampled_from(list(WAYS)), np.arange(N - 4), (np.arange(3), np.arange(N))


@given(ways, *gaps)
@settings(max_examples=60, deadline=None)
def test_scores_are_finite(way, seed, M, present):
    "Also where nobody has anything, and where there is no donor."
    for d in (donors, donors[:0]):
        f = with_fills(made(seed, M, present), way, d)
        assert set(f.fills) in (set(), set(f.modalities)) and all(np.isfinite(v).all() for v in f.fills.values())
        assert np.isfinite(scorer(f, way)(*everybody)).all()


@given(ways, *gaps)
@settings(max_examples=60, deadline=None)
def test_complete_items_are_left_alone(way, seed, M, present):
    "The same weights: who has everything has the same vector, whatever stands in elsewhere (but for the last bit: the rows of a matrix product may stand in another order)."
    f = made(seed, M, present); full = f.mask.all(1)
    reference = model(f, "masked")
    state = reference.state_dict() if way != "placeholder" else reference.state_dict() | {k: v for k, v in model(f, way).state_dict().items() if k.startswith("placeholders")}
    assert torch.allclose(items(with_fills(f, way, donors), way, state).e[full], reference(reference.catalogue(f)).e[full], atol=1e-6)


@given(ways, st.integers(0, 999), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_without_gaps_all_ways_are_one(way, seed, M):
    f = made(seed, M, 1.1); reference = model(f, "masked")
    extra = {k: v + 1 for k, v in model(f, way).state_dict().items() if k.startswith("placeholders")}
    assert (scorer(with_fills(f, way, donors), way, reference.state_dict() | extra)(*everybody) == reference.scorer(reference.catalogue(f))(*everybody)).all()


@given(ways, *gaps)
@settings(max_examples=60, deadline=None)
def test_the_order_of_the_items_means_nothing(way, seed, M, present):
    f, p = made(seed, M, present), np.random.default_rng(seed).permutation(N)
    g = replace(f, vectors={m: v[p] for m, v in f.vectors.items()}, mask=f.mask[p])
    a, b = items(with_fills(f, way, donors), way), items(with_fills(g, way, np.sort(np.argsort(p)[donors])), way)
    assert torch.allclose(b.e, a.e[p], atol=1e-4)


@given(*gaps)
@settings(max_examples=60, deadline=None)
def test_a_lost_vector_says_nothing(seed, M, present):
    "Masked: weight exactly 0, and whatever stands in the lost vectors changes nothing (but for the last bit); no bit of an item that has nothing."
    f = made(seed, M, present)
    wild = {m: np.where(f.mask[:, [n]], v, 9).astype(np.float32) for n, (m, v) in enumerate(f.vectors.items())}
    a = items(f, "masked"); b = items(replace(f, vectors=wild), "masked")
    assert (a.alpha.numpy(force=True)[~f.mask] == 0).all() and torch.allclose(a.e, b.e, atol=1e-6)
    bare = ~f.mask.any(1)
    assert torch.equal(a.e[bare], b.e[bare])


@given(*gaps)
@settings(max_examples=60, deadline=None)
def test_an_item_with_nothing_is_never_first(seed, M, present):
    f = made(seed, M, present)
    f.mask[0] = False; f.vectors.update({m: v * f.mask[:, [n]] for n, (m, v) in enumerate(f.vectors.items())})
    s = scorer(f, "masked")(*everybody)
    assert not (s[:, [0]] > s[:, 1:]).all(1).any()


@given(st.integers(0, 999), st.integers(1, 3), st.sampled_from([.3, .7]), st.sampled_from(["mean", "neighbours", "ridge"]))
@settings(max_examples=40, deadline=None)
def test_fills_learn_from_donors_only(seed, M, present, way):
    "Another item's vectors, however wild, do not enter a fill; nor does the item's own vector of that modality."
    f = made(seed, M, present); cold = np.arange(N) >= N - 4
    good = with_fills(f, way, donors)
    for n, m in enumerate(f.modalities):
        wild = f.vectors[m].copy(); wild[cold & f.mask[:, n]] = 1e4
        bad = with_fills(replace(f, vectors=f.vectors | {m: wild}), way, donors)
        assert (bad.fills[m] == good.fills[m]).all()
        assert all((bad.fills[o][donors] == good.fills[o][donors]).all() for o in f.modalities)


@given(st.integers(0, 999), st.integers(2, 3), st.sampled_from([.5, 1.1]), st.sampled_from(["m0", "either", "by kind"]), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_losses_are_exact_and_nested(seed, M, present, how, a, b):
    f, kinds, among = made(seed, M, present), np.arange(N) % 3, np.arange(2, N)
    small, large = (without_modality(f, r, how, seed, among, kinds) for r in sorted((a, b)))
    able = among[f.mask[among].sum(1) > 1]
    if how == "m0": able = able[f.mask[able, 0]]
    assert (f.mask & ~large.mask).sum() == round(max(a, b) * len(able)) and not (large.mask & ~small.mask).any()
    assert (large.mask.any(1) == f.mask.any(1)).all() and (large.mask[:2] == f.mask[:2]).all()
    for n, v in enumerate(large.vectors.values()): assert not v[~large.mask[:, n]].any()


def test_what_is_unknown_is_refused_by_name():
    f = made(0, 2, 1.1)
    for call, word in ((lambda: with_fills(f, "hope", donors), "hope"), (lambda: without_modality(f, .5, "sound", 0, donors), "sound"), (lambda: without_modality(f, .5, "by kind", 0, donors), "kinds")):
        with pytest.raises(UsageError, match=word): call()


def row(diff, verdict, base=.2):
    return dict(diff=diff, base=base, ci95=[diff - .01, diff + .01], new_items=[diff - .02, diff + .02], margin=.1 * base, folds=10, verdict=verdict, needs=None)


def test_the_recommendation_follows_the_verdicts():
    told = lambda zeros, ridge, intact="same", **kw: recommend(dict(losses=4, verdicts={
        "ways": {"zeros": zeros, "ridge": ridge}, "ways, intact": {"ridge, intact": row(-.02, intact)}}, **kw))
    better = row(.02, "better"), row(.05, "better")
    assert told(*better)["take"] == "ridge"
    assert told(*better, intact="worse")["take"] == "zeros"  # it costs where nothing is lost
    assert told(row(.02, "open"), row(.05, "open"))["take"] == "masked"  # larger, but not told
    assert told(row(-.02, "worse"), row(.001, "same"))["take"] == "masked"
    seats = lambda **places: [dict(label=n, places=dict(mean=x), share_met=dict(mean=.5)) for n, x in places.items()]
    fair = seats(masked=.9, zeros=.6, ridge=.55)
    assert told(row(0., "same"), row(0., "open"), exposure=fair)["take"] == "zeros"  # ridge is fairer, but not shown to rank the same
    assert told(row(0., "open"), row(0., "open"), exposure=fair)["take"] == "masked"
    assert told(row(0., "same"), row(0., "same"), exposure=seats(masked=.53, zeros=.5, ridge=.5))["take"] == "masked"


@pytest.fixture(scope="module")
def toy():
    from mamex.datasets.folders import load_dataset
    from mamex.extractor import Extractor
    from mamex.protocol.folds import cold_folds
    ds = load_dataset("toy")
    return Extractor("tiny").extract(ds, progress=False), cold_folds(ds)[1], ds


SHORT = preset("released", batch_size=1024, lr=1e-2, epochs=5, eval_every=2, select_pool="own")
LOSSES = [("none", 0.), ("image", .5), ("image", 1.), ("text", 1.), ("either", .5)]


def test_a_condition_is_what_the_same_weights_give_by_hand(toy):
    "Trained by `fit` to each validation in turn; items lose first, everything is filled then, the whole catalogue is scored, and NDCG@10 is written out."
    from mamex.trainer import fit
    from mamex.vectors.catalogue import Catalogue
    features, split, _ = toy
    watch = Watch([View(w, *l) for w in ("masked", "ridge", "mean") for l in LOSSES])
    out = follow_views(features, "masked", split, SHORT, 3, watch)
    ends = [r["epoch"] + 1 for r in out.facts["history"]]
    assert ends == [1, 3, 5]
    users, met = np.unique(split.test[:, 0]), {}
    for u, i in split.test: met.setdefault(u, set()).add(i)
    models = []
    for n in ends:
        with torch.random.fork_rng(), progress_bar(1, "", False) as bar:
            models.append(t := Trainer(features, split, SHORT, 3))
            while t.next_epoch < n: t.advance(None, bar, None)
    for v in watch.views:
        lost = without_modality(features, v.rate, v.pattern, 3, split.test_items) if v.rate else features
        worn, total = with_fills(lost, v.way, split.warm_items), {p: np.zeros(len(users)) for p in ("own", "joint")}
        for t in models:
            score = t.model.scorer(Catalogue.of(worn, SHORT))
            for pool in total:
                items = split.test_items if pool == "own" else split.cold_items
                s = score(users, items)
                for k, u in enumerate(users):
                    rel, near = np.isin(items, list(met[u])), 1e-6 * (s[k].max() - s[k].min())
                    for x in s[k][rel]:  # equal scores share their places
                        first, size = (s[k] > x + near).sum(), (abs(s[k] - x) <= near).sum()
                        place = np.arange(first, first + size)
                        total[pool][k] += np.where(place < 10, 1 / np.log2(place + 2), 0).mean() / (1 / np.log2(np.arange(min(10, rel.sum())) + 2)).sum()
        got = view_of(out, v)
        for pool in total: assert np.allclose(got.users["mean", f"{pool}/ndcg@10"], total[pool] / len(ends), atol=2e-6), (v, pool)


def test_a_killed_follower_leaves_the_same_bytes(toy, tmp_path, monkeypatch):
    "Killed after each validation, resumed each time: the file is the same to the byte, but for the seconds."
    features, split, _ = toy
    watch = Watch([View(w, *l) for w in ("masked", "neighbours") for l in LOSSES], (("either", .5),))
    config = way_config(SHORT, "placeholder", .5)
    monkeypatch.setattr("mamex.trainer.time.perf_counter", lambda: 0.)
    whole = follow_views(features, "placeholder", split, config, 0, watch)
    was, state, calls, kills = Trainer.advance, tmp_path / "run.state", [0], 0
    def once(self, *args):
        calls[0] += 1
        if calls[0] > 1: raise KeyboardInterrupt
        return was(self, *args)
    monkeypatch.setattr(Trainer, "advance", once)
    while True:
        calls[0] = 0
        try: again = follow_views(features, "placeholder", split, config, 0, watch, state=state, every_s=0); break
        except KeyboardInterrupt: kills += 1
    assert kills == 2
    whole.write(tmp_path / "a.parquet"); again.write(tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_everything_lost_is_the_subset_where_the_gate_masks(toy):
    "All items without pictures: the same weights rank as a catalogue that never had one, in which α of the text is 1."
    from mamex.vectors.catalogue import Catalogue
    features, split, _ = toy
    all_there = features.mask[split.test_items].all(1).all()
    watch = Watch([View("masked", "image", 1.)], (("image", 1.),))
    out = follow_views(features, "masked", split, replace(SHORT, epochs=1), 0, watch)
    with torch.random.fork_rng(), progress_bar(1, "", False) as bar:
        t = Trainer(features, split, replace(SHORT, epochs=1), 0)
        t.advance(None, bar, None)
    blind = features.only("text")
    both = features.mask.all(1); mask = np.where(both[:, None], blind.mask, features.mask)
    blind = replace(features, mask=mask, vectors={m: v * mask[:, [n]] for n, (m, v) in enumerate(features.vectors.items())})
    c = Catalogue.of(blind, SHORT)
    score = t.model.scorer(c)
    at = split.test_items[both[split.test_items]]
    with torch.no_grad(): alpha = t.model.eval()(c).alpha.numpy()[at]
    assert (alpha == np.array([0., 1.], np.float32)).all()
    want = evaluate(score, split, "test", "own", ks=(10,))["ndcg@10"]
    assert np.allclose(view_of(out, watch.views[0]).users["mean", "own/ndcg@10"], want, atol=2e-6)
    a = out.facts["close"][watch.views[0].name]["alpha"]
    assert a["image"]["lost"] == 0 and (not all_there or a["text"]["there"] is None and a["image"]["there"] is None)


def test_views_with_spaces_come_back_from_their_file(toy, tmp_path):
    features, split, ds = toy
    watch = Watch([View(), View("zeros", "by kind", .5)], (), kinds_of(ds))
    call = lambda w=watch: watched(tmp_path, features, "masked", split, replace(SHORT, epochs=1), 0, w)
    call(); o = call()
    assert view_of(o, watch.views[1]).value("joint") >= 0 and len(list(tmp_path.iterdir())) == 1
    call(Watch(watch.views, (), np.array(["x"] * split.n_items))); assert len(list(tmp_path.iterdir())) == 2  # other kinds, another measure


@given(st.lists(st.integers(0, 4), min_size=2, max_size=30), st.integers(0, 2**30))
@settings(max_examples=60, deadline=None)
def test_auc_by_brute_force(x, bits):
    from mamex.studies.gate_worth import auc
    x, yes = np.array(x, float), np.array([bits >> n & 1 for n in range(len(x))], bool)
    wins = [(a > b) + .5 * (a == b) for a in x[yes] for b in x[~yes]]
    assert (auc(x, yes) is None) == (not wins) and (not wins or np.isclose(auc(x, yes), np.mean(wins), atol=1e-12))


def test_a_gate_that_sees_what_is_spoilt_is_told_from_a_blind_one(toy, monkeypatch):
    "The weights come from a stand-in: once they fall where the vector is another item's, once they are the item's number."
    from mamex.studies import gate_worth
    features, split, _ = toy
    def stand_in(sees):
        def watched(store, spoilt, way, split, base, seed, watch, device):
            moved = (spoilt.vectors["image"] != features.vectors["image"]).any(1)[split.test_items]
            w = np.where(moved, .3, .6) if sees else split.test_items / split.n_items
            close = {View().name: dict(weights=dict(image=w.tolist(), text=(1 - w).tolist()))}
            return SimpleNamespace(facts=dict(close=close, seconds=1., converged=True))
        return watched
    tell = lambda sees: (monkeypatch.setattr(gate_worth, "watched", stand_in(sees)), gate_worth.told_on_fold(features, split, SHORT, "image", .25, 0))[1]
    assert tell(True)["auc"] == 1. and tell(True)["spoilt"] > tell(True)["others"] and .2 < tell(False)["auc"] < .8
    assert 0 < tell(True)["items"] < .5 * len(split.test_items)


def test_the_claims_judges():
    from mamex.studies import claims
    claim = {c.text: c for c in claims.CLAIMS}
    robust = claim["The model is robust when a modality is missing"].judge
    report = lambda **rows: dict(failed={}, reference=dict(missing="mamex/released"), verdicts=dict(missing=rows))
    judged = lambda *vs: robust(report(**{f"m{n}": row(.001, v) for n, v in enumerate(vs)})).verdict
    assert [judged(*vs) for vs in (("same", "same"), ("same", "better"), ("same", "worse"), ("open", "same"), ("open", "worse"))] == [
        claims.HOLDS, claims.HOLDS, claims.FAILS, claims.OPEN, claims.FAILS]
    assert robust({}).verdict == claims.OPEN and robust(report()).needs == 10
    told = robust(report(a=row(.01, "same"), b=row(-.01, "same")))
    assert told.estimate == -.01 and "a against" in told.words and "b against" in told.words  # the row that says it least
    insight, card = dict(auc=None, least={"mamex/released": dict(alpha_sd=.1)}), dict(preset="released")
    def gate(*aucs):
        worth = {f"m{n}": dict(auc=list(a), mean=float(np.mean(a)), ci95=list(fold_interval(a)), new_items=list(fold_interval(a, overlap=1 / 8)), share=.25) for n, a in enumerate(aucs)}
        return claims.gate_decides(dict(insight=insight, card=card, worth=worth))
    spread = np.linspace(-.05, .05, 10)
    assert gate(.7 + spread, .6 + spread).verdict == claims.HOLDS
    assert gate(.7 + spread, .45 + spread).verdict == claims.FAILS
    assert gate(.7 + spread, .52 + .2 * spread).verdict == claims.FAILS  # told, and less than 5 points above a coin
    wide = gate(.7 + spread, .58 + 5 * spread)
    assert wide.verdict == claims.OPEN and np.isclose(wide.estimate, .08)
    sd, n = np.std(.58 + 5 * spread, ddof=1), 10 + wide.needs
    from scipy import stats
    assert .58 - stats.t.ppf(.975, n - 1) * sd / n**.5 > .5 >= .58 - stats.t.ppf(.975, n - 2) * sd / (n - 1)**.5
    assert claims.gate_decides(dict(insight=insight, card=card, worth={"image": dict(failed="nan")})).needs == 10


@pytest.fixture(scope="module")
def study():
    from mamex.studies.evidence import folds_lab
    from mamex.studies.lab import Study
    from mamex.studies.missing_modality import rows
    p = Study(dataset="toy", encoder="tiny", preset="released", k_core=5, quick=True, started=0., folds=3, text_columns=["title", "description"],
              ways=["zeros", "placeholder"], dropout=.5, dropout_ways=["placeholder"], patterns=["either"], rates=[.25], train_patterns=["either"],
              train_rates=[.5], train_dropout=False)
    p.lab = folds_lab(p)
    return p, rows(p.lab, p)


def test_a_report_keeps_the_contract(study):
    "Rows again from the folds alone; each arm of a family and its reference have their folds; the page is the json's."
    from scipy import stats
    p, report = study
    assert report["reference"]["missing"] == "mamex/released" and list(report["verdicts"]["missing"]) == ["without image", "without text"]
    assert report["reference"]["ways"] == "masked" and set(report["verdicts"]["ways"]) == {"zeros", "placeholder + dropout"}
    for name, family in report["verdicts"].items():
        for arm, r in family.items():
            d = np.array(report["folds"]["own"][arm]) - np.array(report["folds"]["own"][report["reference"][name]])
            half = stats.t.ppf(.975, len(d) - 1) * d.std(ddof=1) / len(d)**.5
            assert len(d) == 3 and np.allclose([r["diff"], *r["ci95"]], [d.mean(), d.mean() - half, d.mean() + half], atol=1e-9, rtol=0)
    import json
    assert missing_page(json.loads(json.dumps(report, allow_nan=False))) == missing_page(report)
    assert set(report["beside"]) == {"joint, mean", "own, own"} and not report["failed"]


def test_a_loss_that_is_not_a_number_stops_its_ways_alone(study, monkeypatch):
    from mamex.studies import missing_modality as m
    from mamex.trainer import Diverged
    p, whole = study
    was = m.watched
    def breaks(store, bare, way, split, config, seed, *rest):
        if way == "placeholder" and seed == 1: raise Diverged("the loss term 'bpr' became nan")
        return was(store, bare, way, split, config, seed, *rest)
    monkeypatch.setattr(m, "watched", breaks)
    report = m.rows(p.lab, p)
    assert "placeholder + dropout" in report["failed"] and set(report["verdicts"]["ways"]) == {"zeros"}
    assert report["folds"]["own"]["zeros"] == whole["folds"]["own"]["zeros"] and "placeholder + dropout" not in report["folds"]["own"]
    missing_page(report)


def test_a_budget_leaves_rows_open_with_what_is_missing(study, monkeypatch):
    from mamex.studies import missing_modality as m
    p, _ = study
    clock = iter([0.] * 4 + [1e9] * 9999)  # card, study, and two folds
    monkeypatch.setattr(m.time, "time", lambda: next(clock))
    report = m.rows(p.lab, type(p)(p | dict(budget_h=1.)))
    assert {r["verdict"] for f in report["verdicts"].values() for r in f.values()} == {"open"}
    assert {r["needs"] for f in report["verdicts"].values() for r in f.values()} == {1}


def test_committed_pages_are_the_json():
    import json
    from conftest import ROOT
    for path in (ROOT / "reports").glob("*/missing_modality.json"):
        assert path.with_suffix(".md").read_text() == missing_page(json.loads(path.read_text())).rstrip() + "\n"
