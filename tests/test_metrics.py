"Metrics against an independent implementation, by brute force, and by their own laws; the one comparison; pairs as a matrix."
import itertools, ir_measures, numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from ir_measures import R, nDCG, Success
from mamex.base import UsageError
from mamex.datasets.folders import load_dataset
from mamex.protocol.intervals import bootstrap_ci, holm, over_splits, paired_interval, paired_test, versus
from mamex.protocol.metrics import relevant_places, user_metrics
from mamex.protocol.splits import cold_split


def random_case(seed, users=40, pool=60):
    rng = np.random.default_rng(seed)
    return rng.permuted(np.tile(np.arange(pool) / pool, (users, 1)), axis=1), rng.random((users, pool)) < rng.uniform(.02, .3)  # untied


@pytest.mark.parametrize("seed", range(5))
def test_against_ir_measures(seed):
    scores, relevant = random_case(seed)
    users = np.flatnonzero(relevant.any(1))
    long = lambda m, name: pd.DataFrame([(str(u), str(i), m[u, i]) for u in users for i in range(m.shape[1])], columns=["query_id", "doc_id", name])
    run, qrels = long(scores, "score"), long(relevant.astype(int), "relevance")
    ours = user_metrics(scores, relevant, ks=(5, 10, 20))
    names = {R@5: "recall@5", R@10: "recall@10", R@20: "recall@20", nDCG@5: "ndcg@5", nDCG@10: "ndcg@10", nDCG@20: "ndcg@20",
             Success@5: "hit_rate@5", Success@10: "hit_rate@10"}
    seen = 0
    for m in ir_measures.iter_calc(list(names), qrels, run):
        assert abs(ours[names[m.measure]][int(m.query_id)] - m.value) < 1e-9
        seen += 1
    assert seen == len(names) * len(users)


def every_order(scores, relevant, ks):
    "The mean of the metrics over all orders of the items that tie, one user."
    out, jitter = [], np.unique(np.array(list(itertools.permutations(range(len(scores))))), axis=0)
    for order in jitter: out.append(user_metrics((scores + 1e-3 * order / len(scores))[None], relevant[None], ks))
    return {m: np.mean([o[m][0] for o in out]) for m in out[0]}


@given(st.integers(0, 10**6), st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_ties_are_the_mean_over_all_orders(seed, levels):
    rng = np.random.default_rng(seed)
    scores, relevant = rng.integers(0, levels, 6).astype(float), rng.random(6) < .4
    relevant[rng.integers(6)] = True
    ours, ks = user_metrics(scores[None], relevant[None], (1, 2, 4)), (1, 2, 4)
    for m, v in every_order(scores, relevant, ks).items(): assert abs(ours[m][0] - v) < 1e-9, m


def test_ties_are_the_mean_of_ir_measures_over_all_orders():
    scores, relevant, total = np.array([2., 1, 1, 1, 0, 3]), np.array([0, 1, 0, 1, 1, 0]), {}
    qrels = pd.DataFrame([("0", str(i), int(r)) for i, r in enumerate(relevant)], columns=["query_id", "doc_id", "relevance"])
    orders = list(itertools.permutations(range(6)))
    for o in orders:
        run = pd.DataFrame([("0", str(i), s + o[i] / 100) for i, s in enumerate(scores)], columns=["query_id", "doc_id", "score"])
        for m in ir_measures.iter_calc([R@2, nDCG@2, Success@2, nDCG@4], qrels, run): total[str(m.measure)] = total.get(str(m.measure), 0) + m.value / len(orders)
    ours = user_metrics(scores[None], relevant[None] == 1, (2, 4))
    for theirs, name in (("R@2", "recall@2"), ("nDCG@2", "ndcg@2"), ("Success@2", "hit_rate@2"), ("nDCG@4", "ndcg@4")):
        assert abs(total[theirs] - ours[name][0]) < 1e-9, theirs


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_noise_of_floats_is_a_tie_and_the_order_of_items_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    scores, relevant, order = rng.integers(0, 4, (5, 12)).astype(float), rng.random((5, 12)) < .4, rng.permutation(12)
    scores[:, :2] = 0, 9
    m, noisy, moved = (user_metrics(s, r, (3, 10)) for s, r in ((scores, relevant), (scores + 1e-9 * rng.normal(size=scores.shape), relevant),
                                                              (scores[:, order], relevant[:, order])))
    for k in m: assert np.allclose(m[k], noisy[k], equal_nan=True) and np.allclose(m[k], moved[k], equal_nan=True)
    rows, first, size = relevant_places(scores, np.ones_like(relevant))
    assert np.array_equal(first, (scores[:, None] > scores[:, :, None]).sum(2).ravel()) and np.array_equal(size, (scores[:, None] == scores[:, :, None]).sum(2).ravel())


def counted_places(scores, relevant):
    "Places and ties by comparing each relevant item with all others, one user after the other."
    out = []
    for row in range(len(scores)):
        s = scores[row]
        near, mine = 1e-6 * (s.max() - s.min()), np.flatnonzero(relevant[row])
        first = [int((s > s[c] + near).sum()) for c in mine]
        size = [int((s >= s[c] - near).sum()) - f for c, f in zip(mine, first)]
        if max(size, default=1) > 1:  # ties may be chains
            ends, start, high = [], 0, np.sort(s)[::-1]
            for k in range(len(s)):
                if k + 1 == len(s) or high[k] - high[k + 1] > near: ends.append((start, k + 1)); start = k + 1
            tie = [next((a, b) for a, b in ends if s[c] in high[a:b]) for c in mine]
            first, size = [a for a, _ in tie], [b - a for a, b in tie]
        out += [(row, f, n) for f, n in zip(first, size)]
    return [list(x) for x in zip(*out)] or [[], [], []]


@given(st.integers(0, 10**6), st.sampled_from([np.float32, np.float64]), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_places_are_those_of_counting_to_the_last_bit(seed, dtype, kind):
    "Whatever lies at the edge of a tie: with rounding, with chains, with long and short lists."
    rng = np.random.default_rng(seed)
    n, p = rng.integers(1, 12), rng.integers(1, 50)
    s = rng.normal(size=(n, p))
    if kind == 1: s = s.round(1)
    if kind == 2: s[:, :p // 2] = s[:, p - p // 2:] + rng.random((n, p // 2)) * 4e-6
    if kind == 3: s[:, 1:] = s[:, :1] + np.arange(1, p) * .9e-6 * (rng.random((n, p - 1)) < .9); s[:, -1] += 1
    s, relevant = s.astype(dtype), rng.random((n, p)) < rng.random()
    assert [x.tolist() for x in relevant_places(s, relevant)] == counted_places(s, relevant)


def test_one_score_for_all_is_chance():
    m = user_metrics(np.zeros((1, 50)), np.arange(50)[None] == 7, (10,))
    assert np.isclose(m["recall@10"][0], .2) and np.isclose(m["hit_rate@10"][0], .2)


def test_without_ties_nothing_changed():
    "To the bit: hits and gains are summed as they were, item by item."
    scores, relevant = random_case(3)
    rows, first, size = relevant_places(scores, relevant)
    assert (size == 1).all() and (first == (scores[rows] > scores[relevant][:, None]).sum(1)).all()
    top = first < 10
    assert np.array_equal(user_metrics(scores, relevant)["recall@10"] * relevant.sum(1), np.bincount(rows[top], minlength=len(scores)) / np.where(relevant.any(1), 1, np.nan), equal_nan=True)


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_laws(seed):
    scores, relevant = random_case(seed, 10, 25)
    m = user_metrics(scores, relevant, ks=(3, 10, 25, 100))
    has = relevant.any(1)
    for k, v in m.items():
        assert np.isnan(v[~has]).all() and (v[has] >= 0).all() and (v[has] <= 1 + 1e-12).all(), k
    assert (m["recall@3"][has] <= m["recall@10"][has]).all() and (m["recall@100"][has] == 1).all()
    best = user_metrics(relevant + scores / 2, relevant, ks=(10,))
    assert np.allclose(best["ndcg@10"][has], 1)
    shifted = user_metrics(scores * 3 - 7, relevant, ks=(10,))  # only the order counts
    assert np.array_equal(shifted["ndcg@10"], m["ndcg@10"], equal_nan=True)


def test_interval_and_test_agree():
    rng = np.random.default_rng(0)
    a = rng.random(300); b = a - .05 + rng.normal(0, .1, 300)
    t = paired_test(a, b)
    assert t["ci95"][0] > 0 and t["p"] < .01 and abs(t["diff"] - (a - b).mean()) < 1e-12
    assert paired_test(b, a)["diff"] == -t["diff"]
    lo, hi = bootstrap_ci(a); half = 1.96 * a.std() / np.sqrt(300)
    assert abs((hi - lo) / 2 - half) < .15 * half  # as the normal approximation says


# one comparison for all studies

def frames_of(rng, n, users=60, index=None):
    return [pd.DataFrame(rng.random((users, 2)), columns=["ndcg@10", "ndcg@20"], index=index) for _ in range(n)]


@pytest.mark.parametrize("seeds", [1, 3])
def test_versus_is_each_way_of_comparing_to_the_bit(seeds):
    rng = np.random.default_rng(seeds)
    a, b, floor = frames_of(rng, seeds), frames_of(rng, seeds), frames_of(rng, 1)
    stack = lambda x, m="ndcg@10": np.stack([f[m].to_numpy() for f in x])
    assert versus(a, b, "ndcg@20") == paired_interval(stack(a, "ndcg@20"), stack(b, "ndcg@20"))
    assert versus(a, b, over="users") == paired_test(stack(a).mean(0), stack(b).mean(0))
    found, d = versus(a, dict(b=b, floor=floor, a=a), tests=True), stack(a).mean(0) - stack(floor)[0]
    assert {k: found["floor"][k] for k in ("diff", "ci95", "seeds")} == paired_interval(stack(a), np.broadcast_to(stack(floor), stack(a).shape))
    assert found["floor"]["p"] == paired_test(stack(a).mean(0), stack(floor)[0])["p"] and np.isclose(found["floor"]["dz"], d.mean() / d.std(ddof=1))
    assert found["a"]["dz"] == 0. and found["a"]["p"] == 1.  # a model against itself
    assert [f["p_holm"] for f in found.values()] == list(holm(np.array([f["p"] for f in found.values()])))
    assert list(found["b"]) == ["diff", "ci95", "seeds", "p", "dz", "p_holm"]  # as reports store it


def test_versus_over_splits_meets_users_by_their_number():
    rng = np.random.default_rng(0)
    who = [np.sort(rng.choice(100, 60, replace=False)) for _ in range(3)]
    a, b = ([frames_of(rng, 1, index=w)[0] for w in who] for _ in "ab")
    shuffled = [f.sample(frac=1, random_state=0) for f in b]
    assert versus(a, b, over="splits") == over_splits([f["ndcg@10"] for f in a], [f["ndcg@10"] for f in b])
    assert np.allclose(versus(a, shuffled, over="splits")["ci95"], versus(a, b, over="splits")["ci95"])


@pytest.mark.parametrize("how", [dict(over="items"), dict(over="splits", tests=True), dict(over="users", tests=True)])
def test_versus_refuses_what_it_cannot_answer(how):
    a = frames_of(np.random.default_rng(0), 2)
    for b in (a, dict(a=a)):
        with pytest.raises(UsageError): versus(a, b, **how)


# pairs as a matrix

def test_the_pairs_of_a_split_as_a_matrix():
    split = cold_split(load_dataset("toy"))
    for part in ("train", "val", "test"):
        y, pairs = split.matrix(part), getattr(split, part)
        assert y.shape == (split.n_users, split.n_items) and y.sum() == len(pairs) and (y.toarray()[pairs[:, 0], pairs[:, 1]] == 1).all()
        assert y.dtype == float and y.has_sorted_indices and split.matrix(part, bool).dtype == bool
        assert (split.matrix(part, bool).toarray() == (y.toarray() > 0)).all()
