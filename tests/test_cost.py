"The page of costs: catalogues of the size that is asked for, exponents that are those of the seconds, peaks of one process."
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mamex.base import UsageError
from mamex.reports.cards import peak_memory_mib
from mamex.studies import cost
from mamex.studies.cost_page import LARGER, NIGHTLY, ONCE, SAID, continued, exponent, figures, index_table, night, page


def report(power: float, sizes=(1000, 10_000), curve=()) -> dict:
    step = lambda n: dict(s=(n/1000)**power, cpu_s=(n/1000)**power, peak_mib=n/10)
    return dict(points=[dict(items=n, users=n//2, clicks=10*n, d=64, disk_mib=1., curve=list(curve),
                             steps={s: step(n) for s in SAID}) for n in sizes],
                encoding=[dict(encoder="tiny", pictures=50., texts=200.)], price_h=.05,
                machine=dict(cores=2, threads="1", processor="x"))


@settings(deadline=None, max_examples=20)
@given(n=st.integers(500, 3000), seed=st.integers(0, 5))
def test_a_drawn_shop_has_the_size_that_was_asked_for(n, seed):
    ds = cost.drawn_shop(n, seed)
    pairs = ds.interactions[["user", "item"]].to_numpy()
    assert (ds.n_items, ds.n_users) == (n, n // 2) and .5 * 10 * n < len(pairs) <= 10 * n
    assert len(np.unique(pairs, axis=0)) == len(pairs) and pairs.min() >= 0
    assert pairs[:, 0].max() < ds.n_users and pairs[:, 1].max() < n
    for v in ds.features.values(): np.testing.assert_allclose(np.linalg.norm(v, axis=1), 1, atol=1e-5)


def test_popularity_is_as_in_shops():
    counts = np.sort(np.bincount(cost.drawn_shop(2000).interactions["item"], minlength=2000))[::-1]
    assert counts[:200].sum() > .2 * counts.sum()


@settings(deadline=None)
@given(st.floats(0, 3))
def test_the_exponent_is_that_of_the_seconds_and_estimates_are_at_least_linear(power):
    r = report(power)
    for s in SAID:
        assert exponent(r, s) == pytest.approx(power, abs=1e-9)
        last = r["points"][-1]["steps"][s]["cpu_s"]
        assert continued(r, s, LARGER[0]) == pytest.approx(last * 1000**max(1, power))


def test_a_night_is_the_sum_of_its_parts_and_every_step_is_told():
    assert {*ONCE, *NIGHTLY} == set(SAID)
    r = report(1.)
    n = night(r, r["points"][1], r["encoding"][0])
    assert n == pytest.approx(dict(encode=10 * (1/50 + 1/200), add=10, update=10, rank=50))
    text = page(r)
    assert all(label in text for label in SAID.values()) and "Nothing in this table was measured" in text


def test_an_index_that_finds_too_little_is_not_chosen():
    exact = dict(library="numpy", effort=0, recall=1., queries_a_second=50., build_seconds=0.)
    quick = dict(library="hnswlib", effort=10, recall=.9, queries_a_second=900., build_seconds=3.)
    good = quick | dict(effort=80, recall=.96, queries_a_second=400.)
    t = index_table(report(1., curve=[exact, quick, good]))
    assert t["index, users a second"].tolist() == ["400", "400"]
    assert index_table(report(1., curve=[exact, quick]))["index, users a second"].tolist() == ["none finds enough"] * 2
    real = report(1.) | dict(real=[dict(dataset="shop", items=1234, d=96, curve=[exact, good])])
    assert index_table(real).index.tolist() == ["shop, 1,234"] and "index" in figures(real) and "shop, 1,234" in page(real)
    assert "index" not in figures(report(1.))


@pytest.mark.parametrize("sizes", [[1000], [1000, 1000], [100, 1000], ["1000", 2000], 1000, [1000., 2000]])
def test_sizes_that_are_none_are_named(sizes):
    with pytest.raises(UsageError, match="give two whole numbers"): cost.check_sizes(sizes)


def test_the_peak_is_that_of_the_process_that_measures():
    "A child does not begin with what its parent holds."
    block = np.ones(2**27)  # 1 GiB
    child = cost.in_child(500, index=False)
    assert 0 < child["steps"]["recommend"]["peak_mib"] < peak_memory_mib() - 256 and block[0] == 1
    assert child["items"] == 500 and set(SAID) <= set(child["steps"])
