"""Every notebook runs once, top to bottom, by the function behind `nbdev_test`, and its story holds for the module that users import.

`nbdev_test` runs a notebook as it stands, export cells included, so that the story is told by the notebook's own definitions.
Here each export cell runs as well; then the names that it defined are replaced by those of `mamex`. What the notebook shows and
asserts after that, it shows and asserts of the exported module, and a name that is used before its cell still fails.
"""
import ast, importlib, re
from pathlib import Path
import matplotlib.pyplot as plt, nbdev.test, nbformat, pytest
from execnb.shell import CaptureShell
from conftest import ROOT

NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
name_of = lambda path: path.relative_to(ROOT / "nbs").with_suffix("").as_posix()
WIDE = set()  # still have lines above 120 characters; whoever breaks the last one takes the name away
ALONE = {"cluster/2_tasks"}  # start a cluster
EXPORTS = {"export", "exporti", "exports"}


def defined(source: str) -> set[str]:
    "The names that a cell binds at its top level."
    out = set()
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): out.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)): out |= {(a.asname or a.name).split(".")[0] for a in node.names}
        else: out |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return out


def methods(module) -> dict[type, dict]:
    "What the classes of mamex hold that a module knows."
    return {c: dict(vars(c)) for c in vars(module).values() if isinstance(c, type) and c.__module__.startswith("mamex.")}


def of_a_cell(method) -> bool:
    "Was it defined in a notebook? A module that a cell imports may patch a class as well, and that stays."
    f = next((g for k in ("fget", "__func__", "func") if (g := getattr(method, k, None))), method)
    return not getattr(f, "__module__", "").startswith("mamex.")


def give_back(before: dict[type, dict]):
    "Undo what a cell's `@patch` set in classes of the module: the module's own methods stay, for this story and for other tests."
    for c, had in before.items():
        for k, v in list(vars(c).items()):
            kept = k.startswith("_orig_") and k not in had  # where `@patch` keeps what it replaces
            if v is had.get(k) or not (kept or of_a_cell(v)): continue
            setattr(c, k, had[k]) if k in had else delattr(c, k)


class Story(CaptureShell):
    "The shell of `nbdev_test`; what an export cell defined is taken from the module."
    module, failure, taken = None, None, set()

    def __init__(self, path, **kw):
        super().__init__(path, mpl_format=None, **kw)  # no figure is looked at
        Story.module, Story.failure, Story.taken = None, None, set()

    def cell(self, cell, **kw):
        before = methods(Story.module) if Story.module else {}
        super().cell(cell, **kw)
        give_back(before)
        if self.exc: Story.failure = f"cell {cell.idx_}:\n{cell.source}\n\n{self.exc!r}"; return
        directives = getattr(cell, "directives_", {})
        if name := directives.get("default_exp"): Story.module = importlib.import_module(f"mamex.{name[0]}")
        if "parameters" in cell.metadata.get("tags", []): self.user_ns["quick"] = True  # as `papermill -p quick True`
        if Story.module and EXPORTS & directives.keys():
            ours = {n: getattr(Story.module, n) for n in defined(cell.source) if hasattr(Story.module, n)}
            self.user_ns.update(ours); Story.taken |= ours.keys()


@pytest.mark.parametrize("path", [pytest.param(p, marks=[pytest.mark.alone] * (name_of(p) in ALONE), id=name_of(p)) for p in NOTEBOOKS])
def test_notebook(path, monkeypatch):
    monkeypatch.setattr(nbdev.test, "CaptureShell", Story)
    done, _ = nbdev.test.test_nb(path, skip_flags=["notest"], showerr=False)
    plt.close("all")
    assert done, f"{path.name}, {Story.failure}"
    assert Story.module is None or Story.taken >= set(getattr(Story.module, "__all__", ())) - {"main"}, "exported, but not taken"


def test_a_story_is_told_of_the_module(tmp_path, monkeypatch):
    "A definition that differs from the exported one is not what the story sees; one that is used before its cell is not there."
    monkeypatch.setattr(nbdev.test, "CaptureShell", Story)
    cells = ["#| default_exp gate", "#| export\ndef fuse(*a): return 'not the module'", "from mamex import gate\nassert fuse is gate.fuse"]
    for n, sources in enumerate((cells, cells[:1] + cells[2:])):
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
        nbformat.write(nb, path := tmp_path / f"{n}.ipynb")
        done, _ = nbdev.test.test_nb(path, showerr=False)
        assert done == (n == 0) and (done or "NameError" in Story.failure)


def test_a_story_leaves_the_module_as_it_was(tmp_path, monkeypatch):
    "A method that a cell patches into a class of the module is gone when the cell is through."
    from mamex.extractor import Extractor
    monkeypatch.setattr(nbdev.test, "CaptureShell", Story)
    was = dict(vars(Extractor))
    cells = ["#| default_exp extractor", "#| export\nfrom fastcore.basics import patch\nfrom mamex.extractor import Extractor",
             "#| export\n@patch\ndef extract(self: Extractor): return 'not the module'\n@patch\ndef new(self: Extractor): pass",
             "assert Extractor.extract.__module__ == 'mamex.extractor' and not hasattr(Extractor, 'new')"]
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in cells]), path := tmp_path / "0.ipynb")
    done, _ = nbdev.test.test_nb(path, showerr=False)
    assert done and vars(Extractor) == was, Story.failure


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_house_rules(path):
    "Small, with a title, with stored outputs, papermill notebooks with one parameters cell, short export cells."
    nb = nbformat.read(path, 4)
    assert path.stat().st_size < 250_000
    assert re.match(r"# .+\n+> .+", nb.cells[0].source), "a title and a one-line subtitle come first"
    code = [c for c in nb.cells if c.cell_type == "code"]
    assert any(c.outputs for c in code) or path.stem == "index", "notebooks are stored with their outputs"
    assert not any(o.output_type == "error" for c in code for o in c.outputs)
    exports = [len(c.source.splitlines()) - 1 for c in code if c.source.startswith("#| export")]
    if exports: assert sorted(exports)[len(exports) // 2] < 15, f"median export cell has {sorted(exports)[len(exports) // 2]} lines"
    wide = [l for c in code for l in c.source.splitlines() if len(l) > 120]
    assert bool(wide) == (name_of(path) in WIDE), f"lines above 120 characters: {wide[:3]}"
    tagged = [c for c in code if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == (0 if exports or path.stem == "index" else 1)
