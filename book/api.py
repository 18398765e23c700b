"Reference pages: each public name of the modules, once, with its signature and docments as written, and its docstring."
import ast, importlib, inspect, re, textwrap
from pathlib import Path

MARKS = re.compile(r"([*_\[\]<>$|~#])")
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def prose(docstring: str) -> str:
    "A docstring as Markdown in which nothing but code between backticks is marked up."
    return "`".join(part if i % 2 else MARKS.sub(r"\\\1", part) for i, part in enumerate(docstring.split("`")))


def head(node, lines: list) -> str:  # lines: of the module
    "The lines of a function before its body: name, arguments, docments."
    first = node.body[0]
    if first.lineno == node.lineno: return lines[node.lineno - 1][node.col_offset:first.col_offset].rstrip()
    return "\n".join(lines[node.lineno - 1:first.lineno - 1])


def class_head(node, lines: list) -> str:
    "A class: its first line, and its fields or the signature of its `__init__`."
    fields = [s for s in node.body if isinstance(s, ast.AnnAssign)]
    init = [s for s in node.body if isinstance(s, FUNCTION) and s.name == "__init__"]
    inner = ["\n".join(lines[s.lineno - 1:s.end_lineno]) for s in fields] or [head(s, lines) for s in init]
    return "\n".join([lines[node.lineno - 1].rstrip(), *inner])


def entry(node, lines: list, name: str, level: int) -> str:
    "A function, a class or a method: heading, signature, docstring; of a class its public methods."
    shown = class_head(node, lines) if isinstance(node, ast.ClassDef) else head(node, lines)
    said = prose(ast.get_docstring(node) or "")
    text = f"{'#' * level} `{name}`\n\n```python\n{textwrap.dedent(shown)}\n```\n\n{said}\n"
    if not isinstance(node, ast.ClassDef): return text
    public = [s for s in node.body if isinstance(s, FUNCTION) and not s.name.startswith("_") and ast.get_docstring(s)]
    return text + "".join("\n" + entry(s, lines, f"{name}.{s.name}", level + 1) for s in public)


def constants(module, names: list) -> str:
    "The constants of a module in one list, short values with them."
    def line(n):
        value = "" if callable(getattr(module, n)) else " ".join(repr(getattr(module, n)).split())
        shown = 0 < len(value) <= 80 and "`" not in value and " at 0x" not in value
        return f"- `{n}`" + (f" = `{value}`" if shown else "")
    return "\n".join(map(line, names)) + "\n\n" if names else ""


def module_part(name: str, chapter: str) -> str:  # chapter: link to the notebook that exports it
    "One module: its first line, its constants, its functions and classes."
    m = importlib.import_module(name)
    source = inspect.getsource(m)
    nodes = {n.name: n for n in ast.parse(source).body if isinstance(n, (*FUNCTION, ast.ClassDef))}
    names = list(dict.fromkeys(getattr(m, "__all__", [])))
    entries = "\n".join(entry(nodes[n], source.split("\n"), n, 3) for n in names if n in nodes)
    rest = [n for n in names if n not in nodes]
    first = f"{prose(m.__doc__ or '')} The chapter: [{Path(chapter).stem}]({chapter})."
    return f"## {name}\n\n{first}\n\n{constants(m, rest)}{entries}"


def modules(root: Path, folders=("",)) -> dict:  # → room → {module: path of the notebook from the root}
    "The modules of each room, with the notebooks that export them, in the order of the folders of nbs/."
    rooms = {}
    for nb in (nb for f in folders for nb in sorted((root / "nbs" / f).rglob("*.ipynb"))):
        found = re.search(r"#\| default_exp ([\w.]+)", nb.read_text(encoding="utf-8"))
        if found and ".ipynb_checkpoints" not in nb.parts:
            rooms.setdefault(found[1].split(".")[0], {})[f"mamex.{found[1]}"] = nb.relative_to(root)
    return rooms


def api_page(room: str, chapters: dict) -> str:
    "The reference of one room."
    return f"# mamex.{room}\n\n" + "\n".join(module_part(m, f"../{nb}") for m, nb in chapters.items())
