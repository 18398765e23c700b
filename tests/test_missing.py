"Ways to live without a modality: what holds for every way and every pattern of gaps."
from dataclasses import replace
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from mamex.base import UsageError
from mamex.vectors.features import Features
from mamex.extensions.fills import WAYS, with_fills, way_config
from mamex.extensions.losing import without_modality
from mamex.studies.missing_modality import recommend
from mamex.studies.missing_page import page as missing_page
from types import SimpleNamespace
from mamex.trainer import preset

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


def test_the_recommendation_follows_the_intervals():
    effect = lambda way, d, lo, hi, **k: dict(way=way, dropout=0., diff=d, ci95=[lo, hi], seeds=3) | k
    pooled = [effect("zeros", .02, .01, .03, training="all", conditions=4), effect("ridge", .05, .04, .06, training="all", conditions=4)]
    none = [effect(w, 0., 0., 0., training="complete", pattern="none", rate=0.) for w in ("zeros", "ridge")]
    lost = [effect("ridge", .05, .04, .06, training="complete", pattern="either", rate=.5)]
    assert recommend(dict(pooled=pooled, effects=none + lost))["way"] == "ridge"
    none[1] |= dict(diff=-.02, ci95=[-.03, -.01])  # it costs where nothing is lost
    assert recommend(dict(pooled=pooled, effects=none + lost))["way"] == "zeros"
    assert recommend(dict(pooled=[p | dict(ci95=[-.1, .1]) for p in pooled], effects=none + lost))["way"] == "masked"


def test_committed_pages_are_the_json():
    import json
    from conftest import ROOT
    for path in (ROOT / "reports").glob("*/missing_modality.json"):
        assert path.with_suffix(".md").read_text() == missing_page(json.loads(path.read_text())).rstrip() + "\n"
