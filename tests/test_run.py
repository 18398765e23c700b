"`run.ipynb` through papermill as users call it: parameters refused, data that is broken, the same numbers twice."
import json, os, subprocess, sys
from pathlib import Path
import numpy as np, pandas as pd, pytest
from conftest import ROOT
from hypothesis import given, strategies as st
from mamex.base import UsageError
from mamex.datasets.folders import load_dataset, save_dataset
from mamex.reports.parameters import (check_columns, check_device, check_long_text, check_parameters, parse_seeds,
                                      trained_preset)

QUICK = ["-p", "epochs", "3", "-p", "seeds", "0", "-p", "folds", "3"]


def papermill(*args, cwd=ROOT, **env):
    "The command line, from the project's root; returns (exit status, everything it printed)."
    p = subprocess.run([Path(sys.executable).parent / "papermill", "--no-progress-bar", "nbs/run.ipynb", *map(str, args)],
                       cwd=cwd, capture_output=True, text=True, env=os.environ | env)
    return p.returncode, p.stdout + p.stderr


@pytest.mark.parametrize("parameters, sentence", [
    (["-p", "datset", "toy"], "UsageError: unknown parameter 'datset'; did you mean 'dataset'?"),
    (["-p", "dataset", "sports"], "UsageError: "),
    (["-p", "dataset", "007"], "UsageError: dataset is 7; papermill's -p made a number of what was typed: write -r dataset 007"),
    (["-p", "seeds", "hello"], "UsageError: seeds is 'hello'; give different whole numbers"),
    (["-p", "encoder", "offlin"], "UsageError: "),
    (["-p", "preset", "relased"], "UsageError: unknown preset 'relased': choose one of released, paper, best; did you mean 'released'?"),
    (["-p", "epochs", "many"], "UsageError: epochs is 'many'; it must be of type int"),
    (["-p", "device", "tpu"], "UsageError: device is 'tpu'; this machine has cpu"),
    (["-y", "settings: {topk: 3}"], "UsageError: unknown setting 'topk'; did you mean 'top_k'?"),
])
def test_refuses(parameters, sentence, tmp_path):
    status, text = papermill(tmp_path / "o.ipynb", "-p", "out", tmp_path / "r", *parameters)
    assert status != 0
    last = text.strip().splitlines()[-1]
    assert last.startswith(sentence), text[-2000:]
    assert not (tmp_path / "r").exists()  # nothing half-written


def test_the_same_twice(tmp_path):
    "Two runs, one of them without an output path: the same val and test to the last digit."
    reports = []
    for n, extra in enumerate(([tmp_path / "o.ipynb"], [])):
        cache = {"MAMEX_CACHE": str(tmp_path / f"cache{n}")}  # nothing is taken over from the other run
        status, text = papermill(*extra, "-p", "dataset", "toy", *QUICK, MAMEX_REPORTS=str(tmp_path / str(n)), **cache)
        assert status == 0, text[-3000:]
        reports.append(json.loads((tmp_path / str(n) / "toy" / "run.json").read_text()))
        assert "[run](toy/run.md)" in (tmp_path / str(n) / "README.md").read_text()
    for part in ("folds", "verdicts", "beside", "means", "fold_epochs", "paper_split", "history"): assert reports[0][part] == reports[1][part]
    r, floors = reports[0], {"random", *(f"{f}/{m}" for f in ("presence", "profile", "ridge") for m in ("image", "text", "all"))}
    assert set(r["paper_split"]["test"]) == floors | {"mamex/released"}
    assert set(r["folds"]["own"]) == set(r["folds"]["joint"]) == floors | {"linear-cf", "mamex/released", "mamex/best"}
    assert {len(v) for v in r["folds"]["own"].values()} == {3} and set(r["verdicts"]["floors"]) == floors | {"linear-cf"}
    for s in r["paper_split"]["test"].values():
        for m in s.values(): assert set(m) == {"mean", "sd", "ci95"} and m["ci95"][0] <= m["mean"] <= m["ci95"][1]
    assert r["card"]["seeds"] == [0] and r["card"]["dataset"]["users"] == 300
    assert {p.name for p in (tmp_path / "0" / "toy").iterdir()} == {"run.json", "run.md", *(f"run_{f}.png" for f in ("verdicts", "curves", "alpha", "experts"))}


@pytest.fixture
def shop(tmp_path):
    "The toy set as a folder of somebody's own."
    return save_dataset(load_dataset("toy"), tmp_path / "shop")


def edit(path, f):
    df = pd.read_parquet(path); f(df).to_parquet(path)


@pytest.mark.parametrize("spoil, sentence", [
    (lambda d: edit(d / "interactions.parquet", lambda x: x.drop(columns="item")), "lacks the column 'item'"),
    (lambda d: (d / "items.parquet").write_bytes((d / "items.parquet").read_bytes()[:500]), "items.parquet cannot be read"),
    (lambda d: edit(d / "interactions.parquet", lambda x: pd.concat([x, x.tail(1).assign(item="nowhere")])), "nowhere"),
])
def test_broken_folders(shop, spoil, sentence, tmp_path):
    spoil(shop)
    status, text = papermill(tmp_path / "o.ipynb", "-p", "dataset", shop, "-p", "encoder", "tiny", "-p", "out", tmp_path / "r", *QUICK)
    assert status != 0 and "UsageError" in (last := text.strip().splitlines()[-1]) and sentence in last, text[-2000:]


def rezip(folder, change):
    import zipfile
    with zipfile.ZipFile(folder / "images.zip") as z: files = {n: z.read(n) for n in z.namelist()}
    with zipfile.ZipFile(folder / "images.zip", "w") as z:
        for n, b in change(files).items(): z.writestr(n, b)


@pytest.mark.parametrize("change, unreadable, present", [
    (lambda f: f | {n: b"not a picture" for n in sorted(f)[:10]}, 10, 386),
    (lambda f: {}, 0, 0),
], ids=["ten unreadable", "all gone"])
def test_pictures_that_fail_are_counted(shop, change, unreadable, present, tmp_path):
    rezip(shop, change)
    status, text = papermill(tmp_path / "o.ipynb", "-p", "dataset", shop, "-p", "encoder", "tiny", "-p", "out", tmp_path / "r", *QUICK)
    assert status == 0, text[-3000:]
    counts = json.loads((tmp_path / "r" / "run.json").read_text())["card"]["features"]["counts"]["image"]
    assert (counts["unreadable"], counts["present"]) == (unreadable, present)


from conftest import needs  # here, where real data come in

@needs("movielens")
def test_films(tmp_path):
    "The real films end to end, shortened: few epochs, vectors by `tiny` (posters and plots read for real)."
    status, text = papermill(tmp_path / "o.ipynb", "-p", "dataset", "movielens", "-p", "encoder", "tiny", "-p", "out", tmp_path / "r",
                             "-p", "epochs", "2", "-p", "seeds", "0", "-p", "folds", "3", "-p", "show_gallery", "False")
    assert status == 0, text[-3000:]
    card = json.loads((tmp_path / "r" / "run.json").read_text())["card"]
    assert [card["dataset"][k] for k in ("users", "items", "interactions")] == [610, 3650, 90274]
    assert card["features"]["counts"]["image"]["present"] == 3629


# what the command line of papermill makes of its values

def typed(value):
    from papermill.cli import _resolve_type  # what -p does
    return _resolve_type(value)


@pytest.mark.parametrize("parameter, check", [("dataset", str), ("encoder", str), ("out", str), ("by", str), ("preset", trained_preset), ("device", check_device), ("long_text", check_long_text)])
@pytest.mark.parametrize("value", ["007", "1e5", "True", "False", "None", "12", "-3", "0.50", "inf", "1_000"])
def test_a_text_that_papermill_changed_names_the_remedy(parameter, check, value):
    with pytest.raises(UsageError) as e: check_parameters({parameter: typed(value)}, **{parameter: check})
    assert f"write -r {parameter} " in str(e.value) and "\n" not in str(e.value) and str(e.value).startswith(f"{parameter} is ")


@pytest.mark.parametrize("value", ["toy", "true", "null", "2024-01-31", "0x1F", "~", "my shop", "1.2.3"])
def test_a_text_that_stays_a_text_is_taken(value):
    assert check_parameters(dict(dataset=typed(value)), dataset=str).dataset == value


@pytest.mark.parametrize("value, seeds", [("[0]", [0]), ("(0, 1)", [0, 1]), ("0 1", [0, 1]), ("0", [0]), ("0,1,2", [0, 1, 2]), ("[0,1]", [0, 1]), ("(3)", [3]), ("0, 1", [0, 1]), ("[ 4 ]", [4]), ("0;1", [0, 1])])
def test_seeds_as_they_are_typed(value, seeds):
    assert parse_seeds(typed(value)) == parse_seeds(value) == seeds
    assert check_parameters(dict(cold_seeds=typed(value)), cold_seeds=parse_seeds).cold_seeds == seeds


@pytest.mark.parametrize("value", ["1.5", "True", "None", "[]", "", "0,0", "-1", "[0, x]", "0-4", "1e3"])
def test_what_are_no_seeds(value):
    with pytest.raises(UsageError, match="cold_seeds is .*for example -p cold_seeds 0,1,2"): check_parameters(dict(cold_seeds=typed(value)), cold_seeds=parse_seeds)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=6, unique=True), st.sampled_from([list, tuple, np.array, str, lambda s: ",".join(map(str, s)), lambda s: " ".join(map(str, s)), lambda s: [np.int64(x) for x in s]]))
def test_seeds_of_any_kind(seeds, form): assert parse_seeds(form(seeds)) == seeds


@pytest.mark.parametrize("given_, kinds, want", [
    (dict(epochs=np.int64(3), dataset=np.str_("toy"), share=np.float32(.5)), dict(epochs=int, dataset=str, share=float), dict(epochs=3, dataset="toy", share=.5)),
    (dict(share=1), dict(share=float), dict(share=1.)), (dict(show="false"), dict(show=bool), dict(show=False)), (dict(models=("a", "b")), dict(models=list), dict(models=["a", "b"])),
    (dict(models="[a, b]", settings="{dim: 64}"), dict(models=list, settings=dict), dict(models=["a", "b"], settings=dict(dim=64)))])
def test_values_of_other_kinds(given_, kinds, want):
    p = check_parameters(given_, **kinds); p.pop("started")
    assert p == want and all(type(p[k]) is type(v) for k, v in want.items())


@pytest.mark.parametrize("given_, kinds", [(dict(epochs="many"), dict(epochs=int)), (dict(epochs=1.5), dict(epochs=int)), (dict(epochs=True), dict(epochs=int)), (dict(show="perhaps"), dict(show=bool)),
                                           (dict(models="milk"), dict(models=list)), (dict(settings="dim"), dict(settings=dict)), (dict(name=np.str_("x")), dict(dataset=str, name=int))])
def test_refusals_name_an_example_and_no_numpy(given_, kinds):
    given_.setdefault("dataset", "toy"); kinds = dict(dataset=str) | kinds
    with pytest.raises(UsageError, match="-p ") as e: check_parameters(given_, **kinds)
    assert "np." not in str(e.value)


@pytest.mark.parametrize("value", ["[title, 007]", "[null]", "{text: [title, 3]}", [1], dict(text=[None])])
def test_columns_are_texts(value):
    with pytest.raises(UsageError, match="text_columns holds .*in quotes"): check_columns(value)


def test_long_text_is_cut_or_split():
    assert [check_long_text(v) for v in ("cut", "split")] == ["cut", "split"]
    with pytest.raises(UsageError, match="long_text is 'mean'; say cut"): check_long_text("mean")
