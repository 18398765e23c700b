"`run.ipynb` through papermill as users call it: parameters refused, data that is broken, the same numbers twice."
import json, os, subprocess, sys
from pathlib import Path
import pandas as pd, pytest
from conftest import ROOT
from mamex.datasets import load_dataset, save_dataset

QUICK = ["-p", "epochs", "3", "-p", "seeds", "0"]


def papermill(*args, cwd=ROOT, **env):
    "The command line, from the project's root; returns (exit status, everything it printed)."
    p = subprocess.run([Path(sys.executable).parent / "papermill", "--no-progress-bar", "nbs/run.ipynb", *map(str, args)],
                       cwd=cwd, capture_output=True, text=True, env=os.environ | env)
    return p.returncode, p.stdout + p.stderr


@pytest.mark.parametrize("parameters, sentence", [
    (["-p", "datset", "toy"], "UsageError: unknown parameter 'datset'; did you mean 'dataset'?"),
    (["-p", "dataset", "sports"], "UsageError: "),
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
        assert (tmp_path / str(n) / "README.md").read_text().count("mamex/released")
    for part in ("val", "test", "val_own", "test_own", "compare", "history"): assert reports[0][part] == reports[1][part]
    r = reports[0]
    assert set(r["test"]) == {"random", *(f"{f}/{m}" for f in ("presence", "profile", "ridge") for m in ("image", "text", "all")), "mamex/released"}
    for s in r["test"].values():
        for m in s.values(): assert set(m) == {"mean", "sd", "ci95"} and m["ci95"][0] <= m["mean"] <= m["ci95"][1]
    assert r["card"]["seeds"] == [0] and r["card"]["dataset"]["users"] == 300
    assert {p.name for p in (tmp_path / "0" / "toy").iterdir()} == {"run.json", "run.md", *(f"run_{f}.png" for f in ("results", "curves", "alpha", "experts"))}


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
                             "-p", "epochs", "2", "-p", "seeds", "0", "-p", "show_gallery", "False")
    assert status == 0, text[-3000:]
    card = json.loads((tmp_path / "r" / "run.json").read_text())["card"]
    assert [card["dataset"][k] for k in ("users", "items", "interactions")] == [610, 3650, 90274]
    assert card["features"]["counts"]["image"]["present"] == 3629
