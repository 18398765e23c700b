"""Every notebook runs top to bottom, its shown cells against the module that users import.

`nbdev_test` runs the notebooks as they stand, export cells included. Here the export cells are skipped and their names come
from `mamex`, so that each assertion of the story also holds for the exported code.
"""
import importlib, re
from pathlib import Path
import matplotlib.pyplot as plt, nbformat, pytest
from execnb.shell import CaptureShell
from execnb.nbio import read_nb
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))


def story(path: Path) -> tuple[str | None, list[str]]:
    "The module that a notebook exports, and the sources of the code cells that it does not export."
    code = [c.source for c in read_nb(path).cells if c.cell_type == "code"]
    module = next((m[1] for c in code if (m := re.search(r"^#\| default_exp (\S+)", c, re.M))), None)
    skip = re.compile(r"^#\| *(export|exporti|exports|default_exp|eval: *false)", re.M)
    return module, [c for c in code if not skip.search(c)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook(path, monkeypatch):
    monkeypatch.chdir(path.parent)  # as Jupyter and nbdev_test do
    module, cells = story(path)
    shell = CaptureShell(mpl_format=None)
    if module:
        mod = importlib.import_module(f"mamex.{module}")
        shell.user_ns.update({k: v for k, v in vars(mod).items() if not k.startswith("__")})
    for n, source in enumerate(cells):
        shell.run(source)
        if shell.exc: pytest.fail(f"{path.name}, shown cell {n}:\n{source}\n\n{shell.exc!r}")
    plt.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
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
    tagged = [c for c in code if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == (0 if exports or path.stem == "index" else 1)
