"What must not drift: the exported module, the notebooks' metadata, README.md, environment.yml, constraints.txt, the reports."
import configparser, importlib, json, re, shutil, subprocess, sys
from pathlib import Path
from importlib import metadata
import numpy as np, pytest
from packaging.requirements import Requirement
from conftest import ROOT
from readme import readme

CFG = configparser.ConfigParser(delimiters=["="], interpolation=None); CFG.read(ROOT / "settings.ini")
CFG = CFG["DEFAULT"]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "The project without its virtual environment, exported and cleaned anew."
    to = tmp_path_factory.mktemp("clean") / "mamex"
    to.mkdir()
    for name in ("settings.ini", "pyproject.toml", "setup.py", "README.md"): shutil.copy(ROOT / name, to)
    for name in ("nbs", "mamex"): shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "_modidx.py"))
    for tool in ("nbdev_export", "nbdev_clean"):
        subprocess.run([Path(sys.executable).parent / tool], cwd=to, check=True, capture_output=True)
    return to


@pytest.mark.parametrize("folder", ["nbs", "mamex"])
def test_export_and_clean_leave_nothing_to_commit(copy, folder):
    there = lambda root: {p.relative_to(root) for p in (root / folder).rglob("*")
                          if p.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(p.parts) and p.name != "_modidx.py"}
    assert there(ROOT) == there(copy)
    for p in there(ROOT): assert (ROOT / p).read_bytes() == (copy / p).read_bytes(), f"{p} differs: run `make export`"


def test_readme_is_the_index_notebook():
    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme(), "run `make readme`"


def test_readme_shows_the_committed_numbers():
    from mamex.reports.words import markdown_table, number
    from mamex.studies.best_page import headline
    from mamex.studies.claims import read_reports
    from mamex.studies.front import over_folds
    text, reports = (ROOT / "README.md").read_text(encoding="utf-8"), read_reports(ROOT / "reports")
    assert markdown_table(headline(over_folds(reports, "best"))) in text
    assert f"NDCG@10 {number(np.mean(reports['toy']['run']['folds']['own']['mamex/released']))}" in text  # of `make run`


def test_readme_is_read_in_five_minutes():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    prose = re.sub(r"\]\([^)]*\)", "]", re.sub(r"```.*?```", "", text, flags=re.S))  # links and commands are not read
    assert len(text.splitlines()) <= 130 and len(re.findall(r"[^\W\d_]\w*", prose)) <= 900


def test_version_stands_once():
    import mamex
    assert mamex.__version__ == CFG["version"]
    assert CFG["version"] in (ROOT / "CHANGELOG.md").read_text() and f"version: {CFG['version']}" in (ROOT / "CITATION.cff").read_text()


def names(key): return {re.split(r"[<>=!~\[]", r)[0].lower().replace("_", "-") for r in CFG.get(key, "").split()}


def test_constraints_pin_everything_we_ask_for():
    lines = [l for l in (ROOT / "constraints.txt").read_text().splitlines() if l and not l.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^=\s;]+", l) for l in lines), "constraints are exact"
    pinned = {l.split("==")[0].lower().replace("_", "-") for l in lines}
    asked = set().union(*(names(k) for k in CFG if k.endswith("requirements")))
    assert len(asked) > 20 and not asked - pinned


def test_constraints_pin_what_those_pull():
    "Each distribution that the requirements lead to stands in constraints.txt, in the version that is installed here."
    plain = lambda name: re.sub(r"[-_.]+", "-", name).lower()
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {plain(n): v for n, v in (l.split("==") for l in lines if l and not l.startswith("#"))}
    to_do, seen, other = [Requirement(r) for k in CFG if k.endswith("requirements") for r in CFG[k].split()], set(), []
    while to_do:
        r = to_do.pop()
        if (r.name, *sorted(r.extras)) in seen: continue
        if plain(r.name) in ("setuptools", "wheel"): continue  # they build; a virtual environment may bring its own
        if re.match("nvidia|cuda|triton", r.name): continue  # torch names the versions for its GPU
        seen.add((r.name, *sorted(r.extras)))
        try: here = metadata.distribution(r.name)
        except metadata.PackageNotFoundError: continue  # an extra that was not asked for
        version = here.version.split("+")[0]  # torch names the device it was built for
        if pinned.get(plain(r.name)) != version: other.append(f"{r.name}=={version}")
        for q in map(Requirement, here.requires or []):
            if not q.marker or any(q.marker.evaluate({"extra": e}) for e in ("", *r.extras)): to_do.append(q)
    assert len(seen) > 100 and not other, "constraints.txt lacks these, or has them in another version"


def test_environment_installs_through_both():
    text = (ROOT / "environment.yml").read_text()
    extras = {k.removesuffix("_requirements") for k in CFG if k.endswith("_requirements")}
    assert {"notebooks", "dev", "offline"} <= extras
    for name in ("environment.yml", "Makefile"):
        installed = re.findall(r"-e '?\.\[([\w,]+)\]", (ROOT / name).read_text())
        assert [sorted(i.split(",")) for i in installed] == [sorted(extras - {"outside"})], f"{name} installs other extras than settings.ini has"
    assert "-c constraints.txt" in text and f"python>={CFG['min_python']}" in text


def test_every_chapter_is_on_the_map():
    text = (ROOT / "README.md").read_text()
    for p in (ROOT / "nbs").glob("*.ipynb"):
        if p.stem != "index": assert f"nbs/{p.name}" in text, f"the README's map lacks {p.name}"
    for eq in range(2, 12): assert re.search(rf"\| *\(?{eq}\)? *\|", text), f"the README's map lacks equation {eq}"


def slug(heading): return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


STUDIES = sorted(p for n in ("run", "best", "peers", "ablations", "sensitivity", "audit", "missing_modality", "temporal_coldstart", "cold_users", "nights", "outside", "speed", "cost") for p in (ROOT / "reports").glob(f"*/{n}.json"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_study_pages_are_the_json(path):
    "Tables, sentences and all: the page is a function of the json."
    page = importlib.import_module(f"mamex.studies.{path.stem}").page
    text = path.with_suffix(".md").read_text()
    assert text == page(json.loads(path.read_text())).rstrip() + "\n"
    for png in re.findall(r"\]\((\S+\.png)\)", text): assert (path.parent / png).stat().st_size > 2000


def test_index_page_is_made_of_the_reports():
    from mamex.studies.claims import claim_rows, read_reports
    from mamex.studies.front import claims_page, index_page
    from mamex.studies.questions import QUESTIONS, question_page
    root = ROOT / "reports"
    assert STUDIES and (root / "README.md").read_text() == index_page(root) and (root / "claims.md").read_text() == claims_page(root)
    assert json.loads((root / "claims.json").read_text()) == claim_rows(root)
    pages = {q.slug: question_page(q, read_reports(root)) for q in QUESTIONS}
    assert {p.stem: p.read_text() for p in (root / "questions").glob("*.md")} == pages
    for p in (root / "questions").glob("*.png"): assert p.stem in pages and p.stat().st_size > 2000


def test_the_index_of_the_reports_can_be_read():
    "No table wider than six columns, every link leads somewhere."
    root = ROOT / "reports"
    for name in ("README.md", "claims.md", *(f"questions/{p.name}" for p in (root / "questions").glob("*.md"))):
        text = (root / name).read_text(encoding="utf-8")
        assert max((l.count(" | ") + 1 for l in text.splitlines() if l.startswith("|")), default=0) <= 6
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            file, _, at = link.partition("#")
            target = (root / name).parent.joinpath(file).resolve()
            assert target.is_file(), link
            if at: assert f"\n## " in target.read_text() and at in {slug(h) for h in re.findall(r"^#+ (.+)$", target.read_text(), flags=re.M)}, link


def test_toy_needs_both_modalities():
    "The planted truth: each modality alone is told to rank worse than all together, over folds."
    rows = json.loads((ROOT / "reports/toy/ablations.json").read_text())["verdicts"]["singles"]
    assert {n: r["verdict"] for n, r in rows.items()} == {"image alone": "worse", "text alone": "worse"}


def test_nothing_of_the_real_sets_is_committed():
    tracked = subprocess.run(["git", "-C", str(ROOT), "ls-files", "reports"], capture_output=True, text=True).stdout.split()
    assert not [f for f in tracked if f.endswith(".ipynb") and not f.startswith("reports/toy/")]
    assert all(Path(f).suffix in (".json", ".md", ".png", ".svg", ".ipynb") for f in tracked)
