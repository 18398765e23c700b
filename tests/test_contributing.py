"CONTRIBUTING.md, SECURITY.md and the issue forms: what they name is there. Their commands run in test_commands.py."
import ast, inspect, re, zipfile

import pytest, yaml
from conftest import ROOT

PAGES = ("CONTRIBUTING.md", "SECURITY.md")
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
KINDS = {"markdown": {"value"}, "input": {"label"}, "textarea": {"label"}, "dropdown": {"label", "options"},
         "checkboxes": {"label", "options"}}  # type of a field → what its attributes need
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def text(page: str) -> str: return (ROOT / page).read_text(encoding="utf-8")


def code(page: str) -> list[str]:
    "Spans of code, and the lines of fences."
    shown = text(page)
    fences = re.findall(r"```\w*\n(.*?)```", shown, re.S)
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", shown, flags=re.S)) + "\n".join(fences).splitlines()


def slug(heading: str) -> str: return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page, most", [("CONTRIBUTING.md", 90), ("SECURITY.md", 25)])
def test_pages_are_short(page, most):
    lines = text(page).splitlines()
    assert lines[0].startswith("# ") and len(lines) <= most


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", text(page))
    assert links
    for link in links:
        file, _, at = link.partition("#")
        assert (ROOT / file).is_file(), link
        if at: assert at in {slug(h) for h in re.findall(r"^#+ (.+)$", text(file), re.M)}, link


@pytest.mark.parametrize("page", PAGES)
def test_paths_are_there(page):
    "What stands as code and looks like a path; one with a placeholder is a form."
    looks = r"[\w.<>/-]+/[\w.<>/-]*|[\w-]+\.(?:ini|txt|md|cff|py)"
    named = {w for c in code(page) for w in re.findall(looks, c) if "<" not in w and not w.startswith(".venv")}
    gone = [w for w in named if not (ROOT / w).exists() and not (ROOT / "nbs" / f"{w}.ipynb").exists()]
    assert not gone and (page != "CONTRIBUTING.md" or {"nbs/studies/", "paper/3_gate", "settings.ini"} <= named), gone


def test_make_targets_are_there():
    named = {m for c in code("CONTRIBUTING.md") for m in re.findall(r"\bmake ([a-z][a-z0-9]*)", c)}
    there = set(re.findall(r"^([a-z][a-z0-9]*):", MAKEFILE, re.M))
    assert {"setup", "test", "export", "index", "reports", "dist"} <= named <= there
    assert there == set(re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.M)[1].split())


def test_names_in_code_are_there():
    "What the page says of the code: the list of claims, their parts, the order of rooms, the limits."
    from test_street import STREET
    from mamex.base import UsageError, write_atomic
    from mamex.datasets.pictures import MAX_PICTURE
    from mamex.studies.claims import CLAIMS, Claim, Finding
    for c in CLAIMS:
        assert isinstance(c, Claim) and callable(c.judge) and c.text and c.where
        assert (ROOT / "nbs" / f"{c.notebook}.ipynb").is_file()
    assert issubclass(UsageError, Exception) and callable(write_atomic) and Finding.__annotations__["verdict"]
    assert f"{MAX_PICTURE >> 20} MiB" in text("SECURITY.md")
    assert len(STREET) == 21 and "twelve rooms and nine wings" in text("CONTRIBUTING.md")
    lines = re.search(r"at most (\d+) lines, a line at most (\d+) characters", text("CONTRIBUTING.md"))
    street = text("tests/test_street.py")
    assert f"<= {lines[1]}" in street and f"> {lines[2]}" in street


# forms

def faults(form: dict) -> list[str]:
    "What keeps the form from being shown."
    out = [f"no {k}" for k in ("name", "description", "body") if not form.get(k)]
    ids = [b["id"] for b in form.get("body", ()) if "id" in b]
    if len(ids) != len(set(ids)): out.append("an id stands twice")
    for n, b in enumerate(form.get("body", ())):
        if (kind := b.get("type")) not in KINDS: out.append(f"field {n}: type {kind}"); continue
        out += [f"field {n}: no {k}" for k in KINDS[kind] - b.get("attributes", {}).keys()]
        if kind != "markdown" and not re.fullmatch(r"[\w-]+", b.get("id", "")): out.append(f"field {n}: no id")
    if all(b.get("type") == "markdown" for b in form.get("body", ())): out.append("nothing is asked")
    return out


def test_the_forms_are_there():
    assert {p.stem for p in FORMS} == {"config", "number", "catalogue"}
    assert isinstance(yaml.safe_load(text(".github/ISSUE_TEMPLATE/config.yml"))["blank_issues_enabled"], bool)


@pytest.mark.parametrize("name, asks", [
    ("number", {"command", "card", "versions"}),
    ("catalogue", {"command", "header", "printed", "versions", "invented"})])
def test_a_form_is_whole(name, asks):
    form = yaml.safe_load(text(f".github/ISSUE_TEMPLATE/{name}.yml"))
    assert not faults(form)
    boxes = lambda b: [o for o in b["attributes"].get("options", ()) if isinstance(o, dict)]
    needed = {b["id"] for b in form["body"] if b.get("validations", {}).get("required")
              or any(o.get("required") for o in boxes(b))}
    assert asks <= needed
    assert f"**{form['name']}**" in text("CONTRIBUTING.md")


def test_no_form_asks_for_private_data():
    said = text(".github/ISSUE_TEMPLATE/catalogue.yml")
    assert "made-up rows" in said and "no rows of real customers" in said


@pytest.mark.parametrize("change", [
    lambda f: f.pop("name"), lambda f: f.pop("body"), lambda f: f["body"].append(f["body"][1]),
    lambda f: f["body"][1].pop("id"), lambda f: f["body"][1].pop("type"),
    lambda f: f["body"][1]["attributes"].pop("label")], ids=["name", "body", "twice", "id", "type", "label"])
def test_a_broken_form_is_seen(change):
    form = yaml.safe_load(text(".github/ISSUE_TEMPLATE/number.yml"))
    change(form)
    assert faults(form)


# what SECURITY.md says of reading

def runs_code(source: str) -> list[str]:
    "Ways by which a file that is read could run code."
    out = []
    for n in ast.walk(ast.parse(source)):
        names = [a.name for a in n.names] if isinstance(n, ast.Import) else []
        if isinstance(n, ast.ImportFrom): names = [n.module or ""]
        out += [m for m in names if m.split(".")[0] in {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}]
        if not isinstance(n, ast.Call): continue
        f, given = ast.unparse(n.func), {k.arg: ast.unparse(k.value) for k in n.keywords}
        if f in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "pd.read_pickle"): out.append(f)
        if given.get("allow_pickle", "False") != "False": out.append(f"{f}(allow_pickle)")
        if f == "torch.load" and given.get("weights_only") != "True": out.append(f)
    return out


@pytest.mark.parametrize("source", ["import pickle", "from joblib import load", "eval('1')", "torch.load(p)",
                                    "np.load(p, allow_pickle=True)", "yaml.load(s)"])
def test_a_way_to_run_code_is_seen(source): assert runs_code(source)


def test_no_module_runs_what_it_reads():
    found = {p: runs_code(p.read_text(encoding="utf-8")) for p in sorted((ROOT / "mamex").rglob("*.py"))}
    assert len(found) > 50 and not {p: f for p, f in found.items() if f}


def test_an_archive_does_not_choose_where_it_writes(tmp_path):
    "SECURITY.md: one place unpacks, and refuses what would be written elsewhere or is too large."
    from mamex.base import UsageError
    from mamex.datasets.fetch.downloads import unpack
    found = [p.name for p in (ROOT / "mamex").rglob("*.py") if re.search(r"\.extractall\(|unpack_archive|import tarfile", p.read_text())]
    assert found == ["downloads.py"]
    limit = inspect.signature(unpack).parameters["limit"].default
    assert f"{limit >> 30} GiB" in text("SECURITY.md")
    for member, said in (("../x", "leaves the folder"), ("/x", "absolute path"), ("x", "over the limit")):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as z: z.writestr(member, "12345")
        with pytest.raises(UsageError, match=said): unpack(tmp_path / "a.zip", tmp_path / "to", limit=4)
        assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]
