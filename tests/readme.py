"README.md from nbs/index.ipynb:  python tests/readme.py [FILE]   (prints it without FILE)"
import re, sys
from pathlib import Path
import nbformat
from traitlets.config import Config
from nbconvert import MarkdownExporter

NBS = Path(__file__).parent.parent / "nbs"


def readme() -> str:
    "The index notebook as GitHub markdown: cells marked `echo: false` show their output alone, links start at the root."
    nb = nbformat.read(NBS / "index.ipynb", 4)
    nb.metadata.language_info = dict(name="python")  # of the fences that code cells become
    for c in nb.cells:
        if c.source.startswith("#| echo: false"): c.metadata.tags = ["no-source"]
    hide = {"TagRemovePreprocessor": {"enabled": True, "remove_input_tags": {"no-source"}}}
    text, _ = MarkdownExporter(config=Config(hide)).from_notebook_node(nb)
    text = re.sub(r"\]\((?!https?:|#|\.\./)([^)]+\.ipynb)", r"](nbs/\1", text)  # chapters stand in nbs/
    text = text.replace("](../", "](")                                             # the rest at the root
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(readme(), encoding="utf-8") if len(sys.argv) > 1 else print(readme())
