"Arms over folds: what is run, what is stopped, what a budget and a failure leave, with made-up values in place of training."
import numpy as np, pandas as pd, pytest
from types import SimpleNamespace
from hypothesis import given, settings, strategies as st
from mamex.base import UsageError
from mamex.protocol.verdicts import LOOKS
from mamex.studies import evidence
from mamex.studies.evidence import Arm, Evidence, Family, gather
from mamex.studies.follow import COLUMNS, VALUES, Outcome
from mamex.trainer import Diverged

FOLDS = 10


def outcome(v):
    return Outcome(pd.DataFrame({(value, c): [v] for value in VALUES for c in COLUMNS}), dict(seconds=1., converged=True, epochs=3))


@pytest.fixture
def play(monkeypatch, tmp_path):
    "gather with arms that are functions of the seed; returns it with the runs that were asked for."
    asked = []
    def run_arm(name, arm, split, seed, *rest):
        asked.append((name, seed))
        return outcome(arm.config(seed))
    monkeypatch.setattr(evidence, "run_arm", run_arm)
    folds = lambda p: [SimpleNamespace(rule=f"fold {n} of {p}") for n in range(FOLDS)]
    def go(arms, families, **kw):
        return gather({n: Arm(None, c) for n, c in arms.items()}, families, folds, tmp_path, progress=False, **kw), asked
    return go


def noisy(mean, sd, key):
    "A value a fold; the fold's own part is the same for every arm."
    return lambda seed: mean + .02 * np.random.default_rng([seed, 99]).normal() + sd * np.random.default_rng([seed, key]).normal()


FULL = noisy(.2, 0, 0)


def test_every_arm_on_every_fold_with_a_seed_of_its_own(play):
    ev, asked = play(dict(full=FULL, better=noisy(.3, .01, 1)), dict(f=Family("full", ["better"])))
    assert asked == [(n, s) for s in range(FOLDS) for n in ("full", "better")]
    row = ev.verdicts["f"]["better"]
    assert row["verdict"] == "better" and row["folds"] == FOLDS and np.isclose(row["diff"], ev.values("better").mean() - ev.values("full").mean())


def test_what_is_decided_is_not_run_again_and_seeds_never_come_twice(play):
    arms = dict(full=FULL, better=noisy(.3, .01, 1), unsure=noisy(.21, .08, 2))
    ev, asked = play(arms, dict(f=Family("full", ["better", "unsure"])), permutations=4)
    runs = {n: [s for m, s in asked if m == n] for n in arms}
    assert runs["better"] == list(range(FOLDS)) and runs["unsure"] == runs["full"] and len(runs["full"]) > FOLDS
    assert all(len(set(r)) == len(r) for r in runs.values())
    assert ev.verdicts["f"]["better"]["folds"] == FOLDS < ev.verdicts["f"]["unsure"]["folds"]


@pytest.mark.parametrize("broken", ["full", "bad"])
def test_a_loss_that_is_not_a_number_stops_its_arm_alone(play, broken):
    def diverges(seed):
        if seed == 3: raise Diverged("the loss term 'bpr' became nan")
        return .2
    arms = dict(full=FULL, bad=FULL, good=noisy(.3, .01, 1), other=FULL) | {broken: diverges}
    ev, asked = play(arms, dict(f=Family("full", ["bad", "good"]), g=Family("other", ["good"])), permutations=2)
    assert list(ev.failed) == [broken] and broken not in ev.outcomes and (broken, 4) not in asked
    assert set(ev.verdicts["f"]) == ({"good"} if broken == "bad" else set()) and ev.verdicts["g"]["good"]["verdict"] == "better"
    assert ev.report()["failed"] == ev.failed


def test_a_budget_ends_after_a_whole_fold_and_says_what_is_missing(play, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(evidence.time, "time", lambda: float(next(clock)))
    ev, asked = play(dict(full=FULL, better=noisy(.3, .01, 1)), dict(f=Family("full", ["better"])), budget_h=4 / 3600)
    assert 2 <= len(ev.outcomes["full"]) == len(ev.outcomes["better"]) < FOLDS
    row = ev.verdicts["f"]["better"]
    assert row["verdict"] == "open" and row["needs"] == FOLDS - len(ev.outcomes["full"]) and row["p_holm"] is None


def test_a_budget_keeps_what_an_earlier_look_decided(play, monkeypatch):
    clock = iter([0.] + [1.] * (FOLDS + 3) + [99.] * 999)
    monkeypatch.setattr(evidence.time, "time", lambda: next(clock))
    arms = dict(full=FULL, better=noisy(.3, .01, 1), unsure=noisy(.21, .08, 2))
    ev, _ = play(arms, dict(f=Family("full", ["better", "unsure"])), permutations=4, budget_h=10 / 3600)
    assert ev.verdicts["f"]["better"]["verdict"] == "better" and ev.verdicts["f"]["unsure"]["verdict"] == "open"
    assert ev.verdicts["f"]["unsure"]["needs"] == 2 * FOLDS - len(ev.outcomes["unsure"])


@pytest.mark.parametrize("n", [0, 3, 16, -1])
def test_permutations_are_those_after_which_a_study_looks(play, n):
    with pytest.raises(UsageError, match="a study looks after 1, 2, 4, 8"): play(dict(full=FULL), {}, permutations=n)
    assert n not in LOOKS


@given(st.lists(st.floats(.01, .9), min_size=2, max_size=30))
@settings(max_examples=30, deadline=None)
def test_an_outcome_comes_back_from_its_file(values):
    import tempfile
    from pathlib import Path
    from mamex.studies.follow import read_outcome
    users = pd.DataFrame({(v, c): np.float32(values) for v in VALUES for c in COLUMNS}, index=pd.Index(range(len(values)), name="user"))
    out = Outcome(users, dict(seconds=.5, history=[dict(epoch=0)]))
    with tempfile.TemporaryDirectory() as tmp:
        out.write(Path(tmp) / "x.parquet"); back = read_outcome(Path(tmp) / "x.parquet")
    pd.testing.assert_frame_equal(back.users, users); assert back.facts == out.facts
    assert np.isclose(back.value(), np.float32(values).astype(float).mean(), atol=1e-12)
