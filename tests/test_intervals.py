"The interval over folds: against scipy, by its own laws, and by how often it covers."
import numpy as np, pytest
from hypothesis import given, strategies as st
from scipy import stats
from mamex.base import UsageError
from mamex.protocol.intervals import fold_interval, fold_values

SEEDS, COUNTS, LEVELS = st.integers(0, 10**6), st.integers(2, 60), st.floats(.5, .999)


def some(seed, n): return np.random.default_rng(seed).normal(.01, .1, n)


@given(SEEDS, COUNTS, LEVELS)
def test_without_overlap_it_is_students(seed, n, level):
    d = some(seed, n)
    assert fold_interval(d, level) == pytest.approx(tuple(stats.ttest_1samp(d, 0).confidence_interval(level)), rel=1e-9, abs=1e-12)


@given(SEEDS, COUNTS, st.floats(0, 1))
def test_overlap_widens_by_the_root(seed, n, overlap):
    (a, b), (c, d) = fold_interval(some(seed, n)), fold_interval(some(seed, n), overlap=overlap)
    assert (d - c) / (b - a) == pytest.approx(np.sqrt(1 + n * overlap)) and a + b == pytest.approx(c + d, abs=1e-12)


@given(SEEDS, COUNTS, st.floats(-5, 5), st.floats(.01, 100), st.floats(0, 1))
def test_it_moves_and_scales_with_the_differences_in_any_order(seed, n, shift, scale, overlap):
    d = some(seed, n)
    ends = np.array(fold_interval(d, overlap=overlap))
    moved = fold_interval(np.random.default_rng(seed).permutation(scale * d + shift), overlap=overlap)
    assert np.allclose(moved, scale * ends + shift, rtol=1e-9, atol=1e-9)
    assert np.allclose(fold_interval(-d, overlap=overlap), -ends[::-1])


def test_differences_that_are_all_equal_have_no_width(): assert fold_interval([.25] * 7, overlap=.125) == (.25, .25)


@pytest.mark.parametrize("d, says", [([], "0 folds"), ([.1], "run further folds"), ([.1, np.nan, .2], "fold 1"),
                                     ([np.inf, .1], "fold 0"), ([[.1, .2]], "one number a fold")])
def test_what_is_no_sample_of_folds_is_refused(d, says):
    with pytest.raises(UsageError, match=says): fold_interval(d)
    with pytest.raises(UsageError, match="the picture's values"): fold_values(d, "the picture's values")


def risks(train, test, x, y):  # squared error of least squares on each half of the features
    out = []
    for half in np.split(x, 2, axis=1):
        w = np.linalg.solve(half[train].T @ half[train], half[train].T @ y[train])
        out.append(((y[test] - half[test] @ w)**2).mean())
    return out


def folds(rng, x, y):  # fold k tests, fold k + 1 validates, the others train
    parts = np.array_split(rng.permutation(len(y)), 10)
    both = [risks(np.concatenate([parts[j] for j in range(10) if j not in (k, (k + 1) % 10)]), parts[k], x, y) for k in range(10)]
    return np.array([b - a for a, b in both])


def cover(ds, truth, overlap=0.):
    ends = np.array([fold_interval(d, overlap=overlap) for d in ds])
    return ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean()


def catalogue(rng, p=50, n=100):  # the first half of the features explains a variance of 1, the second .64, noise 1
    x = rng.normal(size=(n, 2 * p))
    return x, (x * np.repeat([1, .8], p)).sum(1) / np.sqrt(p) + rng.normal(size=n)


def test_new_items_are_covered_with_the_correction_alone():
    "Two regressions with half as many features as items, 1,000 catalogues; the expected difference is known in closed form."
    rng = np.random.default_rng(17)
    ds = [folds(rng, *catalogue(rng)) for _ in range(1000)]
    truth = (1 - .64) * (1 + 50 / (80 - 50 - 1))
    plain, corrected = cover(ds, truth), cover(ds, truth, 1 / 8)
    assert .93 <= corrected <= .97 and plain < .90, (plain, corrected)


def test_this_catalogue_is_covered_by_the_plain_interval():
    "One catalogue, divided 1,000 times; the truth is the mean of all divisions."
    rng = np.random.default_rng(17)
    x, y = catalogue(rng)
    ds = np.array([folds(rng, x, y) for _ in range(1000)])
    assert cover(ds, ds.mean()) >= .93


@pytest.mark.parametrize("noise", [0., .5, 2.])
def test_this_catalogue_is_covered_whatever_the_noise_of_training(noise):
    rng = np.random.default_rng(17)
    items = rng.standard_t(3, 300) * .1  # of each item its true difference, with heavy tails
    ds = [rng.permutation(items).reshape(10, -1).mean(1) + noise * items.std() * rng.normal(size=10) for _ in range(1000)]
    assert cover(ds, items.mean()) >= .93
