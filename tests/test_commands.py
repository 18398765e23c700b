"""Every command that a page shows runs as shown.

Pages: README.md, CONTRIBUTING.md, reports/claims.md, the parts of the book, the markdown of all notebooks, the epilogs of `--help`.
Commands: each line of a fence that carries no language, and each span of code that starts with a program and has arguments. They run
by bash, in order, with a terminal, in a copy of the checkout and with an activated .venv, as a reader would run them. What stands in for what cannot be had:

- Datasets of the names that pages use are small and made here (`MAMEX_DATA`); a shop's tables and pictures are made in the folder.
- Of a papermill notebook the first cells run, up to the vectors: they take the parameters, the dataset and the encoder. The rest is
  run by tests/test_notebooks.py. `make run` runs the whole of run.ipynb.
- The publishers' hosts are a host that has nothing (`MAMEX_MIRROR`): a command that needs them has to fail with the sentence that
  names the remedy. No model hub is asked (`HF_HUB_OFFLINE`).
- `make test`, which is running, `make dist` and `make s3`, which load packages, and `make reports` with one name after the other say what they
  would run (`MAKEFLAGS=n`).
- A command with a placeholder (`mamex check FOLDER`, `make reports dataset=…`) is a form: its words have to be known.
"""
import functools, json, os, re, select, shlex, shutil, signal, subprocess, sys, time
from dataclasses import dataclass, replace
from pathlib import Path
import nbformat, numpy as np, pandas as pd, pytest
from filelock import FileLock
from conftest import ROOT
from standin import serve
from mamex import cli
from mamex.studies import regenerate
from mamex.datasets.folders import save_dataset
from mamex.datasets.pictures import Images
from mamex.datasets.toy import toy
from mamex.vectors.offline import has_offline

pty = pytest.importorskip("pty", reason="this system has no terminals to run commands in")
PROGRAMS = {"papermill", "mamex", "make", "python", "pytest", "pip", "conda", "jupyter", "source", "mkdir", "nbdev_test"}
SHELL = {"", "sh", "bash", "shell", "console"}
ALIKE = {"jupyter lab": "jupyter lab --version",  # a server does not end
         "mamex serve model": "mamex serve model --port 0 > said & until grep -q http said; do kill -0 $! && sleep .5; done; kill $!; wait $!"}


# what the pages show

@dataclass(frozen=True)
class Command:
    text: str
    page: str


@functools.cache
def pages() -> dict[str, str]:  # name → text
    "README.md and index.ipynb are one page."
    out = {n: (ROOT / n).read_text(encoding="utf-8") for n in ("README.md", "CONTRIBUTING.md", "reports/claims.md")}
    out |= {f"book/parts/{p.name}": p.read_text(encoding="utf-8") for p in sorted((ROOT / "book/parts").glob("*.md"))}
    for p in sorted((ROOT / "nbs").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in p.parts: continue
        out[p.relative_to(ROOT).as_posix()] = "\n\n".join(c.source for c in nbformat.read(p, 4).cells if c.cell_type == "markdown")
    return out


def epilogs() -> dict[str, str]:  # the command that prints it → text
    top = cli.parser()
    words = next(a.choices for a in top._actions if isinstance(a.choices, dict))
    parsers = {"mamex": top, **{f"mamex {w}": p for w, p in words.items()}}
    return {f"{n} --help": p.epilog or "" for n, p in parsers.items()}


def is_command(line: str) -> bool:
    try: words = shlex.split(line, comments=True)
    except ValueError: return False
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]): words = words[1:]  # variables before the program
    return len(words) > 1 and words[0].removeprefix(".venv/bin/") in PROGRAMS


def plain(line: str) -> str:
    "Without the remark at its end."
    return re.sub(r"\s+#\s.*$", "", line).strip()


FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ \t]*$", re.M | re.S)

def fences(text: str) -> list[list[str]]:
    "The commands of each fence that has no language; `ValueError` for a line in it that is none, and for a command in another fence."
    out = []
    for language, body in FENCE.findall(text):
        lines = [l for l in map(plain, body.replace("\\\n", " ").splitlines()) if l and not l.startswith("#")]
        odd = [l for l in lines if is_command(l) != (language in SHELL)]
        if odd: raise ValueError(f"a fence of language {language!r} holds {odd[0]!r}: is it a command? Tag what is none as ```text.")
        if language in SHELL: out.append(lines)
    return out


def spans(text: str) -> list[str]:
    "Commands in running text."
    return [s for s in re.findall(r"`([^`\n]+)`", FENCE.sub("", text)) if is_command(s)]


def examples(epilog: str) -> list[str]:
    "Commands in what `--help` prints last: a line each, perhaps after a word like `example:`."
    lines = [plain(re.sub(r"^\s*(examples?|try):\s*", "", l)) for l in epilog.replace("\\\n", " ").splitlines()]
    return [l for l in lines if is_command(l)]


def understood(text: str) -> list[list[str]]:
    "`fences`, or none: a page that is not understood has a test of its own that fails."
    try: return fences(text)
    except ValueError: return []


def all_blocks() -> list[tuple[str, list[str]]]:  # (page, commands)
    shown = pages()
    blocks = [(p, b) for p, text in shown.items() for b in understood(text)]
    blocks += [(p, b) for p, text in epilogs().items() if (b := examples(text))]
    return blocks + [(p, [s]) for p, text in shown.items() for s in spans(text)]


def distinct(blocks: list) -> list[Command]:
    "Each command once, where it stands first; those before it in its block come along when it runs."
    seen = {}
    for page, lines in blocks:
        for line in lines: seen.setdefault(line, Command(line, page))
    return list(seen.values())


def together(blocks: list, pattern: str) -> list:
    "Blocks of which all commands match become one, at the place of the first: what one of them made is up to date for the others."
    mine = [n for n, (_, lines) in enumerate(blocks) if all(re.match(pattern, c) for c in lines)]
    first = (blocks[mine[0]][0], list(dict.fromkeys(c for n in mine for c in blocks[n][1]))) if mine else None
    return [first if n == mine[0] else b for n, b in enumerate(blocks) if n not in mine[1:]] if mine else blocks


BLOCKS = together(all_blocks(), r"make reports dataset=\w|mamex reports \w")
COMMANDS = distinct(all_blocks())  # named by the page that shows them first
ONLY = [c.text for c in COMMANDS if re.match("make reports .*only=", c.text)]
# make only says what it would run: this very run, what asks a registry, and reports that differ in their name
SAID = {"make test", "make notebooks", "make dist", "make s3", *ONLY[1:]}
WHERE = {c: n for n, (_, lines) in reversed(list(enumerate(BLOCKS))) for c in lines}  # the block in which each runs


def is_form(c: str) -> bool:
    "A placeholder in it, or no more than the name of a word: `mamex import`."
    return bool(re.search(r"…|<\w+>|(?<![-=\w./])[A-Z]{2,}(?![-=\w./])|(?<![-\w])[AB](?![-\w])", c)) or bool(re.fullmatch(r"mamex \w+|python -m \S+", c))


def needs_network(c: str) -> bool: return "mamex fetch" in c


def skip_reason(c: str) -> str | None:
    if c.startswith("conda "): return "conda is not here; test_house.py looks at environment.yml"
    if re.search("offline|mamex fit|my-shop", c) and not has_offline(): return "the extra `offline` is not installed"


# where they run

def small_shop(to: Path):
    "Products, clicks and photos as two exports and a folder; ids and users are those that the pages name."
    ds = toy(n_users=40, n_items=60)
    ids = np.array([f"B{n:04d}" for n in range(len(ds.item_ids))])
    users = np.array(["ann", "bob", *(f"u{n:03d}" for n in range(2, len(ds.user_ids)))])
    new = len(ids) - 12  # from here on nobody has met an item
    met = ds.interactions[ds.interactions["item"] < new]
    items = ds.items.assign(item=ids).rename(columns={"item": "sku"})
    items.to_csv(to / "products.csv", index=False)
    pd.DataFrame({"user": users[met["user"]], "sku": ids[met["item"]]}).to_csv(to / "clicks.csv", index=False)
    items.tail(3).assign(sku=["N0001", "N0002", "N0003"]).to_csv(to / "tomorrow.csv", index=False)
    pd.DataFrame({"user": ["ann", "zoe", "zoe"], "sku": [ids[-1], ids[-2], "N0001"], "event": "purchase"}).to_csv(to / "today.csv", index=False)
    (to / "photos").mkdir()
    for i, name in [*zip(ds.item_ids, ids), *zip(ds.item_ids, ["N0001", "N0002", "N0003"])]:
        if i in ds.images: (to / "photos" / f"{name}.png").write_bytes(ds.images.read(i))


def small_datasets(to: Path):
    "The sets that pages name, with the columns that they have; released in one of five years, met at some time."
    rng, base = np.random.default_rng(0), toy(n_users=400, n_items=150)  # enough who come back for every window
    years = pd.array(rng.integers(1995, 2000, len(base.items)), dtype="Int32")
    words = lambda *w: rng.choice(w, len(base.items))
    films = base.items.assign(genres=words("Drama", "Comedy"), released=years)
    launch = rng.integers(10**9, 108 * 10**7, len(base.items))[base.interactions["item"]]
    timed = base.interactions.assign(timestamp=launch + (rng.random(len(launch)) * (11 * 10**8 - launch)).astype(int))
    sets = {"movielens": (films.assign(tags=words("fun", "old")), True, timed), "movielens-1m": (films.assign(director=words("A. B.", "C. D.")), True, None),
            "luxury": (base.items, False, timed), "baby": (base.items, False, None),
            "sport": (base.items[["item"]].assign(attributes=[f"c{a} b{b}" for a, b in rng.integers(0, 9, (len(base.items), 2))]), False, None),
            "clothing": (base.items[["item"]], False, None)}
    for name, (items, pictures, inter) in sets.items():
        ds = replace(base, name=name, items=items, interactions=base.interactions if inter is None else inter, images=base.images if pictures else None)
        save_dataset(ds, to / name)


VECTORS = re.compile(r"\bopen_study\(|\bcheck_sizes\(")
STUB = "from mamex.reports.files import report_folder\n(report_folder(p.lab.dataset.name if 'lab' in p else 'drawn', p['out']) / '{}.json').write_text('{{}}')"

def first_cells(path: Path):
    "Cuts a papermill notebook behind the cell that makes the vectors; a stub stands for its report."
    nb = nbformat.read(path, 4)
    last = next(n for n, c in enumerate(nb.cells) if c.cell_type == "code" and VECTORS.search(c.source))
    nb.cells = nb.cells[:last + 1] + [nbformat.v4.new_code_cell(STUB.format(path.stem))]
    nbformat.write(nb, path)


def working_copy(to: Path, whole: bool):
    "The files of the checkout, and a .venv that is the one at work."
    tracked = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True)
    for name in tracked.stdout.splitlines():
        if not (ROOT / name).is_file(): continue
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, to / name)
    for p in (to / "nbs").glob("*.ipynb"):
        if not whole and any("parameters" in c.metadata.get("tags", []) for c in nbformat.read(p, 4).cells): first_cells(p)
    (to / ".venv").mkdir()
    for p in Path(sys.prefix).iterdir():
        if p.name != ".installed": (to / ".venv" / p.name).symlink_to(p)
    (to / ".venv" / ".installed").touch()  # newer than what make would install it for


@pytest.fixture(scope="session")
def ground(tmp_path_factory):
    "One folder for all test processes: the small datasets, and what each block of commands gave."
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "commands"
    root.mkdir(exist_ok=True)
    with FileLock(root / "lock"):
        if not (root / "data").exists():
            (root / "made").mkdir(); small_datasets(root / "made"); (root / "made").rename(root / "data")
    return root


def environment(ground: Path, home: Path, command: str, mirror: str) -> dict:
    "Of a reader who has activated .venv; what stands in for the world comes through variables."
    env = {k: v for k, v in os.environ.items() if k not in ("IN_TEST", "MAMEX_REPORTS", "PYTEST_ADDOPTS") and not k.startswith(("PYTEST_XDIST", "COV_"))}
    env |= dict(PATH=f"{home / '.venv/bin'}{os.pathsep}{env['PATH']}", PYTHONPATH=str(home), MAMEX_DATA=str(ground / "data"), OMP_NUM_THREADS="1",
                MAMEX_MIRROR=mirror, HF_HUB_OFFLINE="1", COLUMNS="120", TERM="dumb")
    if command in SAID: env["MAKEFLAGS"] = "n"
    if command.startswith("pytest "): env["PYTEST_ADDOPTS"] = "--collect-only"  # it is a test of this suite
    if command.startswith("pip "): env |= dict(PIP_DRY_RUN="1", PIP_NO_DEPS="1", PIP_NO_INDEX="1", PIP_NO_BUILD_ISOLATION="0")  # "0" is how pip spells yes here
    return env


def on_a_terminal(command: str, cwd: Path, env: dict, limit_s=400) -> tuple[int, str]:
    "Runs it by bash, with a terminal for input and output; (status, what the screen showed). It is given no answer if it asks."
    screen, keyboard = pty.openpty()
    p = subprocess.Popen(["bash", "-c", command], cwd=cwd, env=env, stdin=keyboard, stdout=keyboard, stderr=keyboard, start_new_session=True)
    os.close(keyboard)
    shown, end = b"", time.time() + limit_s
    while True:
        if not select.select([screen], [], [], 1)[0]:
            if p.poll() is not None: break
            if time.time() > end: os.killpg(p.pid, signal.SIGKILL); shown += f"\n(stopped after {limit_s} s)".encode(); break
            continue
        try: chunk = os.read(screen, 65536)
        except OSError: break  # Linux says so when the last process has closed the terminal
        if not chunk: break
        shown += chunk
    os.close(screen)
    return p.wait(), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode("utf-8", "replace")).replace("\r\n", "\n")


def stage(home: Path, command: str, env: dict):
    "What a page takes for granted: a shop's files, the dataset folder made of them, a recommender."
    words = shlex.split(command, comments=True)
    made = words[words.index("--to") + 1] if "--to" in words else None
    quiet = lambda c: subprocess.run(["bash", "-c", c], cwd=home, env=env, check=True, capture_output=True)
    if {"mamex", "my-shop"} & set(words) and not (home / "products.csv").exists(): small_shop(home)
    if "my-shop" in words and made != "my-shop" and not (home / "my-shop").exists():
        quiet("mamex import products.csv clicks.csv --pictures photos --to my-shop")
    if "model" in words and made != "model" and not (home / "model").exists():
        if not (home / "my-shop").exists(): quiet("mamex import products.csv clicks.csv --pictures photos --to my-shop")
        quiet("mamex fit my-shop --to model --encoder tiny --preset best")


def run_block(ground: Path, n: int) -> dict:  # command → (status, screen, what git calls changed)
    "Runs the commands of a block in order, once for all test processes."
    at = ground / f"block{n}"
    with FileLock(ground / f"{n}.lock"):
        if (at / "gave.json").exists(): return json.loads((at / "gave.json").read_text())
        home, gave = at / "mamex", {}
        lines = [ALIKE.get(c, c) for c in BLOCKS[n][1] if not is_form(c) and not skip_reason(c)]
        working_copy(home, whole="make run" in lines)
        git = lambda *a: subprocess.run(["git", "-C", str(home), "-c", "user.name=a", "-c", "user.email=a@b", *a], check=True, capture_output=True, text=True).stdout
        git("init", "-q"), git("add", "-A"), git("commit", "-qm", "as checked out")
        with serve({}) as host:
            for c in lines:
                env = environment(ground, home, c, host.url)
                stage(home, c, env)
                gave[c] = *on_a_terminal(c, home, env), git("status", "--short")
        (at / "gave.json").write_text(json.dumps(gave))
    return gave


# the tests

@pytest.mark.parametrize("command", [c for c in COMMANDS if not is_form(c.text)], ids=lambda c: c.text[:90].replace("…", "..."))
def test_runs_as_shown(command, ground):
    c = command.text
    if reason := skip_reason(c): pytest.skip(reason)
    status, screen, changed = run_block(ground, WHERE[c])[ALIKE.get(c, c)]
    said = f"{command.page} shows\n    {c}\nwhich ended with status {status}:\n{screen[-3000:]}"
    assert "Traceback" not in screen and "stopped after" not in screen, said
    if needs_network(c): assert status == 2 and "is missing" in screen and "put it there" in screen, said
    else: assert status == 0, said
    if c in ONLY: regenerate.pick(re.search(r"only=(\S+)", c)[1])
    if c.startswith("make run"):
        assert not changed, f"`make run` leaves behind:\n{changed}"
        assert re.search(r"NDCG@10 over cold folds \.\d{4} ± \.\d{4} \(committed: \.\d{4} ± \.\d{4}\)", screen), said
    assert "without encryption" not in screen or not (ROOT / ".venv/etc/ipython").exists(), said


@pytest.mark.parametrize("command", [c for c in COMMANDS if is_form(c.text)], ids=lambda c: c.text[:90].replace("…", "..."))
def test_a_form_has_known_words(command):
    "Program, word and options of a form are there."
    words = shlex.split(command.text)
    if words[0] == "make":
        text = (ROOT / "Makefile").read_text()
        assert re.search(rf"^{words[1]}:", text, re.M) and all(f"$({w.split('=')[0]})" in text or f"$(or $({w.split('=')[0]})" in text for w in words[2:])
        return
    known = epilogs()
    if words[0] == "mamex":
        assert f"mamex {words[1]} --help" in known, f"{command.page}: there is no word {words[1]!r}"
        p = next(a.choices for a in cli.parser()._actions if isinstance(a.choices, dict))[words[1]]
        assert {w for w in words if w.startswith("--")} <= p._option_string_actions.keys(), command
    else:
        done = subprocess.run([sys.executable, *words[1:3], "--help"], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0 and "usage" in done.stdout, command


@pytest.mark.parametrize("page", list(pages()))
def test_every_fence_is_understood(page): fences(pages()[page])


def test_every_page_is_read():
    "The pages that people start from show commands, and README shows those of the first hour."
    shown = {p for p, _ in BLOCKS}
    papermills = {f"nbs/{n}.ipynb" for n in (*regenerate.NOTEBOOKS, *regenerate.ASIDE)}
    assert shown >= {"README.md", "CONTRIBUTING.md", "reports/claims.md", "nbs/shop/9_cli.ipynb", *papermills} and len(COMMANDS) > 20
    first = [c.text for c in COMMANDS if c.page == "README.md"]
    assert any("activate" in c for c in first)
    for start in ("make run", "make test", "papermill nbs/run.ipynb", "mamex import", "mamex check", "mamex fit", "mamex recommend", "mamex add", "mamex update", "mamex explain"):
        assert any(c.startswith(start) for c in first), f"README.md shows no `{start}`"


@pytest.mark.parametrize("page", [f"nbs/{n}.ipynb" for n in (*regenerate.NOTEBOOKS, *regenerate.ASIDE)])
def test_first_cells_name_folder_output_and_minutes(page):
    "papermill asks for an output on a terminal, and makes no folders; the page says so by what it shows."
    cell = nbformat.read(ROOT / page, 4).cells[0].source
    folder, line = fences(cell)[0][:2]
    output = shlex.split(line)[2]
    assert folder == f"mkdir -p {Path(output).parent}" and output.endswith(".ipynb")
    assert "report appears in" in cell and re.search(r"On two cores .*(minutes?|hour)", cell)


def test_papermill_lines_name_an_output():
    for c in COMMANDS:
        words = shlex.split(c.text)
        if words[0] == "papermill": assert len(words) > 2 and words[2].endswith(".ipynb"), f"{c.page}: {c.text}"


@pytest.mark.parametrize("text", ["```\nmy-shop/\n  items.parquet   item\n```\n", "```text\nmake run\n```\n", "```\nmkae run\n```\n", "```python\nmamex check x\n```\n"])
def test_a_fence_that_is_not_understood_fails(text):
    with pytest.raises(ValueError, match="is it a command"): fences(text)


@pytest.mark.parametrize("text, want", [
    ("```\nmamex check my-shop     # every problem\n```\n", [["mamex check my-shop"]]),
    ("```sh\n# first\nmkdir -p a && papermill x.ipynb \\\n  y.ipynb -p d \"{a: 1}\"\n\nOMP_NUM_THREADS=1 make run\n```\n",
     [['mkdir -p a && papermill x.ipynb    y.ipynb -p d "{a: 1}"', "OMP_NUM_THREADS=1 make run"]]),
    ("```text\na/\n  b\n```\nand\n```\nmake run\nmake test\n```\n", [["make run", "make test"]]),
    ("```python\nx = 1\n```\n", []),
])
def test_fences_are_read(text, want): assert fences(text) == want


def test_spans_and_forms():
    assert spans("Run `make run`, not `make`, nor `items.parquet`; `mamex import` is a word.\n```\nmake test\n```\n") == ["make run", "mamex import"]
    assert all(map(is_form, ["mamex check FOLDER", "make reports dataset=… only=run", "mamex import", "mamex recommend MODEL --users A B --out FILE"]))
    assert not any(map(is_form, ["mamex check my-shop", "make run", "mamex fit my-shop --to model --encoder ViT-B-32/openai", "mamex explain model B0042"]))


def test_a_question_on_a_terminal_is_noticed(tmp_path):
    "papermill without an output path, as a reader would have typed it."
    env = os.environ | {"PATH": f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    status, screen = on_a_terminal("papermill nbs/run.ipynb -p dataset toy", ROOT, env, 60)
    assert status != 0 and "output" in screen.lower()
