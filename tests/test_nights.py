"A week of nights: nothing of tomorrow is known, every way has the same users, items and clicks, and copies stay apart."
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mamex.base import UsageError
from mamex.datasets.folders import load_dataset
from mamex.extractor import extract
from mamex.studies import nights
from mamex.studies.lab import Study
from mamex.studies.nights import FIT, LEFT, WAYS, Week, asked, asked_of, brought, by_arrival, days_of, evening, first_places, fit_on, moments, same_places, score_of
from mamex.studies.evidence_page import verdict_words
from mamex.studies.nights_page import answer, page, seconds, tables


@pytest.fixture(scope="module")
def shop():
    "toy, with every thirteenth item in the last days alone."
    ds = load_dataset("toy")
    ds = replace(ds, features=extract(ds, "tiny", progress=False).vectors)
    t = moments(ds)[0] + 10**6 * (ds.interactions["item"] % 13 == 0).to_numpy()
    return ds, t, days_of(t)


@pytest.fixture(scope="module")
def week(shop):
    return Week(*by_arrival(*shop))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 40), min_size=30, max_size=120), st.integers(1, 5), st.floats(.1, .9))
def test_days_follow_the_clock_and_no_moment_is_split(t, n, share):
    t = np.array(t, float)
    try: day = days_of(t, n, share)
    except UsageError as e: assert "holds no click" in str(e); return
    assert sorted(set(day)) == list(range(n + 1))
    for a, b in zip(*(np.sort(t)[k:len(t) - 1 + k] for k in (0, 1))):
        assert day[t == a].max() <= day[t == b].min() and (a != b or len(set(day[t == a])) == 1)


def test_arrival_loses_nothing_and_renames_nobody(shop, week):
    ds, t, day = shop
    told = lambda d: sorted(zip(d.user_ids[d.interactions["user"]], d.item_ids[d.interactions["item"]]))
    assert told(week.ds) == told(ds) and list(week.ds.items["item"]) == list(week.ds.item_ids)
    at = {i: k for k, i in enumerate(ds.item_ids)}
    for m, v in week.ds.features.items(): assert (v == ds.features[m][[at[i] for i in week.ds.item_ids]]).all()
    assert (np.bincount(week.day) == np.bincount(day)).all()


def test_an_evening_knows_nothing_of_the_next_day(shop):
    "Whatever comes later, the evening's fit reads the same."
    ds, t, day = shop
    x, rng = ds.interactions, np.random.default_rng(0)
    other = replace(ds, interactions=x.assign(user=np.where(day > 3, rng.permutation(x["user"]), x["user"])))
    a, b = (Week(*by_arrival(d, t, day)).known(3) for d in (ds, other))
    soon = {ds.item_ids[i] for i in x["item"][day <= 4]}  # items of day 4 are there on evening 3
    assert list(a.item_ids) == list(b.item_ids) and set(a.item_ids) >= soon
    assert list(a.user_ids) == list(b.user_ids) and a.interactions.reset_index(drop=True).equals(b.interactions.reset_index(drop=True))


def test_every_way_ends_with_the_same_users_items_and_clicks(week):
    recs = {}
    for k in range(3): evening(recs, week, k)
    for n, r in recs.items():
        if n == LEFT: continue
        assert list(r.items["item"]) == list(week.known(2).item_ids) and list(r.user_ids) == list(week.known(2).user_ids), n
        assert (r.seen != recs[FIT].seen).nnz == 0, n
    assert len(recs[LEFT].items) == week.n_items(0) and recs[LEFT].seen.nnz == (week.day == 0).sum()


def test_what_is_asked_was_not_known_and_its_items_are_there(week):
    for k in range(week.days):
        for new in (False, True):
            s = asked(week, k, new)
            assert not set(map(tuple, s.train)) & set(map(tuple, s.test))
            assert set(s.test[:, 1]) <= set(s.test_items) and s.test_items.max(initial=0) < week.n_items(k)
            assert set(s.test[:, 0]) <= set(s.train[:, 0])
            if new: assert not set(s.test_items) & set(s.train[:, 1])


def test_items_that_a_recommender_lacks_stand_last(week):
    rec, n = fit_on(week, 0), week.n_items(3)
    s = score_of(rec, week.n_users(3), n)(np.arange(5), np.arange(n))
    known = len(rec.items)
    assert n > known and (s[:, known:].max(1) < s[:, :known].min(1)).all()
    assert (score_of(rec, week.n_users(3), n)(np.arange(5), np.arange(known, n)) < 0).all()
    a = asked(week, 3)
    assert same_places(first_places(rec, a), first_places(rec, a)) == 1 and 0 <= asked_of(rec, a) <= 1


def test_a_night_brings_only_what_is_new(week):
    more = brought(week, 1)
    assert list(more["items"]["item"]) == [i for i, b in zip(week.ds.item_ids, week.born) if b == 1]
    assert len(more["clicks"]) == (week.day == 1).sum() and {len(v) for v in more["vectors"].values()} == {len(more["items"])}
    late = next(k for k in range(week.days) if not (week.born == k).any())
    assert set(brought(week, late)) == {"clicks"}


@pytest.mark.parametrize("wrong", [dict(nights=1), dict(nights=2.5), dict(share=0.), dict(share=1), dict(share=1e-4)])
def test_a_week_that_is_none_is_named(wrong):
    p = Study(dataset="toy", encoder="tiny", order="auto", k_core=0, long_text="cut", seed=0, quick=False) | dict(nights=7, share=.1) | wrong
    with pytest.raises(UsageError, match=next(iter(wrong)) if wrong != dict(share=1e-4) else "holds no click"): nights.lab_of(Study(p))


def test_a_set_whose_users_come_once_says_so(shop):
    "As where everybody rates within an hour: after no night does somebody come who is known."
    ds, t, _ = shop
    p = Study(dataset="toy", encoder="tiny", nights=3, share=.3, order="auto", k_core=0, long_text="cut", seed=0, quick=False, started=0.)
    p.lab = nights.lab_of(p)
    p.week = Week(*by_arrival(ds, when := ds.interactions["user"].to_numpy(float), days_of(when, 4, .3)))
    with pytest.raises(UsageError, match="after 0 of 3 nights .* take fewer nights or a larger share"): nights.rows(p.lab, p)


@pytest.mark.parametrize("order", ["newest", "", "Time"])
def test_an_order_that_is_none_is_named(shop, order):
    with pytest.raises(UsageError, match="choose one of 'auto', 'time', 'chance'"): moments(shop[0], order)


def test_times_that_are_missing_are_counted(shop):
    ds = replace(shop[0], interactions=shop[0].interactions.assign(timestamp=np.r_[np.nan, np.arange(1, shop[0].n_interactions)]))
    with pytest.raises(UsageError, match="1 of the .* bear no time: .*order chance"): moments(ds)


def test_the_report_says_what_its_evenings_say(week):
    p = Study(dataset="toy", encoder="tiny", nights=3, share=.1, order="auto", k_core=0, long_text="cut", seed=0, quick=True, started=time.time(),
              preset="best")
    p.lab = nights.lab_of(p)
    r = nights.rows(p.lab, p)
    assert len(r["evenings"]) == 4 and all(len(v) == 3 for v in r["pools"]["all"].values())
    assert set(r["verdicts"]["all"]) == set(WAYS) - {FIT} and seconds(r, LEFT) is None
    assert all(e[FIT]["same"] == 1 for e in r["evenings"]) and r["evenings"][0]["updated"]["same"] == 1
    text = page(r)
    assert answer(r) in text and all(verdict_words(v, "night") in text for v in r["verdicts"]["all"].values()) and len(tables(r)["nights"]) == 3
