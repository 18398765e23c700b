"The workflows call make targets and nothing else, with the least rights; a release is built from what a checkout has."
import os, re, shutil, subprocess, sys, tarfile, tomllib, zipfile
from pathlib import Path

import pytest, yaml
from conftest import ROOT
import tag

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.y*ml"))
READ = {p.stem: yaml.safe_load(p.read_text(encoding="utf-8")) for p in WORKFLOWS}
ON = {n: w[True] for n, w in READ.items()}  # YAML 1.1 reads the word `on` as true
JOBS = {(n, j): job for n, w in READ.items() for j, job in w["jobs"].items()}
STEPS = [(f"{n}/{j}", s) for (n, j), job in JOBS.items() for s in job["steps"]]
RUNS = [(at, s["run"]) for at, s in STEPS if "run" in s]
USES = [(at, s["uses"]) for at, s in STEPS if "uses" in s]
# what a job may do beyond reading the repository: publish the site, and prove which workflow it is
WRITES = {("book", "deploy"): {"pages": "write", "id-token": "write"}, ("release", "publish"): {"id-token": "write"}}


def actionlint() -> str | None:
    "Beside this Python, or on the PATH."
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    return shutil.which("actionlint", path=os.pathsep.join(places))


linted = pytest.mark.skipif(not actionlint(), reason="actionlint is absent; the extra `dev` brings it")


def lint(path: Path):
    return subprocess.run([actionlint(), "-no-color", str(path)], capture_output=True, text=True, cwd=ROOT)


def targets() -> set[str]:
    "Of the Makefile."
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


def why_not(run: str) -> str:
    "What is wrong with a `run:`, or nothing."
    words = run.split()
    if "\n" in run.strip() or not re.fullmatch(r"[\w ./=-]+", run.strip()): return "more than one command"
    if words[:1] != ["make"] or len(words) < 2: return "no make"
    if words[1] not in targets(): return f"no target {words[1]}"
    if words[2:] != ["PYTHON=python"]: return "make is not given the Python of setup-python"
    return ""


def test_the_three_workflows_are_there(): assert set(READ) == {"test", "book", "release"}


@linted
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_actionlint_passes(path):
    done = lint(path)
    assert done.returncode == 0, done.stdout + done.stderr


@linted
def test_actionlint_sees_a_mistake(tmp_path):
    "An input that upload-artifact does not know, and a job that needs one that is not there."
    text = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    for n, (was, now) in enumerate([("if-no-files-found", "if-no-file"), ("needs: build", "needs: bild")]):
        assert was in text
        (at := tmp_path / f"{n}.yml").write_text(text.replace(was, now), encoding="utf-8")
        assert lint(at).returncode == 1


@pytest.mark.parametrize("at, run", RUNS, ids=[f"{a}-{r.strip()[:40]}" for a, r in RUNS])
def test_a_step_calls_make_and_nothing_else(at, run): assert not why_not(run), f"{at}: {why_not(run)}: {run}"


@pytest.mark.parametrize("run", [
    "pip install x", "make tests PYTHON=python", "make test PYTHON=python && rm x", "make test",
    "make test PYTHON=python\nmake book PYTHON=python", "make dist PYTHON=python TAG=${{ github.ref_name }}"])
def test_another_step_is_refused(run): assert why_not(run)


def test_each_workflow_does_its_work():
    made = {at: run.split()[1] for at, run in RUNS}
    assert made == {"test/test": "test", "test/notebooks": "notebooks", "book/build": "book", "release/build": "dist"}
    words = ["make", "-n", *sorted(set(made.values())), "PYTHON=python"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_pythons_and_systems():
    "From the oldest that pyproject.toml allows, without a gap, on Linux and macOS."
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    least = re.fullmatch(r">=3\.(\d+)", project["requires-python"])
    matrix = JOBS["test", "test"]["strategy"]["matrix"]
    assert matrix["python"] == [f"3.{n}" for n in range(int(least[1]), 14)]
    assert matrix["os"] == ["ubuntu-latest", "macos-latest"]
    for at, s in STEPS:
        if "setup-python" not in s.get("uses", ""): continue
        assert s["with"]["python-version"] in (f"3.{least[1]}", "${{ matrix.python }}"), at
        assert s["with"]["cache"] == "pip", at
        assert s["with"]["cache-dependency-path"].split() == ["constraints.txt", "settings.ini"], at


def test_when_they_run():
    for n in ("test", "book"): assert set(ON[n]) == {"push", "pull_request"} and ON[n]["push"] == {"branches": ["main"]}
    assert ON["release"] == {"push": {"tags": ["v*"]}}


@pytest.mark.parametrize("name", READ)
def test_rights_are_declared_and_small(name):
    w = READ[name]
    assert w["permissions"] == {"contents": "read"} and w["concurrency"]["group"].startswith(f"{name}-")
    for j, job in w["jobs"].items():
        assert job.get("permissions", {}) == WRITES.get((name, j), {}), f"{name}/{j}"
        assert 0 < job["timeout-minutes"] <= 90, f"{name}/{j} may hang"
        if (name, j) in WRITES:  # such a job runs nothing of the repository, and none of a pull request
            assert not [s for s in job["steps"] if "run" in s or "checkout" in s["uses"]] and job["environment"]
            assert job.get("if") == "github.event_name == 'push'" or "pull_request" not in ON[name]
    for at, s in STEPS:
        if "checkout" in s.get("uses", ""): assert s["with"]["persist-credentials"] is False, at


@pytest.mark.parametrize("at, action", USES, ids=[f"{a}-{u}" for a, u in USES])
def test_actions_are_pinned(at, action):
    owner, version = action.split("/")[0], action.partition("@")[2]
    assert owner in ("actions", "pypa") and re.fullmatch(r"v\d+(\.\d+)*|release/v\d+|[0-9a-f]{40}", version)


# a release

@pytest.mark.parametrize("given, right", [("", True), ("v1.2.3", True), ("1.2.3", False), ("v1.2.4", False),
                                          ("v1.2.3rc1", False)])
def test_a_tag_is_the_version(tmp_path, given, right):
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nversion = 1.2.3\nneeds = a>=1\n")
    said = tag.differs(given, tmp_path / "settings.ini")
    assert not said if right else f"the tag is {given}" in said and "tag v1.2.3" in said


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_make_dist_refuses_another_tag(how, tmp_path):
    "Before anything is made; a tag that is shell is text."
    odd = f"v9;touch${{IFS}}{tmp_path}/x;$(touch {tmp_path}/y)"
    env = {k: v for k, v in os.environ.items() if k not in ("TAG", "MAKEFLAGS", "MAKELEVEL")}
    words = ["make", "dist", f"PYTHON={sys.executable}", f"TOOLS={tmp_path}/tools"]
    if how == "argument": words.append("TAG=v9.9.9")
    else: env["TAG"] = odd
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and f"tag is {odd if how == 'environment' else 'v9.9.9'}, the version" in done.stderr
    assert not list(tmp_path.iterdir())


PACKAGED = ("mamex", "tests", "README.md", "settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE",
            "CHANGELOG.md", "CITATION.cff", "constraints.txt")


def build(cwd: Path, what: str, to: Path) -> Path:  # what: sdist or wheel
    "By setuptools, as a build in isolation does."
    code = f"import sys; from setuptools import build_meta as b; print(b.build_{what}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(to)], cwd=cwd, check=True, capture_output=True, text=True)
    return to / done.stdout.split()[-1]


def test_a_source_distribution_builds_a_wheel(tmp_path):
    "setup.py reads settings.ini, so that it has to be in the archive; the wheel of it is the wheel of the checkout."
    src = tmp_path / "src"
    src.mkdir()
    for name in PACKAGED: (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, src / name)
    with tarfile.open(build(src, "sdist", tmp_path)) as t: t.extractall(tmp_path / "out", filter="data")
    (inside,) = (tmp_path / "out").iterdir()
    assert inside.name == f"mamex-{tag.version(ROOT / 'settings.ini')}" and not (inside / "tests").exists()
    ours, theirs = (set(zipfile.ZipFile(build(d, "wheel", tmp_path)).namelist()) for d in (src, inside))
    assert ours == theirs and {"mamex/house.mplstyle", "mamex/__init__.py"} <= ours
