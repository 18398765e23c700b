"Metrics against an independent implementation, by brute force, and by their own laws."
import ir_measures, numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from ir_measures import R, nDCG, Success
from mamex.protocol.intervals import bootstrap_ci, paired_test
from mamex.protocol.metrics import relevant_ranks, user_metrics


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


@given(st.integers(0, 10**6), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_ranks_by_sorting(seed, levels):
    "With ties, the rank is the place in a list sorted by score and, among equals, by the seeded permutation."
    rng = np.random.default_rng(seed)
    scores, relevant = rng.integers(0, levels, (5, 12)).astype(float), rng.random((5, 12)) < .4
    order = np.random.default_rng(3).permutation(12)
    rows, ranks = relevant_ranks(scores, relevant, seed=3)
    places = np.array([np.argsort(np.lexsort((order, -s))) for s in scores])
    assert (places[relevant] == ranks).all() and (np.nonzero(relevant)[0] == rows).all()


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
