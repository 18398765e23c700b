"The house: imports run one way, rooms are small, a wheel holds every wing."
import ast, shutil, subprocess, sys, venv
from pathlib import Path
import pytest
from conftest import ROOT

STREET = ("base", "datasets", "vectors", "kernels", "protocol", "extractor", "adapters", "gate", "losses", "model", "experts", "tastes",
          "solved", "trainer", "extensions", "rivals", "reports", "recommender", "studies", "cluster", "cli")
HOUSE = ROOT / "mamex"
MODULES = [p for p in sorted(HOUSE.rglob("*.py")) if p.name != "_modidx.py" and p != HOUSE / "__init__.py"]


def imports(path: Path, root: Path) -> set[str]:
    "Full names, without the package's, of what a module imports of ours, wherever in it."
    here, out = path.relative_to(root).with_suffix("").parts, set()
    for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(n, ast.ImportFrom):
            full = (here[:len(here) - n.level] if n.level else ()) + tuple((n.module or "").split(".") if n.module else ())
            if not n.level and full[:1] != ("mamex",): continue
            full = full if n.level else full[1:]
            for a in n.names:  # `from .reports import words` names a module as well
                whole = (*full, a.name)
                inside = root.joinpath(*whole).with_suffix(".py").is_file() or root.joinpath(*whole, "__init__.py").is_file()
                out.add(".".join(whole if inside else full))
        elif isinstance(n, ast.Import): out |= {a.name.removeprefix("mamex.") for a in n.names if a.name.startswith("mamex.")}
    return out - {""}


def room(name: str) -> int: return STREET.index(name.split(".")[0])


def up(root: Path) -> list[str]:
    "Imports that run against the street."
    return [f"{p.relative_to(root)} imports {x}" for p in sorted(root.rglob("*.py")) if p.name != "_modidx.py" and p != root / "__init__.py"
            for x in sorted(imports(p, root)) if x.split(".")[0] in STREET and room(x) > STREET.index(p.relative_to(root).parts[0].removesuffix(".py"))]


def circles(root: Path) -> list[str]:
    "Ways from a module back to itself; the faces of the wings are left out, which import what stands behind them."
    name = lambda p: ".".join(p.relative_to(root).with_suffix("").parts)
    to = {name(p): imports(p, root) for p in sorted(root.rglob("*.py")) if p.name not in ("_modidx.py", "__init__.py")}
    found, done = [], set()
    def walk(n, way):
        if n in way: found.append(" → ".join([*way[way.index(n):], n])); return
        if n in done or n not in to: return
        for x in sorted(to[n]): walk(x, [*way, n])
        done.add(n)
    for n in to: walk(n, [])
    return found


def test_imports_run_one_way(): assert not up(HOUSE)


def test_there_is_no_circle(): assert not circles(HOUSE)


@pytest.mark.parametrize("line", ["from .cli import main", "def f():\n    from .cli import main", "from . import cli", "import mamex.cli", "def f():\n    import mamex.cli as c"])
def test_an_arrow_up_the_street_is_seen(tmp_path, line):
    (tmp_path / "losses.py").write_text(line); (tmp_path / "cli.py").write_text("from .losses import f")
    assert up(tmp_path) == ["losses.py imports cli"]
    assert bool(circles(tmp_path))


def test_the_ground_floor_has_twelve_rooms_and_nine_wings():
    there = {p.name.removesuffix(".py") for p in HOUSE.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()} - {"__init__", "_modidx"}
    assert there == set(STREET)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(HOUSE).as_posix())
def test_no_module_is_too_large(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(HOUSE).as_posix())
def test_lines_are_short_and_nothing_is_defined_twice(path):
    text = path.read_text(encoding="utf-8")
    wide = [l for l in text.splitlines() if len(l) > 120 and not l.startswith("__all__ = ")]  # that line nbdev writes itself
    assert not wide, wide[:2]
    of = lambda n: ast.unparse(n.args.args[0].annotation or ast.Constant("")) if isinstance(n, ast.FunctionDef) and n.decorator_list and n.args.args else ""
    names = [(n.name, of(n)) for n in ast.parse(text).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    assert len(names) == len(set(names)), sorted({n for n in names if names.count(n) > 1})


def test_the_paper_is_read_in_a_sitting():
    rooms = ("extractor", "adapters", "gate", "losses", "model", "trainer")
    assert sum(len((HOUSE / f"{r}.py").read_text(encoding="utf-8").splitlines()) for r in rooms) <= 950


def test_a_wheel_holds_every_wing(wheel, tmp_path):
    "Built from the checkout and unpacked into an environment that has nothing else of ours."
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    home = tmp_path / "empty"
    venv.create(home, with_pip=False)
    site = next((home / "lib").glob("python*")) / "site-packages"
    subprocess.run([*pip, "install", "-q", "--no-deps", "--no-index", "--target", str(site), str(wheel)], check=True, capture_output=True)
    (site / "others.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")))  # what mamex requires
    names = [".".join(("mamex", *p.relative_to(HOUSE).with_suffix("").parts)).removesuffix(".__init__") for p in MODULES]
    code = f"import importlib, mamex; assert {str(site)!r} in mamex.__file__; [importlib.import_module(n) for n in {names}]"
    run = lambda *a: subprocess.run([str(home / "bin" / "python"), "-P", *a], cwd=tmp_path, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)})
    done = run("-c", code)
    assert not done.returncode, done.stderr
    done = run("-m", "mamex.cli", "--help")
    assert not done.returncode and "recommend" in done.stdout, done.stderr


def test_command_and_shop_load_no_extra():
    "In a fresh process; what reports and notebooks need is loaded where they begin."
    code = "import sys, mamex.cli, mamex.recommender, mamex.extractor; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert {"mamex", "torch"} <= loaded, done.stderr
    assert not loaded & {"matplotlib", "optuna", "papermill", "ipywidgets", "IPython", "nbdev", "nbformat", "psutil", "ray", "yaml"}
