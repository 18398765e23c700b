"`mamex reports`: what runs, what is skipped, what a failure leaves behind."
import functools, json, re, signal, subprocess, sys, time
from dataclasses import replace
import psutil, pytest
from mamex.vectors import choose
import mamex
from mamex.studies import regenerate
from mamex.datasets.folders import load_dataset, save_dataset

REPORT = "import os, pathlib\nfolder = pathlib.Path(os.environ['MAMEX_REPORTS']) / dataset\n(folder / '{}.json').write_text(encoder)"
MEET = """import time
(folder / '{0}.here').touch()
for _ in range(200):
    if (folder / '{1}.here').exists(): break
    time.sleep(.1)
else: raise RuntimeError('{1} never came')
assert os.environ['OMP_WAIT_POLICY'] == 'PASSIVE' and int(os.environ['OMP_NUM_THREADS']) >= 1"""
CHECKED = """from mamex.reports.parameters import check_parameters
check_parameters(globals(), dataset=str, encoder=str, wait=int)"""
# in place of papermill, where the question is only what runs: the report, and a notebook with its source in it
QUICK = """import json, pathlib, sys
source, output = map(pathlib.Path, sys.argv[1:])
(output.parent / f"{source.stem}.json").write_text("{}")
output.write_text(source.read_text())"""


def notebook(nbs, stem, *cells):
    from nbformat.v4 import new_code_cell, new_notebook
    import nbformat
    parameters = new_code_cell('dataset = "toy"; encoder = ""; wait = 0', metadata=dict(tags=["parameters"]))
    nbs.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=[parameters, *map(new_code_cell, cells)], metadata=dict(kernelspec=dict(
        name="python3", display_name="python3", language="python"))), nbs / f"{stem}.ipynb")


load = functools.cache(load_dataset)  # toy takes a second to draw


@pytest.fixture
def house(tmp_path, monkeypatch):
    "Empty folders for notebooks, reports and cache; where `project_root` looks, a project."
    for name in ("reports", "cache"): monkeypatch.setenv(f"MAMEX_{name.upper()}", str(tmp_path / name))
    monkeypatch.setattr(regenerate, "load_or_fetch", load)
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_name = mamex\n")
    (tmp_path / "nbs").mkdir()
    return tmp_path


@pytest.fixture
def call(house, capsys):
    "`main`, with the arguments as one text; gives (exit status, what it printed, what it complained of)."
    def f(line):
        status = regenerate.main(line.split(), house / "nbs")
        return status, *capsys.readouterr()
    return f


def names(folder): return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def quick(house, monkeypatch):
    "Notebooks run and audit, done in no time; gives the names of those that ran since it was asked last."
    ran = []
    def command(plan, stem, output):
        ran.append(stem)
        return [sys.executable, "-c", QUICK, str(plan.nbs / f"{stem}.ipynb"), str(output)]
    monkeypatch.setattr(regenerate, "command", command)
    for stem in ("run", "audit"): notebook(house / "nbs", stem, "1")
    return lambda: (sorted(ran), ran.clear())[0]


def test_a_failure_stops_nobody_else(house, call):
    "audit fails, run and sensitivity wait for each other, ablations is missing."
    notebook(house / "nbs", "audit", REPORT.format("half"), "def claim(): return 1 / 0", "claim()")
    notebook(house / "nbs", "run", REPORT.format("run"), MEET.format("run", "sensitivity"))
    notebook(house / "nbs", "sensitivity", REPORT.format("sensitivity"), MEET.format("sensitivity", "run"))
    status, out, _ = call("toy --only run,ablations,sensitivity,audit --jobs 2")
    assert status == 1, out
    assert re.search(r"^\d\d:\d\d audit failed after .+\n +ZeroDivisionError: division by zero\n +log: (.+)$", out, re.M), out
    assert "started · running: run, sensitivity · left: audit\n" in out
    assert re.search(r"ablations failed: .*ablations.ipynb is missing", out)
    assert out.strip().splitlines()[-1].endswith("failed: ablations, audit") and "Traceback" not in out
    reports = house / "reports" / "toy"
    assert names(reports) == ["half.json", "run.here", "run.ipynb", "run.json", "sensitivity.here", "sensitivity.ipynb", "sensitivity.json", "stamps.json"]
    assert names(house / "cache" / "logs") == ["toy-audit.log", "toy-audit.partial.ipynb", "toy-run.log", "toy-sensitivity.log"]
    stamps = json.loads((reports / "stamps.json").read_text())
    assert set(stamps) == {"run", "sensitivity"} and set(stamps["run"]) >= {"code", "data", "parameters", "minutes", "commit", "written"}
    assert stamps["run"]["parameters"] == {"dataset": "toy", "encoder": "auto"}
    assert str(house) not in json.dumps(json.loads((reports / "run.ipynb").read_text())["metadata"])


def test_an_unknown_parameter_fails_with_the_notebooks_words(house, call):
    "A report that stood there before stays as it was."
    notebook(house / "nbs", "run", CHECKED)
    (reports := house / "reports" / "toy").mkdir(parents=True)
    for name in ("run.ipynb", "run.json"): (reports / name).write_text("old")
    status, out, _ = call("toy --only run -p wiat 1")
    assert status == 1 and "      UsageError: unknown parameter 'wiat'; did you mean 'wait'?" in out, out
    assert names(reports) == ["run.ipynb", "run.json"] and all(p.read_text() == "old" for p in reports.iterdir())


def test_what_is_up_to_date_is_skipped(house, call, quick):
    go = lambda more="": (call(f"toy --only run,audit {more}"), quick())
    report = house / "reports" / "toy" / "run.json"
    assert go()[1] == ["audit", "run"]
    (status, out, _), ran = go()
    assert (status, ran) == (0, []) and "run is up to date" in out and "audit is up to date" in out
    notebook(house / "nbs", "run", "2"); assert go()[1] == ["run"]
    nb = json.loads((house / "nbs" / "run.ipynb").read_text())
    nb["cells"][-1]["outputs"] = [dict(output_type="stream", name="stdout", text="prose, not code")]
    (house / "nbs" / "run.ipynb").write_text(json.dumps(nb)); assert go()[1] == []
    assert go("-p wait 1")[1] == ["audit", "run"] and go("-p wait 1")[1] == []
    assert go("-p wait 1 --force")[1] == ["audit", "run"]
    report.unlink(); assert go("-p wait 1")[1] == ["run"]
    report.write_text("made by hand"); assert go("-p wait 1")[1] == ["run"]
    assert go("-p wait 1 -p encoder tiny")[1] == ["audit", "run"]
    (report.parent / "stamps.json").write_text("<<<<<<<"); assert go()[1] == ["audit", "run"]


def test_code_and_data_count(house, call, quick, monkeypatch):
    go = lambda: (call("toy --only run"), quick())[1]
    assert go() == ["run"] and go() == []
    other = replace(load("toy"), interactions=load("toy").interactions[1:])
    monkeypatch.setattr(regenerate, "load_or_fetch", lambda name: other); assert go() == ["run"] and go() == []
    notebook(house / "nbs", "run", "import mamex.gate"); assert go() == ["run"]
    package = house / "mamex"; package.mkdir()
    def write(**files):
        for n, s in files.items(): (package / f"{n}.py").write_text(s)
    write(__init__="", gate="k = 1", cli="import mamex.gate")
    monkeypatch.setattr(mamex, "__file__", str(package / "__init__.py")); assert go() == ["run"] and go() == []
    write(cli="import mamex.gate  # a remark", gate="'Experts.'\nk = 1  # as released"); assert go() == []
    write(gate="k = 2"); assert go() == ["run"] and go() == []


def test_a_notebook_that_writes_no_report_has_failed(house, call, quick, monkeypatch):
    monkeypatch.setattr(regenerate, "command", lambda plan, stem, output: [sys.executable, "-c", "pass"])
    status, out, _ = call("toy --only run")
    assert status == 1 and "it ended well, but wrote no report" in out


@pytest.mark.parametrize("line, sentence", [
    ("toy --only run,ablation", "there is no report notebook 'ablation' (did you mean 'ablations'?): choose among run, best, peers, ablations, sensitivity, audit, missing_modality, temporal_coldstart, cold_users, speed, outside, nights."),
    ("toi", "there is no dataset 'toi' (did you mean 'toy'?)"),
    ("toy --jobs 0", "jobs is 0; at least one"),
    ("toy -p out here", "out cannot be given with -p here: set MAMEX_REPORTS."),
    ("toy -p dataset toy", "dataset cannot be given with -p here"),
])
def test_wrong_usage(line, sentence, call, house):
    status, out, err = call(line)
    assert status == 2 and not out and err.startswith(sentence) and err.count("\n") == 1
    assert not (house / "reports").exists()


def test_a_folder_with_a_number_for_a_name(house, call, quick, monkeypatch):
    "The name goes to the notebook as text, the reports under it; the stamp does not tell where the folder lies."
    for name, there in dict(default_is_here=False, hub_answers=False, has_offline=True).items(): monkeypatch.setattr(choose, name, lambda there=there: there)
    folder = save_dataset(load("toy"), house / "2018")
    status, out, _ = call(f"{folder} --only run")
    assert status == 0 and "encoder offline (the model hub does not answer" in out
    stamp = (house / "reports" / "2018" / "stamps.json").read_text()
    assert json.loads(stamp)["run"]["parameters"] == {"dataset": "2018", "encoder": "offline"} and str(house) not in stamp
    plan, _ = regenerate.make_plan(folder, {}, house / "nbs")
    assert plan.data == json.loads(stamp)["run"]["data"]


def test_a_budget_is_told_before_and_shared(house, call, quick):
    "Half of it for each of two notebooks, whole folds at a time; one that has no folds is left out and named."
    for stem in ("run", "audit"): notebook(house / "nbs", stem, "budget_h: float = 0.0")
    notebook(house / "nbs", "temporal_coldstart", "1")
    row = dict(verdict="open", needs=4, folds=10)
    (house / "reports" / "toy").mkdir(parents=True)
    (house / "reports" / "toy" / "audit.json").write_text(json.dumps(dict(verdicts=dict(flips={"sparse gate": row}), card=dict(all_train_s=900, trained_runs=10))))
    status, said, _ = call("toy --only run,audit,temporal_coldstart --budget 4h --jobs 1")
    assert status == 0 and quick() == ["audit", "run"]
    assert "run, 2 h: no report over folds yet" in said and "audit, 2 h: will decide flips: sparse gate (4 folds, 12 min)" in said
    assert said.index("will decide") < said.index("run started") and "temporal_coldstart is left out: it has no folds to stop after" in said
    stamps = json.loads((house / "reports" / "toy" / "stamps.json").read_text())
    assert stamps["run"]["parameters"] == {"dataset": "toy", "encoder": "auto", "permutations": "8", "budget_h": "2.0"}
    assert call("toy --only run,audit --budget 4h --jobs 1")[0] == 0 and quick() == []


@pytest.mark.parametrize("budget", ["4", "h", "-1h", "0m", "soon"])
def test_a_budget_that_is_none(call, quick, budget):
    status, _, said = call(f"toy --only run --budget={budget}")
    assert status == 2 and "--budget 4h" in said and quick() == []


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to send")
def test_told_to_stop(house):
    "The command line itself; stopped in the middle, nothing runs on and nothing half-written stays."
    notebook(house / "nbs", "run", "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)")
    p = subprocess.Popen([sys.executable, "-m", "mamex.cli", "reports", "toy", "--only", "run"], cwd=house, stdout=subprocess.PIPE, text=True)
    for _ in range(300):
        if (pid := house / "pid").exists() and pid.read_text(): break
        assert p.poll() is None; time.sleep(.1)
    kernel, papermill = psutil.Process(int(pid.read_text())), psutil.Process(p.pid).children()
    p.send_signal(signal.SIGTERM)
    out, _ = p.communicate(timeout=30)
    assert p.returncode == 130 and "stopped; a notebook that was not done keeps its old report" in out
    assert papermill and not any(q.is_running() for q in [kernel, *papermill])
    assert names(house / "reports" / "toy") == []
