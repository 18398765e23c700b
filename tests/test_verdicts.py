"Verdicts over folds: against scipy, by their own laws, and by how often they err."
import json
import numpy as np, pytest
from hypothesis import given, strategies as st
from scipy import stats
from mamex.base import UsageError
from mamex.protocol.intervals import holm
from mamex.protocol.verdicts import LOOKS, compare_folds, decide, further_folds, look_level

SEEDS, COUNTS = st.integers(0, 10**6), st.integers(2, 80)


def pair(seed, n, true=.05, sd=.12):  # values of two models over the same folds, around .06
    rng = np.random.default_rng(seed)
    b = .06 * (1 + .1 * rng.normal(size=n))
    return b + .06 * (true + sd * rng.normal(size=n)), b


def close(a, b): return np.allclose(a, b, rtol=1e-6, atol=1e-12)


def row(diff, sd, folds=10, margin=.1):  # just these numbers
    z = stats.zscore(np.random.default_rng(0).normal(size=folds), ddof=1)
    return compare_folds(1 + diff + sd * z, np.ones(folds), margin)


@given(SEEDS, COUNTS, st.floats(0, .5))
def test_p_values_are_scipys(seed, n, margin):
    a, b = pair(seed, n)
    r, d, m = compare_folds(a, b, margin), a - b, margin * b.mean()
    tost = max(stats.ttest_1samp(d, -m, alternative="greater").pvalue, stats.ttest_1samp(d, m, alternative="less").pvalue)
    assert close([r["p"], r["p_same"], r["margin"]], [stats.ttest_rel(a, b).pvalue, tost, m])
    assert close(r["ci95"], stats.ttest_rel(a, b).confidence_interval(.95))


@given(SEEDS, COUNTS)
def test_p_and_interval_agree(seed, n):
    r = compare_folds(*pair(seed, n))
    lo, hi = r["ci95"]
    assert (lo > 0 or hi < 0) == (r["p"] < .05)
    assert r["new_items"][0] < lo and hi < r["new_items"][1]


@given(SEEDS, COUNTS)
def test_the_other_way_round_it_is_the_other_sign(seed, n):
    a, b = pair(seed, n)
    one, two = compare_folds(a, b), compare_folds(b, a)
    assert close(one["diff"], -two["diff"]) and close(one["p"], two["p"]) and one["base"] == b.mean() and two["base"] == a.mean()
    for k in ("ci95", "new_items"): assert close(one[k], [-x for x in two[k][::-1]])


@given(SEEDS, COUNTS, st.floats(.01, 100))
def test_units_and_the_order_of_the_folds_do_not_matter(seed, n, scale):
    a, b = pair(seed, n)
    order = np.random.default_rng(seed).permutation(n)
    one, two = compare_folds(a, b), compare_folds(scale * a[order], scale * b[order])
    for k in ("p", "p_same", "folds"): assert close(one[k], two[k])
    for k in ("diff", "base", "ci95", "new_items", "sd", "margin"): assert close(scale * np.array(one[k]), two[k])
    assert decide(dict(x=one))["x"]["verdict"] == decide(dict(x=two))["x"]["verdict"]


def test_differences_without_spread():
    r = compare_folds([1.25, 2.25, 3.25], [1., 2., 3.])
    assert (r["sd"], r["p"], r["p_same"]) == (0., 0., 1.) and decide(dict(x=r))["x"]["verdict"] == "better"
    same = compare_folds([1., 2.], [1., 2.])
    assert (same["p"], same["p_same"]) == (1., 0.) and decide(dict(x=same))["x"]["verdict"] == "same"


def test_against_a_reference_of_zero_nothing_is_the_same():
    r = decide(dict(x=compare_folds([0., 0.], [0., 0.])))["x"]
    assert (r["margin"], r["p_same"], r["verdict"], r["needs"]) == (0., 1., "open", None)
    assert decide(dict(x=compare_folds(pair(0, 10)[0], np.zeros(10))))["x"]["verdict"] == "better"
    below = compare_folds([-1.0, -1.1, -1.0], [-1.0, -1.1, -1.0])  # the margin has no sign
    assert below["margin"] > 0


@pytest.mark.parametrize("a, b, says", [([.1], [.2], "first model's values are of 1 folds; .* run further folds"),
                                        ([.1, .2], [.1, np.nan], "second model's values are not a number in fold 1"),
                                        ([.1, .2], [.1, .2, .3], "2 and 3 folds; give both the same folds")])
def test_what_cannot_be_compared_is_refused(a, b, says):
    with pytest.raises(UsageError, match=says): compare_folds(a, b)


def test_a_margin_is_a_share():
    for margin in (-.1, np.nan):
        with pytest.raises(UsageError, match="margin is"): compare_folds([1., 2.], [1., 2.], margin)


@given(st.integers(1, 12), st.floats(.001, .2))
def test_looks_spend_the_level(n, level):
    spent = [look_level(k, tuple(range(1, n + 1)), level) for k in range(n)]
    assert sum(spent) == pytest.approx(level) and all(x >= spent[-1] > 0 for x in spent)
    for k in (-1, n):
        with pytest.raises(UsageError, match="plan more looks"): look_level(k, tuple(range(1, n + 1)), level)


def family(seed, n=10):
    rng = np.random.default_rng(seed)
    return {f"r{k}": compare_folds(*pair(seed + k, n, rng.choice([-.3, 0, .02, .1, .3]), rng.choice([.05, .12, .3]))) for k in range(6)}


@given(SEEDS, st.integers(0, 3))
def test_a_family_is_judged_by_holm_in_any_order(seed, look):
    rows = family(seed)
    out, turned = decide(rows, look), decide(dict(reversed(rows.items())), look)
    assert close([r["p_holm"] for r in out.values()], holm(np.array([r["p"] for r in rows.values()])))
    for n, r in out.items():
        assert (r["verdict"], r["p_holm"], r["needs"]) == tuple(turned[n][k] for k in ("verdict", "p_holm", "needs"))
        level = look_level(look)
        want = {True: "same"}.get(r["p_same_holm"] <= level, ("better" if r["diff"] > 0 else "worse") if r["p_holm"] <= level else "open")
        assert r["verdict"] == want and {k: r[k] for k in rows[n]} == rows[n]
        assert r["needs"] is None or r["verdict"] == "open" and 1 <= r["needs"] <= 10_000


@given(SEEDS)
def test_it_can_be_written(seed):
    out = decide(family(seed))
    assert json.loads(json.dumps(out, allow_nan=False)) == out


def test_small_but_certain_is_the_same():
    r = decide(dict(x=row(.02, .01)))["x"]
    assert r["p_holm"] < .001 and r["verdict"] == "same" and r["ci95"][0] > 0


def test_a_decided_row_stays_and_counts():
    "A row that is no longer asked keeps its place in the family, the last one; one that was told apart keeps its own."
    rows = dict(x=row(.3, .1), y=row(.05, .2), z=row(.09, .2))
    alone = decide({n: rows[n] for n in "yz"}, 1)
    for x in ("same", "worse"):
        out = decide(rows, 1, before=dict(x=x, y="open"))
        assert out["x"]["verdict"] == x and out["x"]["needs"] is None and out["y"]["verdict"] == "open"
    # x is no longer asked for a difference: it counts as if it could not be told
    last = decide(rows, 1, before=dict(x="same"))
    assert last["z"]["p_holm"] == pytest.approx(3 * rows["z"]["p"]) and last["z"]["p_holm"] > alone["z"]["p_holm"]
    assert last["x"]["p_holm"] == pytest.approx(3 * rows["x"]["p"])
    assert decide(rows, 1, before=dict(x="better"))["z"]["p_holm"] == pytest.approx(min(1, 2 * rows["z"]["p"]))
    with pytest.raises(UsageError, match="w was decided before"): decide(rows, before=dict(w="same"))


@given(st.floats(-.3, .3), st.floats(.02, .5), st.floats(.001, .05))
def test_needs_are_the_first_number_that_is_enough(diff, sd, q):
    "By the formula, number by number; a difference is reached where t s / √n is |d| or less."
    r = row(diff, sd)
    more = further_folds(r, q, q, 300)
    n = np.arange(11, 311)
    t, t_same, z = stats.t.ppf(1 - q / 2, n - 1), stats.t.ppf(1 - q, n - 1), np.sqrt(n) / r["sd"]
    same = stats.norm.cdf((r["margin"] - abs(r["diff"])) * z - t_same) - stats.norm.cdf(t_same - (r["margin"] + abs(r["diff"])) * z)
    enough = np.flatnonzero((t / z <= abs(r["diff"])) | (same >= .5))
    assert more == (int(enough[0]) + 1 if len(enough) else None)


@pytest.mark.parametrize("look, level", [(0, .01), (2, .01), (3, .01)])
def test_needs_are_asked_of_the_next_look_with_the_rows_factor(look, level):
    rows = dict(x=row(.09, .2), y=row(.05, .2), z=row(.01, .2))
    out = decide(rows, look)
    assert [r["verdict"] for r in out.values()] == ["open"] * 3
    for name, factor, factor_same in (("x", 3, 1), ("y", 2, 2), ("z", 1, 3)):  # the smallest p has the largest factor
        assert out[name]["needs"] == further_folds(rows[name], level / factor, level / factor_same)
    assert decide(dict(x=rows["x"]), 0, looks=(1,))["x"]["needs"] == further_folds(rows["x"], .05, .05)


@pytest.mark.parametrize("diff, verdict", [(.09, "better"), (-.09, "worse"), (0., "same"), (.02, "same")])
def test_with_what_it_needs_one_study_of_two_decides(diff, verdict):
    open_ = decide(dict(x=row(diff, .2)))["x"]
    assert open_["verdict"] == "open"
    rng, n = np.random.default_rng(0), 10 + open_["needs"]
    studies = [decide(dict(x=compare_folds(1 + diff + .2 * rng.normal(size=n), np.ones(n))), 1)["x"]["verdict"] for _ in range(1000)]
    assert studies.count(verdict) / 1000 > .4 and .45 <= 1 - studies.count("open") / 1000 <= .7, (n, studies.count(verdict))


def study(rng, true, sd, rows):  # verdicts at the end of a study that stops what is decided
    folds, own = .06 * (1 + .1 * rng.normal(size=80)), lambda: .06 * sd / np.sqrt(2) * rng.normal(size=80)
    b, family, verdicts = folds + own(), {}, {}
    a = {n: folds + own() + .06 * true for n in range(rows)}
    for look, permutations in enumerate(LOOKS):
        n = 10 * permutations
        family |= {x: compare_folds(a[x][:n], b[:n]) for x in a if verdicts.get(x, "open") == "open"}
        now = {x: r["verdict"] for x, r in decide(family, look, before=verdicts).items()}
        assert all(now[x] == v for x, v in verdicts.items() if v != "open")
        verdicts = now
    return set(verdicts.values())


ERRORS = [(0., 6, {"better", "worse"}), (.1, 6, {"same"}), (.1, 1, {"same"}), (-.1, 1, {"same"})]


@pytest.mark.parametrize("sd", [.05, .12, .34])
@pytest.mark.parametrize("true, rows, never", ERRORS)
def test_a_study_errs_in_at_most_one_of_twenty(true, rows, never, sd):
    "1,000 studies; two standard errors of their share are .014."
    rng = np.random.default_rng(17)
    wrong = np.mean([bool(study(rng, true, sd, rows) & never) for _ in range(1000)])
    assert wrong <= .05 + .014, wrong
