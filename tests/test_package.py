"The package: what `fit` and `recommend` need is its requirements, and what notebooks need is an extra."
import ast, os, re, subprocess, sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from conftest import ROOT

CFG = ConfigParser(delimiters=["="], interpolation=None)
CFG.read(ROOT / "settings.ini", encoding="utf-8")
HOUSE = ROOT / "mamex"
# rooms that an index's user reaches by the command; studies and reports come with the extra `notebooks`
CORE = [p for p in sorted(HOUSE.rglob("*.py")) if p.relative_to(HOUSE).parts[0] not in ("studies", "reports", "_modidx.py")]
DISTRIBUTION = {"PIL": "pillow", "open_clip": "open-clip-torch", "yaml": "pyyaml", "IPython": "ipython"}  # where names differ


def asked(key: str) -> set:
    "The names of a list of requirements."
    return {re.split(r"[<>=!~\[]", w)[0].lower().replace("_", "-") for w in CFG["DEFAULT"][key].split()}


def foreign(path: Path) -> set:
    "The distributions that a module imports, wherever in it."
    found = set()
    for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(n, ast.Import): found |= {a.name.split(".")[0] for a in n.names}
        elif isinstance(n, ast.ImportFrom) and not n.level and n.module: found.add(n.module.split(".")[0])
    found -= set(sys.stdlib_module_names) | {"mamex"}
    return {DISTRIBUTION.get(m, m).lower().replace("_", "-") for m in found}


@pytest.mark.parametrize("path", CORE, ids=lambda p: p.relative_to(HOUSE).as_posix())
def test_what_the_core_imports_is_required(path): assert foreign(path) <= asked("requirements")


def test_what_studies_import_is_required_or_in_the_extra():
    every = {d for p in HOUSE.rglob("*.py") if p.name != "_modidx.py" for d in foreign(p)}
    assert every - asked("requirements") <= asked("notebooks_requirements") | {"ipython"}  # which jupyterlab brings


def test_nothing_is_required_that_nobody_imports():
    every = {d for p in CORE for d in foreign(p)}
    assert asked("requirements") <= every | {"torchvision"}


def test_the_command_knows_what_the_extra_brings():
    from mamex.cli import NOTEBOOKS
    named = {DISTRIBUTION.get(m, m).lower() for m in NOTEBOOKS}
    assert named <= asked("notebooks_requirements") | {"ipython"}
    every = {d for p in HOUSE.rglob("*.py") if p.name != "_modidx.py" for d in foreign(p)}
    assert every - asked("requirements") <= named


BLOCK = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = staticmethod(lambda name, *a: None if name.split(".")[0] in {names!r} else find(name, *a))
"""
ABSENT = {"matplotlib", "optuna", "papermill", "nbformat", "psutil", "threadpoolctl", "yaml", "IPython", "ipywidgets", "jupyterlab",
          "nbdev", "execnb", "pytest", "sklearn", "skimage", "jupyter_book", "playwright"}


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    "A working folder, and a command that runs where nothing but the requirements can be imported."
    folder = tmp_path_factory.mktemp("bare")
    (folder / "sitecustomize.py").write_text(BLOCK.format(names=ABSENT))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}

    def mamex(*words):
        command = [sys.executable, "-m", "mamex.cli", *map(str, words)]
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert "No module named 'yaml'" in subprocess.run(
        [sys.executable, "-c", "import yaml"], cwd=folder, env=env, capture_output=True, text=True).stderr
    return mamex


@pytest.mark.slow
def test_fit_and_recommend_need_the_requirements_alone(bare):
    for words in (["--help"], ["--version"], ["check", "toy"], ["fit", "toy", "--encoder", "tiny", "--to", "m"],
                  ["recommend", "m", "--users", "u0001", "--k", "3", "--among", "all", "--html", "p.html"], ["explain", "m", "i0007"]):
        done = bare(*words)
        assert done.returncode == 0, (words, done.stdout[-500:], done.stderr[-2000:])


@pytest.mark.parametrize("words", [["reports", "toy"], ["reports", "--help"]], ids=" ".join)
def test_what_needs_the_extra_says_so(bare, words):
    done = bare(*words)
    assert done.returncode == 2 and "pip install 'mamex[notebooks]'" in done.stderr and "Traceback" not in done.stderr


def test_the_wheel_names_its_extras(wheel):
    import zipfile
    with zipfile.ZipFile(wheel) as z:
        meta = next(z.read(n).decode() for n in z.namelist() if n.endswith(".dist-info/METADATA"))
        assert {"mamex/house.mplstyle", "mamex/recommender/page.css"} <= set(z.namelist())
    for extra in ("notebooks", "dev", "offline", "book"): assert f"Provides-Extra: {extra}" in meta
    for line in ("Name: mamex", "Requires-Python: >=3.11", "Description-Content-Type: text/markdown"): assert line in meta, line
    assert re.search(r"^License(-Expression)?: Apache-2.0$", meta, re.M)
    assert "Requires-Dist: torch" in meta and re.search(r"Requires-Dist: matplotlib[^;]*; extra == .notebooks.", meta)
