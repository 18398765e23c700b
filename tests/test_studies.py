"What the studies rest on, at the edges: settings, targets, effects, arithmetic, claims."
import json
from dataclasses import asdict, replace
import numpy as np, pandas as pd, pytest, torch
from scipy import stats
from hypothesis import given, settings, strategies as st
from mamex.studies import ablations, audit, best, claims, peers_page, sensitivity
from mamex.adapters import DESIGNS, Adapters
from mamex.base import UsageError
from mamex.datasets.folders import load_dataset, save_dataset
from mamex.extractor import Extractor
from mamex.protocol.intervals import paired_interval
from mamex.protocol.verdicts import LOOKS
from mamex.model import MAMEX
from mamex.trainer import PRESETS, load_model, preset
from mamex.extractor import extract
from mamex.protocol.splits import cold_split
from mamex.studies.lab import Lab, Study
from mamex.studies.nights_page import FIT
from mamex.protocol.pairs import hold_out
from mamex.trainer import Trainer, fit


@pytest.fixture(scope="module")
def toy():
    ds = load_dataset("toy")
    return ds, Extractor("tiny").extract(ds, progress=False), cold_split(ds)


@given(st.sampled_from(DESIGNS), st.integers(1, 5), st.integers(1, 4), st.lists(st.integers(1, 7), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_designs_keep_the_contract(design, K, k, widths):
    "Any number of modalities, any widths: gates sum to 1 where the modality is there, z is 0 where it is not."
    k, names = min(k, K), [f"m{i}" for i in range(len(widths))]
    a = Adapters(dict(zip(names, widths)), 3, K, k, design)
    mask = torch.rand(6, len(widths)) > .3
    out = a({m: torch.randn(6, w) for m, w in zip(names, widths)}, mask)
    for n, o in enumerate(out):
        assert torch.allclose(o.gates.sum(1), mask[:, n].float(), atol=1e-6) and o.z[~mask[:, n]].abs().sum() == 0
        assert torch.allclose(o.probs.sum(1), torch.ones(6), atol=1e-6)


@pytest.mark.parametrize("design", DESIGNS)
def test_designs_train_save_and_load(toy, design, tmp_path):
    ds, f, split = toy
    run = fit(f, split, preset("released", design=design, epochs=3, dim=16), progress=False, checkpoints=tmp_path)
    again = fit(f, split, run.config, progress=False, checkpoints=tmp_path)  # from the checkpoint
    run.model.save(tmp_path / "m.safetensors")
    for other in (again.model, load_model(tmp_path / "m.safetensors")): assert torch.equal(run.items().e, other(run.catalogue).e)
    assert run.history[-1]["bpr"] < run.history[0]["bpr"]


def test_held_out_items_are_as_cold_as_the_cold_ones(toy):
    ds, f, split = toy
    t = Trainer(f, split, preset("released", fusion_target="performance", negatives="warm", regularise_on="warm"))
    held = np.setdiff1d(split.warm_items, np.flatnonzero(t.warm.numpy()))
    u, i, j = t.sampler.epoch(np.random.default_rng(0))
    assert len(held) and not np.isin(i, held).any() and not np.isin(j, held).any()
    assert np.isin(t.heard[1:], held).all()


def test_a_performance_target_survives_a_kill(toy, tmp_path):
    ds, f, split = toy
    c = preset("released", fusion_target="performance", adapter_target="performance", epochs=9, eval_every=2, dim=16)
    class Kill(Exception): pass
    def kill(row):
        if row["epoch"] >= 4: raise Kill
    whole = fit(f, split, c, progress=False)
    with pytest.raises(Kill): fit(f, split, c, progress=False, checkpoints=tmp_path, callback=kill)
    resumed = fit(f, split, c, progress=False, checkpoints=tmp_path)
    assert resumed.history == whole.history and torch.equal(resumed.model.fusion_aim, whole.model.fusion_aim)


def test_a_useless_modality_loses_its_target(toy):
    ds, f, split = toy
    noise = ablations.scrambled(f, "image", 1.)
    t = Trainer(noise, split, preset("released", fusion_target="performance", lr=1e-2))
    for _ in range(25): t.epoch(); t.listen()
    assert t.model.fusion_aim[0] < .3 < .7 < t.model.fusion_aim[1]


@pytest.mark.parametrize("bad", [dict(design="mixed"), dict(fusion_target="best"), dict(holdout=0.), dict(holdout=1.), dict(select_pool="all"), dict(gate="none")])
def test_unknown_settings_are_refused_by_name(bad):
    with pytest.raises(UsageError, match=next(iter(bad))): preset("released", **bad)


@given(st.integers(2, 6), st.integers(2, 40), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_paired_interval_is_centred_and_antisymmetric(S, U, seed):
    a, b = np.random.default_rng(seed).random((2, S, U))
    x, y = paired_interval(a, b), paired_interval(b, a)
    assert np.isclose(x["diff"], (a - b).mean()) and np.isclose(np.mean(x["ci95"]), x["diff"])
    assert np.allclose(x["ci95"], [-y["ci95"][1], -y["ci95"][0]])


@given(st.integers(1, 20), st.integers(21, 200), st.lists(st.integers(1, 200), min_size=1, max_size=20, unique=True))
@settings(max_examples=100, deadline=None)
def test_least_cutoff_never_exceeds_the_truth(K1, K2, ranks):
    "Any one user: the bound from his own Recall and NDCG at two cut-offs is no more than the second cut-off."
    T = len(ranks); ideal = sum(1 / np.log2(r + 1) for r in range(1, T + 1))
    at = lambda K: (sum(r <= K for r in ranks) / T, sum(1 / np.log2(r + 1) for r in ranks if r <= K) / ideal)
    if at(K2)[0] > at(K1)[0]: assert audit.least_cutoff(at(K1), at(K2), half=0) <= K2 + 1e-6


def test_print_is_as_quoted():
    "The transcription: Table 1's last rows and Table 3, and what follows from them."
    t = audit.contradictions()
    assert t.holds.tolist() == [True, True, True, False, False, False, False]
    assert peers_page.TABLE1["sport"]["MAMEX"] == (.0776, .1152, .0470, .0574) and audit.TABLE3["MAMEX"]["sport"] == (.0688, .1810)
    assert all(int(n.split()[-1]) > 50 for n in t.numbers[[4, 6]])


def test_flips_lead_from_code_to_print():
    flips = {k: v for f in audit.FLIPS.values() for k, v in f.items()} | dict(select_pool="joint")
    assert replace(PRESETS["released"], **flips) == PRESETS["paper"]
    assert all(len(f) == 1 for f in audit.FLIPS.values())


def test_claims_judge_what_reports_hold():
    "Every claim can be judged on every committed report; a row of claims.json comes again from the folds alone."
    from conftest import ROOT
    rows = claims.claim_rows(ROOT / "reports")
    assert {r["verdict"] for r in rows} <= {*claims.DECIDED, claims.OPEN, claims.NONE}
    assert rows == json.loads((ROOT / "reports/claims.json").read_text())
    real = {r["dataset"] for r in rows} - {"toy", "all"}
    for c in claims.CLAIMS:  # every real dataset has a row for every claim that is not about the print
        assert {r["dataset"] for r in rows if r["claim"] == c.text} - {"toy"} == ({"all"} if c.once else real), c.text
    for r in rows: assert r["verdict"] != claims.OPEN or r["needs"] or "cannot" in r["words"] or "no fold" in r["words"] or r["ci95"], r
    def values_of(report, family):  # arm → [fold], and the arm that the others stand against
        if "evenings" in report: return report["pools"][family], FIT  # of a week: a value a night
        own = report["curve"] if family == "followed" else report["folds"]["own"]  # of time: means over the steps
        return own, report["reference"][family]
    again = 0
    for path in (ROOT / "reports").glob("*/*.json"):
        report = json.loads(path.read_text())
        for name, family in report.get("verdicts", {}).items():
            own, reference = values_of(report, name)
            for arm, row in family.items():
                ref = row.get("against", reference)
                d = np.array(own[arm][:row["folds"]]) - np.array(own[ref][:row["folds"]])
                half = stats.t.ppf(.975, len(d) - 1) * d.std(ddof=1) / len(d)**.5
                assert np.allclose([row["diff"], *row["ci95"]], [d.mean(), d.mean() - half, d.mean() + half], atol=1e-9, rtol=0)
                again += 1
    assert again > 10


# words of users are not content

PLANTED = dict(tags="loved", user_tags="loved", averageRating="4.5", review_text="I love it", also_bought="i0001", salesRank="17", reviews="many",
               Bewertungen="gut", num_reviews="12", helpful_votes="3", blurbs="declared by the folder")


def planted(ds, **columns):
    return replace(ds, items=ds.items.assign(**columns), info=ds.info | dict(feedback=["blurbs"]))


@pytest.mark.parametrize("column", PLANTED)
def test_what_users_wrote_is_no_modality(toy, column, recwarn):
    "A column of feedback changes no vector of any view, whatever its name, and nobody is warned of what is not read."
    ds, f, _ = toy
    other = planted(ds, **{column: PLANTED[column]})
    plain, seen = (best.views_of(x, "tiny") for x in (ds, other))
    assert {k: v.fingerprint for k, v in plain.items()} == {k: v.fingerprint for k, v in seen.items()}
    assert extract(other, "tiny", text_columns="each").modalities == ["image", "text", "title", "description"]
    assert not [w for w in recwarn if "users" in str(w.message)]


@pytest.mark.parametrize("columns", [["title", "tags"], dict(text=["title"], tags=["tags"]), dict(all=["tags", "blurbs"])])
def test_who_asks_for_words_of_users_is_warned(toy, columns):
    ds = planted(toy[0], tags="loved", blurbs="declared by the folder")
    with pytest.warns(UserWarning, match="'tags'.*which users write or cause after an item has come out: a new item has none"): extract(ds, "tiny", text_columns=columns)


def test_content_can_be_declared(toy):
    "A folder may say that a column of such a name is the maker's own."
    ds = replace(toy[0], items=toy[0].items.assign(tags="oak"), info=toy[0].info | dict(content=["tags"]))
    assert "tags" in extract(ds, "tiny", text_columns="each").modalities


# equal inputs

ARMS_OF_BEST = ["mamex/released", "mamex/released, rich", "mamex/released, each", "solved, linear", "mamex/best", "mamex/best, two", "ridge/all", "milk", "ridge/text, two", "random"]


def test_equal_inputs_are_compared_and_nothing_else():
    f = best.families_of(dict.fromkeys(ARMS_OF_BEST))
    assert (f["two"].reference, set(f["two"].arms)) == ("mamex/best, two", {"ridge/text, two", "mamex/released"})
    assert (f["each"].reference, set(f["each"].arms)) == ("mamex/best", {"ridge/all", "milk", "random"})
    assert (f["columns"].reference, f["columns"].arms) == ("mamex/best, two", ["mamex/best"])
    ladder = f["ladder"]
    assert [(ladder.against(a), a) for a in ladder.arms] == list(zip(ARMS_OF_BEST, ARMS_OF_BEST[1:5]))


def test_copies_are_left_out():
    f = best.families_of(dict.fromkeys(["mamex/released", "solved, linear", "mamex/best", "ridge/all", "random"]))
    assert set(f) == {"each", "ladder"} and set(f["each"].arms) == {"mamex/released", "ridge/all", "random"}


def quick_best(ds, **more):
    return Study(dict(dataset=ds, encoder="tiny", device="cpu", k_core=5, folds=3, group_twins="auto", long_text="cut", around=2, settings=dict(epochs=2, eval_every=1)) | more)


def test_a_catalogue_without_further_columns_has_one_view(tmp_path, toy, monkeypatch):
    "Ready vectors: every view is the same, and no row is a copy of another."
    monkeypatch.setenv("MAMEX_CACHE", str(tmp_path / "cache"))
    ds = replace(toy[0], items=toy[0].items[["item"]], images=None, features={"audio": toy[1].vectors["image"]})
    p = quick_best(str(save_dataset(ds, tmp_path / "ready")), encoder="ready")
    lab = best.lab_of(p)
    assert best.is_copy(lab) and not [n for n in best.arms_of(lab, p) if n.endswith("two") or n.endswith("rich")]


def test_without_pictures_title_and_description_are_the_two(toy):
    ds = replace(toy[0], images=None)
    assert best.views_of(ds, "tiny")["two"].modalities == ["title", "description"]
    assert best.views_of(replace(ds, items=ds.items.drop(columns="description")), "tiny")["two"].modalities == ["text"]


def test_floors_see_what_best_sees(tmp_path, monkeypatch, toy):
    "Words and numbers, as vectors of the warm items of the fold; a cold item's words change nothing for the others."
    monkeypatch.setenv("MAMEX_CACHE", str(tmp_path))
    ds = replace(toy[0], items=toy[0].items.assign(price=[f"${n % 9}.50" for n in range(toy[0].n_items)]))
    p = quick_best(str(save_dataset(ds, tmp_path / "priced")))
    lab = best.lab_of(p)
    arms = best.arms_of(lab, p)
    assert {"ridge/title words", "ridge/price number", "ridge/all", "linear-cf"} <= set(arms) and "ridge/title words, two" not in arms
    assert "price number" in lab.views["each"].views and best.columns_of(ds)["two"] == ("title", "description")
    score, (u, i) = arms["ridge/title words"].score(lab.split), lab.split.test[:20].T
    assert np.isfinite(score(u, i)).all() and arms["ridge/all"].told != arms["ridge/all, two"].told


def test_settings_around_best_are_judged_without_test_items(tmp_path, monkeypatch):
    "Other test items, the same answer; and the division is none that a report uses."
    monkeypatch.setenv("MAMEX_CACHE", str(tmp_path))
    p = quick_best("toy")
    lab, folds, asked = best.lab_of(p), best.study_folds, []
    lab.progress = False
    def scrambled(*args):
        asked.append(args[3])
        return [replace(s, test=np.stack([s.test[:, 0], np.random.default_rng(0).permutation(s.test[:, 1])], 1)) for s in folds(*args)]
    plain = best.around(lab, p)
    monkeypatch.setattr(best, "study_folds", scrambled)
    assert best.around(lab, p) == plain and asked == [best.AWAY] and best.AWAY >= max(LOOKS)


def test_no_page_compares_across_inputs_or_leaves_users_alone_unsaid():
    "All committed pages."
    from conftest import ROOT
    for p in (ROOT / "reports").glob("**/*.md"):
        t = p.read_text()
        assert "| times |" not in t and "interval over users]" not in t and "interval over users." not in t, p
