"Cold users: training hears nothing of them, each is served by his own clicks alone, and no answer is known beforehand."
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from mamex.base import UsageError
from mamex.datasets.folders import load_dataset
from mamex.protocol.metrics import evaluate
from mamex.studies import cold_users
from mamex.studies.best import views_of
from mamex.studies.cold_users import (ALL, AVERAGE, POPULAR, away_of, clicks_of, keep_away, on_known_items, scores_of,
                                      seen_last, serve, way_of)
from mamex.studies.cold_users_page import pays_from
from mamex.studies.evidence import study_folds
from mamex.studies.lab import Study
from mamex.trainer import preset

CONFIG = preset("best", damp=.15, memory=0.)


@pytest.fixture(scope="module")
def fold():
    ds = load_dataset("toy")
    features = views_of(ds, "tiny")["two"]
    return features, study_folds(ds, features, 10)[3]


@pytest.fixture(scope="module")
def served(fold):
    far = keep_away(fold[1])
    return serve(fold[0], far, away_of(fold[1]), CONFIG)


def test_training_knows_the_warm_items_and_nobody_who_is_kept_away(fold):
    _, split = fold
    far, away = keep_away(split), away_of(split)
    assert set(far.train[:, 0]).isdisjoint(away) and set(far.val[:, 0]).isdisjoint(away)
    assert set(far.test[:, 0]) <= set(away) and set(far.known[:, 0]) <= set(away)
    assert (far.warm_items == split.warm_items).all() and set(far.known[:, 1]) <= set(far.warm_items)
    assert not np.intersect1d(far.test_items, np.unique(far.train[:, 1])).size


def test_what_a_cold_user_met_changes_neither_items_nor_other_users(fold, served):
    far = keep_away(fold[1])
    other = replace(far, known=far.known[::2], test=far.test[::3])
    again = serve(fold[0], other, away_of(fold[1]), CONFIG)
    assert (again.e == served.e).all() and (again.users == served.users).all() and again.how == served.how


def test_each_cold_user_is_served_by_his_own_clicks(served):
    known, one = served.far.known, served.away[0]
    less = served.after(known[(known[:, 0] != one)])
    full = served.after(known)
    moved = np.flatnonzero((less != full).any(1))
    assert moved.tolist() == [one]


def test_no_asked_item_is_known(fold):
    old = on_known_items(keep_away(fold[1]))
    assert not set(map(tuple, old.test)) & set(map(tuple, old.known))
    assert not set(map(tuple, old.test)) & set(map(tuple, old.train))
    assert set(old.test[:, 1]) <= set(old.pool("test", "own"))


def test_popularity_and_the_average_user_know_nothing_of_a_user(fold, served):
    old = on_known_items(served.far)
    ways = scores_of(served, replace(old, known=old.known[:0]), [POPULAR, AVERAGE], None)
    items = old.warm_items
    assert np.ptp(ways[POPULAR](served.away, items), axis=0).max() == 0
    known = way_of(served, AVERAGE, served.far.known)[served.away]  # a product with equal rows may round by row
    assert (known == known[0]).all() and (way_of(served, AVERAGE, served.far.known[:0])[served.away] == known).all()
    assert np.ptp(ways[AVERAGE](served.away, items), axis=0).max() < 1e-6


def test_clicks_help_where_tastes_were_planted(served):
    ways = scores_of(served, served.far, [AVERAGE, "1 click", ALL], None)
    v = {n: evaluate(s, served.far, "test", "joint")["ndcg@10"].mean() for n, s in ways.items()}
    assert v[AVERAGE] < v["1 click"] < v[ALL]


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_seen_items_stand_last_and_the_others_keep_their_order(data):
    users, items = data.draw(st.integers(1, 5)), data.draw(st.integers(2, 7))
    cells = st.tuples(st.integers(0, users - 1), st.integers(0, items - 1))
    known = np.array(sorted(data.draw(st.sets(cells, max_size=6))), np.int64).reshape(-1, 2)
    pool = np.array(sorted(data.draw(st.sets(st.integers(0, items - 1), min_size=1))))
    s = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(users, items)).astype(np.float32)
    out = seen_last(lambda u, i: s[u][:, i], known, users, items)(np.arange(users), pool)
    met = np.zeros((users, items), bool); met[known[:, 0], known[:, 1]] = True
    met = met[:, pool]
    assert (out[~met] == s[:, pool][~met]).all()
    assert (np.where(met, out, -np.inf).max(1) <= out.min(1) + 1e-9)[met.any(1)].all()


@pytest.mark.parametrize("clicks", [[0], [-1], [1.5], ["two"], [True]])
def test_a_number_of_clicks_that_is_none_is_named(clicks):
    with pytest.raises(UsageError, match=str(clicks[0])): clicks_of(Study(clicks=clicks))


def test_the_answer_needs_every_larger_number_too():
    rows = lambda *v: {n: dict(verdict=x) for n, x in zip("abcd", v)}
    assert pays_from(rows("better", "same", "better", "better"), "abcd") == "c"
    assert pays_from(rows("better", "better", "better", "open"), "abcd") is None
    assert pays_from(rows(*["better"] * 4), "abcd") == "a"


@settings(deadline=None, max_examples=10, suppress_health_check=list(HealthCheck))
@given(n=st.integers(1, 8))
def test_so_many_clicks_are_told(served, n):
    "A user with fewer clicks tells all that he has."
    known = served.far.known
    few, every = way_of(served, f"{n} clicks", known), way_of(served, ALL, known)
    has = np.bincount(known[:, 0], minlength=served.far.n_users)[served.away]
    same = (few[served.away] == every[served.away]).all(1)
    assert same[has <= n].all() and not same[has > n].all()


def test_what_was_measured_is_not_solved_again(tmp_path, monkeypatch):
    monkeypatch.setenv("MAMEX_CACHE", str(tmp_path))
    p = Study(dataset="toy", encoder="tiny", device="cpu", k_core=5, folds=10, group_twins="auto", long_text="cut",
              quick=True, away=.2, clicks=[1], settings={}, started=0.)
    p.lab = cold_users.lab_of(p)
    first = cold_users.rows(p.lab, p)
    monkeypatch.setattr(cold_users, "serve", lambda *a: pytest.fail("solved again"))
    again = cold_users.rows(p.lab, p)
    assert again["folds"] == first["folds"] and again["known"]["folds"] == first["known"]["folds"]
    assert set(first["pays"]) == {"new", "known"}
