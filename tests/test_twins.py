"Twins are told by the distance of their vectors: the same groups, and so the same folds, whatever a processor makes of the last digits."
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mamex.datasets.toy import toy
from mamex.protocol.folds import item_folds
from mamex.vectors.features import NEAR, Features, near_pairs, twin_groups, twins


def some(seed, n=60, kinds=25, widths=(12, 5)):
    "Vectors of which many are equal, each modality absent here and there in the same way for equal ones."
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, kinds, n)
    there = rng.random((kinds, len(widths))) < .8
    V = {f"m{k}": np.where(there[kind, k, None], rng.normal(size=(kinds, d))[kind] * rng.lognormal(), 0).astype(np.float32) for k, d in enumerate(widths)}
    return Features(V, there[kind], "made up", {}), kind, there[kind].any(1)


def shaken(f, seed, by):
    rng = np.random.default_rng(seed)
    return Features({m: (v * (1 + by * rng.normal(size=v.shape))).astype(np.float32) for m, v in f.vectors.items()}, f.mask, f.encoder, {})


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0, 1e-7, 1e-6, 5e-6]))
def test_last_digits_move_no_item(seed, by):
    f, kind, known = some(seed)
    groups = twin_groups(f)
    np.testing.assert_array_equal(twin_groups(shaken(f, seed, by)), groups)
    for i in range(len(kind)):  # equal kinds are twins if anything is known of them, and nobody else is
        mine = groups == groups[i]
        np.testing.assert_array_equal(mine, (kind == kind[i]) & known if known[i] else np.arange(len(kind)) == i)
    first = [int(np.flatnonzero(groups == g)[0]) for g in range(groups.max() + 1)]
    assert first == sorted(first), "groups are counted by their first items"
    np.testing.assert_array_equal(item_folds(60, 5, 0, twin_groups(shaken(f, seed + 1, by))), item_folds(60, 5, 0, groups))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(1, 30))
def test_near_pairs_are_those_of_a_full_search(seed, n, d):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    x[n // 2:] = x[:n - n // 2] + rng.choice([.3, .8, 1.5, 30.], (n - n // 2, 1)) * NEAR * np.eye(d, dtype=np.float32)[rng.integers(0, d, n - n // 2)]
    apart = np.linalg.norm(x[:, None].astype(float) - x[None], axis=2)
    want = {(i, j) for i in range(n) for j in range(i + 1, n) if apart[i, j] < .95 * NEAR}
    may = {(i, j) for i in range(n) for j in range(i + 1, n) if apart[i, j] < 1.05 * NEAR}
    found = {(min(p), max(p)) for p in near_pairs(x).tolist()}
    assert want <= found <= may


def test_a_chain_of_near_ones_is_one_group():
    v = np.zeros((4, 3), np.float32); v[:, 0] = 1; v[:3, 1] = [0, .8 * NEAR, 1.6 * NEAR]; v[3, 1] = 1
    f = Features(dict(text=v), np.ones((4, 1), bool), "made up", {})
    assert twin_groups(f).tolist() == [0, 0, 0, 1] and twins(f) == dict(items=3, groups=1, largest=3)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_nothing_known_is_nobodys_twin(n):
    for f in (Features({}, np.zeros((n, 0), bool), "made up", {}), Features(dict(text=np.zeros((n, 3), np.float32)), np.zeros((n, 1), bool), "made up", {})):
        assert twin_groups(f).tolist() == list(range(n))
