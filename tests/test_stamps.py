"Stamps follow imports and syntax trees: remarks, moves and strangers change nothing; an operator changes what reaches it."
import ast, re
from pathlib import Path
import pytest
from hypothesis import given, strategies as st
import mamex
from mamex.studies.regenerate import ASIDE, NOTEBOOKS
from mamex.studies.stamps import BYSTANDERS, code_cells, not_followed, stale
from mamex.base import bare_code, digest, reached, stamp_of
from mamex.trainer import FEEDS
from conftest import ROOT

PACKAGE = Path(mamex.__file__).parent
MODULES = [p for p in sorted(PACKAGE.rglob("*.py")) if p.name not in ("_modidx.py", "__init__.py")]


def remarked(source):
    "The source with a comment on every logical line's end where one can stand, and longer docstrings."
    tree = ast.parse(source)
    ends = {n.end_lineno for n in ast.walk(tree) if isinstance(n, ast.stmt)}
    lines = source.split("\n")
    inside = {k for n in ast.walk(tree) if isinstance(n, (ast.Constant, ast.JoinedStr)) and n.end_lineno > n.lineno
              for k in range(n.lineno, n.end_lineno + 1)}
    return "\n".join(l + ("  # a remark" if k in ends and k not in inside else "") for k, l in enumerate(lines, 1))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_remarks_and_docstrings_do_not_count(path):
    source = path.read_text(encoding="utf-8")
    other = remarked(source)
    assert other.count("# a remark") > 5
    assert bare_code(other) == bare_code(source) != source
    assert bare_code('"Another first line."\n' + re.sub(r'\A""".*?"""', "", source, flags=re.S)) == bare_code(source)


@pytest.fixture
def copy(tmp_path):
    import shutil
    return Path(shutil.copytree(PACKAGE, tmp_path / "mamex", ignore=shutil.ignore_patterns("__pycache__")))


def stamps(root):
    return {n: stamp_of(code_cells(ROOT / "nbs" / f"{n}.ipynb"), root, not_followed(Path(n))) for n in NOTEBOOKS + ASIDE}


def change(root, name, old, new):
    f = root / name
    text = f.read_text(encoding="utf-8")
    assert old in text
    f.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_remark_in_the_command_makes_nothing_stale(copy):
    before = stamps(copy)
    (copy / "cli.py").write_text((copy / "cli.py").read_text() + "\n# a remark\n")
    assert stamps(copy) == before
    (copy / "cli.py").write_text((copy / "cli.py").read_text() + "\nprint('not a remark')\n")
    assert stamps(copy) == before  # no report reaches the command


def test_an_operator_in_the_losses_makes_stale_what_trains(copy):
    before, root = stamps(copy), copy
    looks = ["from mamex.protocol.metrics import evaluate"]  # ranks, and trains nothing
    was = stamp_of(looks, root)
    f = root / "losses.py"
    tree = ast.parse(f.read_text(encoding="utf-8"))
    op = next(n for n in ast.walk(tree) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Sub))
    op.op = ast.Add()
    f.write_text(ast.unparse(tree), encoding="utf-8")
    after = stamps(root)
    trains = {n for n in after if any(p.name == "losses.py" for p in reached(code_cells(ROOT / "nbs" / f"{n}.ipynb"), root, BYSTANDERS))}
    assert {n for n in after if after[n] != before[n]} == trains == set(after)
    assert stamp_of(looks, root) == was


def test_a_module_that_moves_keeps_the_stamp(copy):
    "losses.py into a folder, with its imports and those of others written anew: the same code, the same stamps."
    before = stamps(copy)
    (copy / "paper").mkdir(); (copy / "paper" / "__init__.py").write_text("")
    text = (copy / "losses.py").read_text(encoding="utf-8")
    (copy / "paper" / "losses.py").write_text(re.sub(r"^from \.(\w)", r"from ..\1", text, flags=re.M), encoding="utf-8")
    (copy / "losses.py").unlink()
    for p in copy.rglob("*.py"):
        t = re.sub(r"from (\.+)losses import", r"from \1paper.losses import", p.read_text(encoding="utf-8"))
        p.write_text(t, encoding="utf-8")
    assert not [p for p in copy.rglob("*.py") if re.search(r"from \.+losses|import losses", p.read_text(encoding="utf-8"))]
    assert stamps(copy) == before


def test_a_run_is_keyed_by_what_trains_alone(copy):
    key = lambda: stamp_of(["import mamex.trainer"], copy, FEEDS)
    before = key()
    for name in ("cli", "reports/words", "recommender/core", "datasets/core", "vectors/towers", "extractor"): (copy / f"{name}.py").write_text("x = 1\n")
    assert key() == before
    change(copy, "gate.py", "def ", "x = 3\ndef ")
    assert key() != before


@given(st.text(max_size=60))
def test_what_is_no_python_counts_as_it_stands(text):
    "A cell with a magic command, or a broken one, has a stamp as well, and two of them have two."
    broken = f"%%magic\n{text}"
    assert bare_code(broken) == broken and stamp_of([broken], PACKAGE) != stamp_of([broken + "x"], PACKAGE)


def test_stamps_from_many_threads():
    "Two workers of a search ask for run keys at the same time; a pause of the garbage collection lets another thread in."
    import gc, time
    from concurrent.futures import ThreadPoolExecutor
    source, was, pause = "\n".join(f"x = [{'(' * 20}{n}{')' * 20} for _ in y]" for n in range(40)), gc.get_threshold(), lambda *_: time.sleep(0)
    gc.set_threshold(50); gc.callbacks.append(pause)
    try:
        with ThreadPoolExecutor(8) as pool: assert len(set(pool.map(lambda _: bare_code(source), range(60)))) == 1
    finally: gc.set_threshold(*was); gc.callbacks.remove(pause)


def test_the_same_text_on_every_python():
    "3.12 and 3.13 print and dump trees otherwise than 3.11, and 3.12 adds an empty text to an f-string."
    source = "def f(a, *b, c=None, **d):\n    return f'{a!r:>{c}} {d[\"x\"]:,}' if b else [x for x in a[::2]]"
    assert digest(bare_code(source))[:16] == "1dcf6d0df7a7eb5b"


def test_published_reports_are_of_the_code_beside_them():
    "Every report has a stamp, and its stamp is that of the notebook and of all that the notebook reaches."
    assert stale(ROOT / "reports", ROOT / "nbs") == {}, "make them again: mamex reports NAME --only NOTEBOOK"
