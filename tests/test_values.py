"Chapter 00e: any moment comes back from any writing, numbers that are no dates are refused, near ids are told apart from strange ones."
import unicodedata
from datetime import datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from mamex.base import UsageError
from mamex.datasets.dates import date_order, doubtful_times, parse_times
from mamex.datasets.ids import id_text, id_texts, name_key, near_hint, near_ids, plain_id

QUICK = dict(deadline=None, suppress_health_check=list(HealthCheck))
EPOCH = datetime(1970, 1, 1)
MOMENTS = st.datetimes(datetime(1975, 1, 1), datetime(2026, 1, 1)).map(lambda t: t.replace(microsecond=0))


def seconds(t): return (t - EPOCH).total_seconds()


def times(*v, **k): return parse_times(pd.Series(v, dtype=object), **k)


def serial(t): return f"{(t - datetime(1899, 12, 30)) / timedelta(days=1):.9f}"


def berlin(t): return (t + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S") + "+01:00"


WHOLE = {  # writings that keep the second
    "ISO": lambda t: t.isoformat(sep=" "), "ISO with T": lambda t: t.isoformat(), "Z": lambda t: t.isoformat() + "Z", "zone": berlin,
    "UTC": lambda t: f"{t:%Y-%m-%d %H:%M:%S} UTC", "Go": lambda t: f"{t:%Y-%m-%d %H:%M:%S} +0000 UTC", "slashes": lambda t: f"{t:%Y/%m/%d %H:%M:%S}",
    "basic": lambda t: f"{t:%Y%m%dT%H%M%S}", "AM PM": lambda t: f"{t:%Y-%m-%d %I:%M:%S %p}", "comma fraction": lambda t: f"{t:%Y-%m-%d %H:%M:%S},000",
    "digits": lambda t: f"{t:%Y%m%d%H%M%S}", "mail": lambda t: t.replace(tzinfo=timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT"),
    "ctime": lambda t: t.strftime("%a %b %d %H:%M:%S %Y"), "tweet": lambda t: t.strftime("%a %b %d %H:%M:%S +0000 %Y"),
    "words": lambda t: t.strftime("%B %d, %Y %H:%M:%S"), "excel text": lambda t: "'" + t.isoformat(sep=" "), "quoted": lambda t: f'="{t}"',
    "bracket": lambda t: t.isoformat() + "Z[UTC]", "seconds": lambda t: f"{seconds(t):.0f}", "float seconds": lambda t: f"{seconds(t):.1f}",
    "milliseconds": lambda t: f"{seconds(t)*1000:.0f}", "microseconds": lambda t: f"{seconds(t)*1e6:.0f}", "nanoseconds": lambda t: f"{int(seconds(t))}000000000",
    "serial": serial, "serial with comma": lambda t: serial(t).replace(".", ",")}
DAYS = {  # writings of a day; those of numbers need to be told which comes first
    "ISO": "%Y-%m-%d", "YYYYMMDD": "%Y%m%d", "day.month": "%d.%m.%Y", "day/month": "%d/%m/%Y", "day-month": "%d-%m-%Y", "short": "%d.%m.%y", "words": "%d %b %Y",
    "31-Jan-2024": "%d-%b-%Y", "Jan 31, 2024": "%b %d, %Y", "year.month.day": "%Y.%m.%d", "spaces": "%Y %m %d"}


@pytest.mark.parametrize("how", WHOLE)
@settings(max_examples=25, **QUICK)
@given(st.lists(MOMENTS, min_size=1, max_size=4))
def test_a_moment_comes_back(how, ts):
    got, bad, note = times(*map(WHOLE[how], ts))
    assert not bad.any() and np.allclose(got, [seconds(t) for t in ts], atol=.5 if "serial" in how else 1e-3), (note, list(map(WHOLE[how], ts)))


@pytest.mark.parametrize("how", DAYS)
@settings(max_examples=25, **QUICK)
@given(st.lists(MOMENTS, min_size=1, max_size=4))
def test_a_day_comes_back(how, ts):
    got, bad, note = times(*[t.strftime(DAYS[how]) for t in ts], dayfirst=True)
    assert not bad.any() and got.tolist() == [seconds(datetime(t.year, t.month, t.day)) for t in ts], note


@settings(max_examples=60, **QUICK)
@given(st.lists(MOMENTS, min_size=1, max_size=6), st.sampled_from(["%d/%m/%Y", "%m/%d/%Y", "%d-%m-%y", "%m-%d-%y", "%y-%m-%d", "%d.%m.%y"]))
def test_dates_of_three_numbers_are_right_or_asked_about(ts, how):
    "Never another day than the one that was written, unless two orders fit and custom chooses: a point stands behind a day."
    ts = [t for t in ts if t.year <= 2024] or [datetime(2024, 1, 31)]
    try: got, bad, _ = times(*[t.strftime(how) for t in ts])
    except UsageError as e: assert "may start with the" in str(e); return
    assert got[~bad].tolist() == [seconds(datetime(t.year, t.month, t.day)) for t in ts] or bad.any()


@pytest.mark.parametrize("texts,first", [(["31/01/2024"], "day"), (["01/31/2024"], "month"), (["3.4.2024"], "day"), (["03/04/2024"], None), (["24-01-31"], "year"),
                                         (["24-01-20"], None), (["24-01-20", "99-12-31"], "year"), (["24/01/31"], "year"), (["13/04/24"], "day"),
                                         (["31/01/2024", "01/31/2024"], None), (["99-01-02"], "year"), (["01-02-99"], None)])
def test_what_stands_first(texts, first):
    assert date_order(texts, pd.Timestamp("2026-01-01")) == first


@pytest.mark.parametrize("v", [["0", "13", "23"], ["1", "2", "3"], ["19723", "19724"], ["20453", "20454"], ["17.5"], ["930", "1745", "2359"], ["99999999"], ["240131"], ["31012024"],
                               ["0", "0"], ["-1", "-1"], ["45"], ["2500"], ["209913"], ["1e300"], ["99999999999999999999"]], ids=str)
def test_numbers_that_are_no_dates_are_refused(v):
    s, bad, note = times(*v)
    assert bad.all() and s.isna().all()


@pytest.mark.parametrize("v", ["soon", "now", "today", "Monday", "May", "10:15", "31. Januar 2024", "31 janvier 2024", "2024-01-31 10:00 CET", "2024-W05", "2024-Q1", "2024-13-01",
                               "2024-31-01", "0000-00-00 00:00:00", "2024-01-31 24:30", "31 Jan", "a.b.c", "2024-02-30", "2024-01-31 10:00 13"])
def test_texts_that_are_no_dates_are_refused(v):
    assert times(v, "2024-01-31")[1].tolist() == [True, False]


@pytest.mark.parametrize("v,first,note", [("45322", "2024-01-31", "spreadsheets"), ("45322.75", "2024-01-31 18:00", "spreadsheets"), ("202401", "2024-01-01", "months"), ("2024", "2024-01-01", "years"),
                                          ("1813", "1813-01-01", "years"), ("20240131", "2024-01-31", "YYYYMMDD"), ("2024013118", "2024-01-31 18:00", "YYYYMMDDHH"),
                                          ("202401311815", "2024-01-31 18:15", "YYYYMMDDHHMM"), ("20240131181500", "2024-01-31 18:15", "YYYYMMDDHHMMSS"),
                                          ("20240131181500250", "2024-01-31 18:15:00.250", "milliseconds"), ("01/2024", "2024-01-01", "months")])
def test_numbers_as_what_they_can_only_be(v, first, note):
    s, bad, said = times(v, "")
    assert not bad.any() and s[0] == pd.Timestamp(first).timestamp() and np.isnan(s[1]) and note in said


def test_a_month_or_a_short_day_is_asked_about():
    with pytest.raises(UsageError, match="month or a day"): times("201105", "200912")
    assert times("201105", "201312")[2].startswith("months")  # the 13th month tells


def test_odd_values_of_a_column_are_named_and_not_the_column():
    assert times("1", "1706702400000")[1].tolist() == [True, False]
    assert times("20240131", "20241399", "20240201")[1].tolist() == [False, True, False]
    assert times("1706702400", "1706702400000", "1706702401")[1].tolist() == [False, True, False]
    assert times("45322", "45323", "12")[1].tolist() == [False, False, True]
    assert times("1706702400", "0", "-1", "")[1].tolist() == [False]*4  # 1970: kept, and doubtful
    assert "exponent" in times("1.70671E+12")[2]


def test_years_stand_beside_dates():
    s, bad, note = times("1995", "1995-03-02", "5 Mar 1995", "")
    assert not bad.any() and note.startswith("years and ISO dates and dates in words") and s[0] == seconds(datetime(1995, 1, 1))


@settings(max_examples=100, **QUICK)
@given(st.lists(st.one_of(st.text(max_size=14), st.integers(-10**20, 10**20).map(str), st.floats().map(str), st.from_regex(r"\d{1,4}[./ -]\d{1,2}[./ -]\d{1,4}( \d{1,2}:\d\d( [ap]m)?)?", fullmatch=True)), max_size=5))
def test_any_text_is_a_time_or_none(values):
    try: s, bad, note = times(*values)
    except UsageError as e: assert "may " in str(e); return
    assert len(s) == len(bad) == len(values) and note
    for v, x, b in zip(values, s, bad): assert np.isnan(x) if b or not v.strip() else True


def test_doubtful_times():
    d = doubtful_times([0, -1, 31535999, 31536000, 1.7e9, 9e9, np.nan], now=1.8e9)
    assert d["lies in 1970 or before"].tolist() == [True]*3 + [False]*4 and d["lies in the future"].tolist() == [False]*5 + [True, False]


# ---- ids
IDS = st.text(st.characters(min_codepoint=33, max_codepoint=0x24f, exclude_categories=("Cc", "Cf", "Cs", "Zs")), min_size=1, max_size=10)
SPOILS = {
    "leading zeros": lambda s: "00" + s, "a decimal point": lambda s: s + ".0", "signs that nobody sees": lambda s: s[:1] + "\u200b" + s[1:] + "\u00a0",
    "a mark": lambda s: "\ufeff" + s, "decomposed": lambda s: unicodedata.normalize("NFD", s), "wide": lambda s: "".join(chr(ord(c) + 0xfee0) if "!" <= c <= "~" else c for c in s),
    "case": str.swapcase, "spreadsheet": lambda s: f'="{s}"', "apostrophe": lambda s: "'" + s, "quotes": lambda s: f'"{s}"', "spaces": lambda s: " ".join(s), "dash": lambda s: s.replace("-", "\u2013")}


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("s", ["7", "10", "A-12", "caf\u00e9-3", "B00X2", "1234567890123", "0815"])
def test_a_spoiled_id_is_near_the_right_one(spoil, s):
    u = SPOILS[spoil](s)
    if u == s or spoil == "a decimal point" and not s[-1].isdigit() or "2E+" in u: return
    (got, known, kind), = near_ids([u], [s, "other"])
    assert (got, known) == (u, s) and kind and "perhaps" in near_hint([u], [s]) and ascii(u)[1:-1] in near_hint([u], [s]) or u.isprintable()


@settings(max_examples=100, **QUICK)
@given(IDS)
def test_the_plain_form_is_one_form(s):
    assert plain_id(plain_id(s)) == plain_id(plain_id(plain_id(s)))
    assert near_ids([s], [s]) == []


@pytest.mark.parametrize("a,b", [("12", "120"), ("a1", "a2"), ("0", ""), ("1.5", "15"), ("ab", "abc"), ("10", "1")])
def test_other_ids_are_not_near(a, b): assert near_ids([a], [b]) == [] and near_hint([a], [b]) == ""


def test_numbers_that_a_spreadsheet_cut():
    assert near_ids(["1.23457E+12", "1,23457E+12"], ["1234567890123"])[0][1:] == ("1234567890123", "an exponent")
    assert "spreadsheet" in near_hint(["1.23457E+12"], ["1234567890123"])


@pytest.mark.parametrize("v", ["007", "NA", "null", "1e5", "nan", " x", "1.0", "\u200b7"])
def test_text_stays_text(v): assert id_text(v) == v and id_texts(pd.Series([v])).tolist() == [v]


@pytest.mark.parametrize("s", [pd.Series([2.**53 + 2]), pd.Series([2**24 + 2], dtype="float32"), pd.Series([1.5, 2]), pd.Series([True, False]), pd.Series([7, None], dtype=object)])
def test_what_is_no_id_is_refused_with_its_row(s):
    with pytest.raises(UsageError, match="id in row [12]"): id_texts(s, "t.csv")


@pytest.mark.parametrize("name,key", [("Product ID ", "productid"), ("item_id:token", "itemid"), ("tags:token_seq", "tags"), ("Größe", "grosse"), ("Descripción", "descripcion"), ("re\u0301fe\u0301rence", "reference")])
def test_names_of_columns(name, key): assert name_key(name) == key
