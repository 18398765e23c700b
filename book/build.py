"""`make book`: notebooks, reports and reference as one static site in _book/, without a network.

    python book/build.py [FOLDER]
"""
import importlib.util, os, shutil, subprocess, sys
from pathlib import Path

import nbformat, yaml

from api import api_page, modules
from pages import Links, heading_of, notebook_page, source_page, source_path

BOOK, ROOT = Path(__file__).resolve().parent, Path(__file__).resolve().parent.parent
SITE = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "_book").resolve()
WORK = SITE.with_name(f".{SITE.name}.work")  # beside it, so that a finished site takes its place at once

# wings of the workshop, in the order of the street: folder of nbs/ → title
WINGS = {"data": "Data", "vectors": "Vectors", "protocol": "Protocol", "extensions": "Extensions",
         "rivals": "Rivals", "reports": "How a report is written", "studies": "Studies", "cluster": "Many machines"}
# the notebooks that papermill runs, in the order in which they are read
STUDIES = ("run", "best", "peers", "ablations", "sensitivity", "audit", "missing_modality", "temporal_coldstart",
           "cold_users", "nights", "outside", "speed", "cost")


def notebooks(folder: Path) -> list:
    "The notebooks of a folder and those below it, in reading order, as paths from the root."
    found = [p for p in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts]
    # chapters of a folder before those of the folders in it
    return [p.relative_to(ROOT) for p in sorted(found, key=lambda p: (p.parent.parts, p.name))]


def reports() -> dict:  # → folder of reports/, "" for its own pages → paths from the root
    "The pages of reports/, by dataset."
    pages = {}
    for p in sorted((ROOT / "reports").rglob("*.md")):
        here = p.relative_to(ROOT)
        pages.setdefault(here.parts[1] if len(here.parts) > 2 else "", []).append(here)
    return pages


def contents() -> list:  # [(title, page of the part, [paths | (title, page, paths)])]
    "The parts of the book; what is nested has a page of its own."
    nbs, found = ROOT / "nbs", reports()
    sets = sorted(set(found) - {"", "questions"}, key=lambda n: (n == "toy", n))  # toy tests the instruments: last
    evidence = [*found[""], ("The questions", "parts/questions", found["questions"]),
                ("The notebooks of the reports", "parts/notebooks", [Path("nbs") / f"{n}.ipynb" for n in STUDIES]),
                *((f"Reports of {n}", f"parts/reports-{n}", found[n]) for n in sets)]
    return [("The paper", "parts/paper", notebooks(nbs / "paper")),
            ("The evidence", "parts/evidence", evidence),
            ("The catalogue owner's guide", "parts/guide", notebooks(nbs / "shop")),
            ("The workshop", "parts/workshop", [(t, f"parts/{w}", notebooks(nbs / w)) for w, t in WINGS.items()]),
            ("Reference", "parts/reference", [Path(f"api/{r}.md") for r in modules(ROOT, ("paper", "shop", *WINGS))])]


def flat(entries) -> list:
    "All pages of a table of contents that come from the repository."
    return [p for e in entries for p in (e[2] if isinstance(e, tuple) else [e])]


def listed(entries) -> str:
    "A list of chapters with what each says of itself."
    def line(e):
        if isinstance(e, tuple): return f"- [{e[0]}](../{e[1]}.md)"
        title, says = heading_of(WORK / e)
        link = f"- [{title}](../{e})"
        return link + (f": {says[0].lower() + says[1:] if says[:2].istitle() else says}" if says else "")
    return "\n".join(map(line, entries))


def write(path: Path, text: str):
    "A page of the working folder."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_pages(parts: list) -> list:  # → the sources, as pages of the book
    "Every page that comes from the repository, and the sources that are linked."
    chapters = [Path("nbs/index.ipynb"), *(p for _, _, entries in parts for p in flat(entries))]
    links = Links(ROOT, set(chapters))
    rooms = modules(ROOT)
    for p in chapters:
        if p.parts[0] == "api": write(WORK / p, api_page(p.stem, rooms[p.stem]))
        elif p.suffix == ".ipynb":
            write(WORK / p, nbformat.writes(notebook_page(nbformat.read(ROOT / p, 4), p, links)))
        else: write(WORK / p, links.turned(p, (ROOT / p).read_text(encoding="utf-8")))
    for kind in ("*.png", "*.svg"):
        for p in (ROOT / "reports").rglob(kind): shutil.copy(p, WORK / p.relative_to(ROOT))
    done = set()
    while left := sorted(links.sources - done):  # a page of Markdown may link to more
        for p in left: write(WORK / source_path(p), source_page(p, (ROOT / p).read_text(encoding="utf-8"), links))
        done |= set(left)
    return [source_path(p) for p in sorted(done)]


def in_contents(page: Path) -> dict:
    "The line of a page in the table of contents; a dataset's reports go by their notebooks."
    entry = {"file": str(page.with_suffix(""))}
    if page.parts[0] == "reports" and len(page.parts) == 3 and page.parts[1] != "questions":
        entry["title"] = page.stem.replace("_", " ").capitalize()
    return entry


def write_parts(parts: list, sources: list):
    "The pages of the parts, and `_toc.yml`."
    def nested(title, page, entries):
        own = BOOK / f"{page}.md"
        text = own.read_text(encoding="utf-8") if own.is_file() else f"# {title}\n\n{{{{ chapters }}}}\n"
        write(WORK / f"{page}.md", text.replace("{{ chapters }}", listed(entries)))
        inner = [nested(*e) if isinstance(e, tuple) else in_contents(e) for e in entries]
        return {"file": page, "title": title, "sections": inner}
    chapters = [nested(*part) for part in parts]
    chapters[-1]["sections"].append({"file": "parts/sources", "sections": [{"file": str(s)} for s in sources]})
    files = "\n".join(f"- [{s.stem}](../{s})" for s in sources)
    write(WORK / "parts/sources.md", f"# Files that chapters speak of\n\n{files}\n")
    toc = {"format": "jb-book", "root": "nbs/index", "chapters": chapters}
    write(WORK / "_toc.yml", yaml.safe_dump(toc, sort_keys=False))


def mathjax() -> Path:
    "The folder of MathJax, which comes with a package; the reader's browser fetches it from the book."
    found = importlib.util.find_spec("sphinx-mathjax-offline")
    return Path(found.origin).parent / "static" / "mathjax"


def write_static():
    "Style and MathJax: one script and its fonts."
    static = WORK / "_assets"
    shutil.copytree(BOOK / "static", static)
    (static / "mathjax").mkdir()
    shutil.copy(mathjax() / "tex-chtml.js", static / "mathjax")
    shutil.copytree(mathjax() / "output" / "chtml" / "fonts", static / "mathjax" / "output" / "chtml" / "fonts")


def replaceable(site: Path) -> bool:
    "Whether a folder is absent, empty, or a book that was built before."
    return not site.exists() or site.is_dir() and (not any(site.iterdir()) or (site / "objects.inv").is_file())


def main() -> int:
    "Prepare, build with warnings as errors, and put the whole site in place of the old one."
    if not replaceable(SITE):
        print(f"{SITE} holds something that is no book: name another folder.", file=sys.stderr)
        return 2
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    parts = contents()
    write_parts(parts, write_pages(parts))
    write_static()
    shutil.copy(BOOK / "_config.yml", WORK)
    command = str(Path(sys.executable).with_name("jupyter-book"))
    done = subprocess.run([command, "build", str(WORK), "--warningiserror", "--keep-going", "-q"])
    if done.returncode: return done.returncode
    shutil.rmtree(SITE, ignore_errors=True)
    os.replace(WORK / "_build" / "html", SITE)
    shutil.rmtree(WORK)
    print(f"{len(list(SITE.rglob('*.html')))} pages: open {os.path.relpath(SITE)}/index.html")
    return 0


if __name__ == "__main__": sys.exit(main())
