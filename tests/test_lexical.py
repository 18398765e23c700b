"Views of columns: any cell is read, roles are found, words weigh as a search engine weighs them, likeness is one."
import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from mamex.base import UsageError
from mamex.vectors.features import Features
from mamex.datasets.numbers import decimal_mark, number_of
from mamex.vectors.lexical import COUNTED, ROLES, alike_groups, as_views, column_roles, counted, lexical_views, on_a_line, role_of, with_lexical, with_views
from mamex.vectors.likeness import condensed, liked_alike, mantel, term_weights, weighed

CELL = st.one_of(st.none(), st.text(max_size=20), st.integers(), st.floats(), st.booleans(), st.lists(st.text(max_size=6), max_size=3), st.just(pd.NA), st.just(pd.NaT))


@settings(max_examples=60, deadline=None)
@given(st.lists(CELL, min_size=1, max_size=8), st.sampled_from(["title", "blurb", "meta.brand", "price", "released", "attributes"]))
def test_any_column_is_read(cells, name):
    column = pd.Series(cells, dtype=object)
    assert role_of(name, column) in ROLES
    items = pd.DataFrame({"item": list(map(str, range(len(cells)))), name: column})
    for role in (*COUNTED, "number"):
        words, numbers = lexical_views(items, {name: role})
        for w in words.values(): assert w.shape[0] == len(cells) and np.isfinite(w.data).all() and (w.data > 0).all()
        for x in numbers.values(): assert x.shape == (len(cells),) and not np.isinf(x).any()


@given(st.floats(.01, 1e7), st.sampled_from(["${}", "{} €", "USD {}", "{}", " {} ", "£ {}"]))
def test_a_price_is_read_in_any_writing(x, how):
    x = round(x, 2)
    for text in (f"{x:,.2f}", f"{x:.2f}", f"{x:,.2f}".replace(",", " ").replace(".", ","), f"{x:,.2f}".translate(str.maketrans(",.", ".,"))):
        assert number_of(how.format(text)) == pytest.approx(x)


GERMAN = str.maketrans(",.", ".,")
prices = st.lists(st.floats(.5, 5e5), min_size=4, max_size=20)


@given(prices, st.integers(0, 4), st.booleans())
def test_a_column_is_read_alike_in_both_writings(values, places, marked):
    "Points and commas change places, and nothing else: where some cell tells the mark, the numbers are the same."
    plain = [f"{x:{',' * marked}.{places}f}" for x in values]
    other = [t.translate(GERMAN) for t in plain]
    (m, told), (n, also) = decimal_mark(plain), decimal_mark(other)
    assert told == also
    if told: assert [number_of(t, m) for t in plain] == [number_of(t, n) for t in other] == [round(float(t.replace(",", "")), 9) for t in plain]


@given(st.lists(st.integers(100, 999), min_size=2), st.lists(st.integers(1000, 5000), min_size=2))
def test_prices_around_a_thousand_stay_together(low, high):
    "899 and 1.299: no cell tells the mark, and one column must not hold 899 and 1.3."
    whole = np.array(low + high)
    for how in (lambda x: f"{x:,}", lambda x: f"{x:,}".translate(GERMAN)):
        column = pd.Series([how(x) for x in whole], dtype=object)
        role = role_of("preis", column)
        assert on_a_line(column, role) == pytest.approx(np.arcsinh(whole.astype(float)), rel=1e-6)


def test_a_new_item_is_read_as_its_column_was():
    "One cell alone leaves the mark open; the role that training saw tells it."
    roles = column_roles(pd.DataFrame(dict(item=["a", "b", "c"], preis=["899", "1.299", "12.499"])))
    new = lexical_views(pd.DataFrame(dict(item=["d"], preis=["2.100"])), roles)[1]["preis number"]
    assert roles["preis"] == "decimal-comma" and new[0] == pytest.approx(np.arcsinh(2100), rel=1e-6)


@pytest.mark.parametrize("v", ["", "free", "1 2 x", "12 pieces", "1-2-3", "£", None, "2024-01-31", "+49 30 1234 ab"])
def test_what_is_no_number_is_none(v): assert np.isnan(number_of(v))


def test_roles_are_guessed_by_what_stands_there():
    n, rng = 60, np.random.default_rng(0)
    t = pd.DataFrame(dict(
        item=map(str, range(n)), title=[f"thing {k}" for k in range(n)], maker=rng.choice(["Acme", "Bolt & Sons", "C"], n), shelf=[["a", "b"][k % 2:] for k in range(n)],
        kinds=rng.choice(["wood, red", "iron, red", "iron; blue"], n), cost=rng.random(n) * 100, year=rng.integers(1990, 2020, n), ean=[f"{4 * 10**12 + k * 7}" for k in range(n)],
        page=[f"https://x.y/{k}" for k in range(n)], sold=rng.integers(0, 99, n), empty=[None] * n, story=[" ".join(rng.choice(list("abcdefgh"), 30)) for _ in range(n)]))
    assert column_roles(t) == dict(title="title", maker="category", shelf="list", kinds="list", cost="number", year="year", ean="ignore", page="ignore", sold="feedback", empty="ignore", story="text")
    assert column_roles(t, dict(roles=dict(sold="number")))["sold"] == "number"
    for bad, says in ((dict(colour="list"), "roles name 'colour', which the items lack"), (dict(maker="brand"), "the role of 'maker' is 'brand'")):
        with pytest.raises(UsageError, match=says): column_roles(t, asked=bad)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.sampled_from("red blue iron wood lamp chair".split()), max_size=6).map(" ".join), min_size=4, max_size=12))
def test_words_weigh_as_scikit_learn_has_it(texts):
    "Where every item counts as warm: cosines of TF-IDF with sublinear counts over words and pairs, of terms that two items have and not all."
    w = counted(texts, COUNTED["text"]["words"])
    terms, idf = term_weights(w)
    mine = weighed(w, terms, idf)
    there = [t for t in texts if t]
    if not len(terms) or len(there) < 3: return
    want = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", sublinear_tf=True, min_df=2, max_df=max(len(there) - 1, 2)).fit(texts).transform(texts)
    assert mine.shape[1] == want.shape[1] and np.allclose((mine @ mine.T).toarray(), (want @ want.T).toarray(), atol=1e-5)


def test_new_items_are_read_as_old_ones():
    items = pd.DataFrame(dict(item=list("abc"), title=["Red lamp", "Blue lamp", "Iron chair"], price=["$5", "$6", None], released=["1990", "2001-05-01", None]))
    roles = column_roles(items)
    words, numbers = lexical_views(items, roles)
    late, later = lexical_views(items.iloc[[1]].reset_index(drop=True), roles)
    for m in words: assert (late[m] != words[m][[1]]).nnz == 0
    for m in numbers: assert later[m][0] == numbers[m][1]
    poor, none = lexical_views(pd.DataFrame(dict(item=["x"])), roles)
    assert list(poor) == list(words) and not any(w.nnz for w in poor.values()) and all(np.isnan(x).all() for x in none.values())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_rows_of_views_stay_together(seed):
    rng = np.random.default_rng(seed)
    n = 12
    f = with_views(Features({"image": rng.normal(size=(n, 3)).astype(np.float32)}, rng.random((n, 1)) < .7, "made up", {}),
                   {"w": sparse.csr_array(rng.poisson(.4, (n, 5)).astype(np.float32))}, {"x": np.where(rng.random(n) < .3, np.nan, rng.integers(0, 3, n)).astype(np.float32)})
    for w in f.words.values(): w.eliminate_zeros()
    at = rng.permutation(n)[:7]
    part = f.rows(at)
    assert (part.words["w"].toarray() == f.words["w"].toarray()[at]).all() and np.array_equal(part.numbers["x"], f.numbers["x"][at], equal_nan=True)
    assert (part.known == f.known[at]).all() and part.fingerprint == f.rows(at).fingerprint
    groups, key = alike_groups(f), [(f.mask[k].tobytes(), f.vectors["image"][k].tobytes() if f.mask[k, 0] else b"", f.words["w"].toarray()[k].tobytes(), str(f.numbers["x"][k])) for k in range(n)]
    for a in range(n):
        for b in range(n):
            if a != b and f.known[a] and f.known[b] and key[a] == key[b]: assert groups[a] == groups[b] or not f.mask[a, 0] and f.vectors["image"][a].tobytes() != f.vectors["image"][b].tobytes()
            if groups[a] == groups[b] and a != b: assert f.known[a] and key[a][2:] == key[b][2:]


def test_views_as_vectors_know_nothing_of_cold_items():
    rng = np.random.default_rng(0)
    items = pd.DataFrame(dict(item=map(str, range(40)), title=[" ".join(rng.choice("red blue iron wood lamp chair oak".split(), 4)) for _ in range(40)], price=rng.random(40) * 9))
    f, warm = as_views(Features({"image": rng.normal(size=(40, 3)).astype(np.float32)}, np.ones((40, 1), bool), "made up", {})), np.arange(30)
    a = condensed(with_lexical(f, items, column_roles(items)), warm)
    changed = items.assign(title=[*items["title"][:30], *["new words alone"] * 10], price=[*items["price"][:30], *[1e6] * 10])
    b = condensed(with_lexical(f, changed, column_roles(items)), warm)
    assert a.modalities == b.modalities and {"title words", "price number"} <= set(a.modalities)
    for m in a.modalities: assert np.allclose(a.vectors[m][warm], b.vectors[m][warm], atol=1e-6), m
    assert not b.mask[30:, b.modalities.index("title words")].any()


def test_mantel_tells_noise_from_taste():
    rng = np.random.default_rng(1)
    taste = rng.integers(0, 4, 150)
    met = sparse.csr_array((rng.random((150, 80)) < np.where(taste[:, None] == np.arange(80) % 4, .4, .05)).astype(float))
    same, noise = (taste[:, None] == taste).astype(float), rng.normal(size=(150, 8)); noise = noise @ noise.T
    likes = liked_alike(met)
    assert (r := mantel(same, likes))[0] > 10 * r[1]
    z = [mantel(x @ x.T, likes, seed=s) for s in range(40) for x in [np.random.default_rng(s + 50).normal(size=(150, 8))]]
    assert np.mean([r > 2 * sd for r, sd in z]) < .15  # one in forty by chance, and a dozen shuffles know the spread roughly
