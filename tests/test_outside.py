"Other libraries: who sees what, the same trials for all, nothing of a cold item in training, an absent library named."
import importlib.util, json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import sparse

from mamex.base import UsageError
from mamex.datasets.folders import load_dataset
from mamex.rivals import outside as rivals
from mamex.rivals.outside import OUTSIDE, Neighbours, Outside, Seen, TfIdf, chosen, heaviest, leading, plain_texts
from mamex.studies import outside
from mamex.studies.best import views_of
from mamex.studies.evidence import AWAY, study_folds
from mamex.studies.lab import Study

there = lambda name: pytest.mark.skipif(not importlib.util.find_spec(name), reason=f"{name} is not here: make outside")


@pytest.fixture(scope="module")
def seen():
    ds = load_dataset("toy")
    features = views_of(ds, "tiny")["two"]
    return Seen(features, plain_texts(ds.items, ["title", "description"]), study_folds(ds, features, 10)[0])


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("MAMEX_CACHE", str(tmp_path))
    p = Study(dataset="toy", encoder="tiny", device="cpu", k_core=5, folds=10, group_twins="auto", long_text="cut",
              quick=True, models=["knn", "tfidf"], trials=8, search_seed=0, started=0.)
    p.lab = outside.lab_of(p)
    return p


class Scripted(Outside):
    "Says beforehand how well it ranks after each piece."
    name, library, module, epochs = "scripted", "numpy", "numpy", 1
    def __init__(self, *values): self.values, self.pieces, self.asked = values, len(values), 0
    def steps(self, seen):
        answers = seen.split.matrix("val")
        for v in self.values:
            self.asked += 1
            yield lambda u, i, v=v: v * answers[u][:, i].toarray() + np.cos(np.outer(u + 1, i + 1))


@settings(deadline=None, max_examples=15)
@given(values=st.lists(st.sampled_from([0., .3, .6, 3.]), min_size=1, max_size=9))
def test_the_best_piece_counts_and_three_without_a_gain_end_it(seen, values):
    model = Scripted(*values)
    score, facts = chosen(model, seen)
    at, end = 0, len(values)
    for n, v in enumerate(values):
        if v > values[at]: at = n
        if n - at >= rivals.PATIENCE: end = n + 1; break
    assert (facts["best_epoch"], facts["epochs"], model.asked) == (at + 1, end, end)
    assert facts["converged"] == (at + rivals.PATIENCE < len(values))
    u, i = np.arange(4), seen.split.val_items
    assert np.allclose(score(u, i), values[at] * seen.split.matrix("val")[u][:, i].toarray() + np.cos(np.outer(u + 1, i + 1)))


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_absent_library_is_named_with_the_way_to_it(seen, name, monkeypatch):
    def gone(m): raise ModuleNotFoundError(f"No module named {m!r}", name=m)
    monkeypatch.setattr(rivals.importlib, "import_module", gone)
    with pytest.raises(UsageError, match=f"{name} needs {OUTSIDE[name].library}.*make outside"): chosen(OUTSIDE[name](), seen)


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_answer_and_no_cold_item_reaches_training(seen, name):
    "What validation and test users met changes nothing that the model says after a piece; other contents of test items do not move validation items."
    try: OUTSIDE[name]().check()
    except UsageError as e: pytest.skip(str(e))
    s, config = seen.split, OUTSIDE[name]()
    u, i = np.arange(20), s.val_items
    first = next(config.steps(seen))(u, i)
    other = replace(s, val=s.val[::2], test=s.test[::3])
    again = next(config.steps(Seen(seen.features, seen.texts, other)))(u, i)
    assert np.array_equal(first, again)
    vectors = {m: np.where(np.isin(np.arange(s.n_items), s.test_items)[:, None], 1, v) for m, v in seen.features.vectors.items()}
    moved = next(config.steps(Seen(replace(seen.features, vectors=vectors), seen.texts, s)))(u, i)
    assert np.allclose(first, moved, atol=1e-5)


@settings(deadline=None)
@given(st.data())
def test_the_heaviest_terms_stay(data):
    rows, n = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 5))
    q = np.array(data.draw(st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=rows, max_size=rows)), float)
    w = np.array(data.draw(st.lists(st.sampled_from([.5, 1., 2., 4.]), min_size=5, max_size=5)))
    out = heaviest(sparse.csr_array(q), w, n).toarray()
    assert ((out == q) | (out == 0)).all()
    for a, b in zip(q, out):
        kept, lost = (a * w)[b > 0], (a * w)[(a > 0) & (b == 0)]
        assert len(kept) == min(n or 5, (a > 0).sum()) and (not len(lost) or kept.min() >= lost.max())


def test_leading_directions_keep_likenesses(seen):
    x = seen.matrix().astype(np.float64)
    warm = x[seen.split.warm_items]
    full = leading(x, seen.split.warm_items, x.shape[1] - 1)
    assert np.allclose(full[seen.split.warm_items] @ full.T, warm @ x.T, atol=.05) and leading(x, seen.split.warm_items, 10**4) is x


def test_the_picture_can_be_left_out(seen):
    assert seen.names("all") == ["image", "text"] and seen.names("texts") == ["text"]
    alone = Seen(seen.features.subset(["image"]), seen.texts, seen.split)
    assert alone.names("texts") == ["image"]  # nothing else is there
    assert "inputs" not in outside.space_of("als", alone) and "inputs" in outside.space_of("als", seen)


@there("bm25s")
def test_a_weighted_query_is_a_sum_of_bm25s_scores(seen):
    index, table, counts = rivals.bm25_index(seen, 1.2, .6, "robertson")
    query = seen.split.matrix()[[3]] @ counts
    words = np.repeat(query.indices, query.data.astype(int)).tolist()
    assert np.allclose((query @ table.T).toarray()[0], index.get_scores(words), rtol=1e-3)


@there("cornac")
def test_no_negative_is_a_positive(seen):
    s, n = seen.split, 0
    met = set(map(tuple, s.train.tolist()))
    for u, i, j in rivals.warm_triples(s).uij_iter(64, shuffle=True):
        n += len(u)
        assert set(zip(u.tolist(), s.warm_items[i].tolist())) <= met and not set(zip(u.tolist(), s.warm_items[j].tolist())) & met
    assert n == len(s.train)


def test_every_model_has_the_same_trials_on_a_fold_that_no_report_uses(study, monkeypatch):
    asked = []
    monkeypatch.setattr(outside, "attempt", lambda c, shown, view, split: asked.append((c.name, view, split.rule)) or
                        dict(value=.1, state="finished", why="", seconds=0., epochs=0))
    study.trials = 5
    found = outside.search_all(list(OUTSIDE), outside.Shown(study.lab), study)
    assert len(found) == 2 * len(OUTSIDE) and {len(s["trials"]) for s in found.values()} == {5}
    assert {r for _, _, r in asked} == {f"fold 1 of {study.folds}, permutation {AWAY}"}
    assert all(s["trials"][0]["settings"] == {} for s in found.values())


def test_what_was_tried_and_measured_is_not_fitted_again(study, monkeypatch):
    first = outside.rows(study.lab, study)
    monkeypatch.setattr(outside, "chosen", lambda *a: pytest.fail("fitted again"))
    again = outside.rows(study.lab, study)
    assert again["folds"] == first["folds"] and again["verdicts"] == first["verdicts"]
    assert outside.page(json.loads(json.dumps(first))) == outside.page(first)


def test_a_trial_that_fails_is_said_and_never_chosen(study, monkeypatch):
    monkeypatch.setattr(TfIdf, "steps", lambda self, seen: (_ for _ in ()).throw(ValueError("no words are left")))
    report = outside.rows(study.lab, study)
    assert set(report["verdicts"]["each"]) == {"knn"} and report["failed"]["tfidf"] == "no trial of its search ended well"
    assert {t["why"] for t in report["search"]["tfidf"]["trials"]} == {"no words are left"}
    assert "`tfidf` is missing: no trial" in outside.page(report)


def test_a_library_that_is_gone_leaves_the_others(study, monkeypatch):
    monkeypatch.setattr(Neighbours, "module", "gone_to_sea")
    report = outside.rows(study.lab, study)
    assert set(report["absent"]) == {"knn"} and set(report["verdicts"]["each"]) == {"tfidf"} and "`knn` is missing" in outside.page(report)


@pytest.mark.parametrize("bad, what", [(dict(models=["knn", "lightfn"]), "lightfn"), (dict(trials=0), "trials is 0")])
def test_wrong_parameters_are_refused_before_anything_is_read(bad, what):
    with pytest.raises(UsageError, match=what): outside.lab_of(Study(dict(dataset="gone", models=[], trials=8) | bad))
