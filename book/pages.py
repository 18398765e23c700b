"Pages of the book from notebooks and reports: directives stripped, imports folded, figures described, links resolved."
import ast, re
from pathlib import Path

import nbformat

DIRECTIVE = re.compile(r"^#\|[^\n]*\n?", re.M)
LINK      = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+(?:\([^()]*\))?[^()\s]*)\)")
FENCED    = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.M | re.S)  # code, in which nothing is a link
MUTE      = re.compile(r"<img (?![^>]*\balt=)")
MARKUP    = re.compile(r"[*_`$\\]|\]\([^)]*\)|!?\[")


def only_imports(source: str) -> bool:  # of a code cell
    "Whether a cell does nothing but import, and set what it imported."
    try: body = ast.parse(source).body
    except SyntaxError: return False  # a magic of IPython
    first = bool(body) and isinstance(body[0], (ast.Import, ast.ImportFrom))
    called = lambda s: isinstance(s, ast.Expr) and isinstance(s.value, ast.Call)
    return first and all(isinstance(s, (ast.Import, ast.ImportFrom)) or called(s) for s in body)


def code_cell(cell):
    "A code cell as it is shown, or None where nothing is left of it."
    directives = {d[2:].strip() for d in DIRECTIVE.findall(cell.source)}
    cell.source = DIRECTIVE.sub("", cell.source).strip("\n")
    if not cell.source: return None
    tags = set(cell.metadata.get("tags", []))
    if "echo: false" in directives: tags.add("remove-input")
    elif only_imports(cell.source):
        tags.add("hide-input")
        cell.metadata["mystnb"] = {"code_prompt_show": "Show imports", "code_prompt_hide": "Hide imports"}
    cell.metadata["tags"] = sorted(tags)
    return cell


def plain(markdown: str) -> str:
    "The words of a Markdown text."
    return " ".join(MARKUP.sub("", FENCED.sub("", markdown)).split())


def described(text: str, longest: int = 240) -> str:  # text: of a Markdown cell
    "What the words before a figure say of it, its heading first, in one attribute's length."
    lines = text.strip().split("\n")
    heading = plain(lines[0].lstrip("# ")) if lines[0].startswith("#") else ""
    words = plain("\n".join(l for l in lines if not l.startswith(("#", "|", "- "))))
    alt = ": ".join(x for x in (heading, words) if x)
    return alt if len(alt) <= longest else alt[:longest].rsplit(" ", 1)[0] + " …"


def describe_figures(nb) -> None:
    "Give each picture among the outputs the words that stand before it as its alternative text."
    words = nb.cells[0].source.split("\n")[0].lstrip("# ")
    for cell in nb.cells:
        if cell.cell_type == "markdown" and plain(cell.source): words = described(cell.source)
        if cell.cell_type != "code": continue
        if any({"image/png", "image/svg+xml"} & set(o.get("data", {})) for o in cell.outputs):
            cell.metadata.setdefault("mystnb", {})["image"] = {"alt": words or "Figure"}
        for o in cell.outputs:
            html = o.get("data", {}).get("text/html")
            if html: o.data["text/html"] = MUTE.sub('<img alt="picture of an item" ', html)


def up(here: Path) -> str: return "../" * (len(here.parts) - 1)  # from a page to the root


class Links:
    "Links of the repository, turned into links of the book; a file that is linked and no page becomes one."
    def __init__(self, root: Path, pages: set):  # pages: paths from the root, of all that becomes a page
        self.root, self.pages, self.sources = root, pages, set()

    def target(self, here: Path, url: str) -> str:  # here: of the page, from the root
        "A link of the page `here`, as the book has it; `KeyError` where there is nothing."
        path, mark, anchor = url.partition("#")
        if "://" in path or url.startswith("mailto:"): return url
        anchor = mark + anchor.lower()  # Jupyter's anchors keep capitals, the book's do not
        if not path: return anchor
        there = (self.root / here.parent / path).resolve().relative_to(self.root)
        if there == Path("README.md"): return f"{up(here)}nbs/index.ipynb{anchor}"  # it is made from that notebook
        if not (self.root / there).is_file(): raise KeyError(f"{here} links to {url}, and there is no such file")
        if there in self.pages or there.suffix in (".png", ".svg"): return path + anchor
        self.sources.add(there)
        return f"{up(here)}{source_path(there)}{anchor}"

    def turned(self, here: Path, text: str) -> str:
        "A Markdown text with its links turned."
        turn = lambda m: f"{m[1]}[{m[2]}]({self.target(here, m[3])})"
        parts, last = [], 0
        for code in FENCED.finditer(text):
            parts += [LINK.sub(turn, text[last:code.start()]), code[0]]
            last = code.end()
        return "".join(parts) + LINK.sub(turn, text[last:])


def without_lost_pictures(text: str, folder: Path) -> str:  # text: a report's page among the outputs of a notebook
    "Markdown in which a picture that is not there is its caption; `toy`'s lie beside its reports."
    return LINK.sub(lambda m: f"*{m[2]}*" if m[1] and not (folder / m[3]).is_file() else m[0], text)


def notebook_page(nb, here: Path, links: Links):
    "A notebook as a page of the book."
    describe_figures(nb)
    cells = [code_cell(c) if c.cell_type == "code" else c for c in nb.cells]
    nb.cells = [c for c in cells if c is not None]
    for c in nb.cells:
        if c.cell_type == "markdown": c.source = links.turned(here, c.source)
        for o in c.get("outputs", []):
            if "text/markdown" in o.get("data", {}):
                o.data["text/markdown"] = without_lost_pictures(o.data["text/markdown"], links.root / here.parent)
    return nb


def source_path(path: Path) -> Path:  # both from the root
    "Where a file that pages link to stands in the book: Markdown is a page as it is."
    return path if path.suffix == ".md" else Path("source") / f"{path}.md"


def source_page(path: Path, text: str, links: Links) -> str:  # path: from the root
    "A file of the repository that pages link to."
    if path.suffix == ".md": return links.turned(path, text)
    lexer = {".py": "python", ".ini": "ini", ".md": "markdown", ".cff": "yaml", ".yml": "yaml"}.get(path.suffix, "text")
    return f"# {path}\n\n````````{lexer}\n{text.rstrip()}\n````````\n"


def heading_of(path: Path) -> tuple:
    "Title and subtitle of a notebook or a Markdown file."
    text = nbformat.read(path, 4).cells[0].source if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
    lines = [l for l in text.split("\n") if l.strip()]
    title = lines[0].lstrip("# ").strip()
    return title, next((l[1:].strip() for l in lines[1:3] if l.startswith(">")), "")
