"The book: built from a checkout without a network, then looked at page by page in a browser, in two widths."
import functools, http.server, json, os, re, shutil, subprocess, sys, threading
from pathlib import Path

import nbformat as nf, pytest
from conftest import ROOT
from filelock import FileLock

sys.path.insert(0, str(ROOT / "book"))
import api, build, pages

HERE = Path("nbs/paper/1_x.ipynb")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_browser = pytest.mark.skipif(not CHROMIUM, reason="needs chromium on the PATH")


@pytest.fixture
def links(tmp_path):
    "A repository of three pages and one file that is none."
    for f in ("nbs/paper/1_x.ipynb", "nbs/2_y.ipynb", "reports/README.md", "reports/a.png", "tests/test_z.py"):
        (tmp_path / f).parent.mkdir(parents=True, exist_ok=True); (tmp_path / f).write_text("x = 1")
    return pages.Links(tmp_path, {HERE, Path("nbs/2_y.ipynb"), Path("reports/README.md")})


# ---- pages

@pytest.mark.parametrize("written, turned", [
    ("[y](../2_y.ipynb)", "[y](../2_y.ipynb)"),
    ("[y](../2_y.ipynb#What-It-Is)", "[y](../2_y.ipynb#what-it-is)"),
    ("[here](#A-Part)", "[here](#a-part)"),
    ("[`y`](../2_y.ipynb) and [all](../../reports/README.md)", "[`y`](../2_y.ipynb) and [all](../../reports/README.md)"),
    ("![a](../../reports/a.png)", "![a](../../reports/a.png)"),
    ("[web](https://example.org/a_(b))", "[web](https://example.org/a_(b))"),
    ("[front](../../README.md#For-All)", "[front](../../nbs/index.ipynb#for-all)"),
    ("[test](../../tests/test_z.py)", "[test](../../source/tests/test_z.py.md)"),
    ("```\n[no](nowhere.md)\n```\n", "```\n[no](nowhere.md)\n```\n"),
])
def test_links_are_turned(links, written, turned): assert links.turned(HERE, written) == turned


def test_a_dead_link_is_an_error(links):
    with pytest.raises(KeyError, match="nowhere.ipynb"): links.turned(HERE, "see [this](nowhere.ipynb)")


@pytest.mark.parametrize("source, folded", [
    ("import torch", True), ("from a import (b,\n c)\nimport d; d.use('e')", True),
    ("import torch\nx = 1", False), ("x = f()", False), ("f()", False), ("", False), ("%matplotlib inline", False)])
def test_imports_are_folded(source, folded): assert pages.only_imports(source) == folded


def test_a_notebook_becomes_a_page(links):
    png = nf.v4.new_output("display_data", {"image/png": "aGk="})
    lost = nf.v4.new_output("display_data", {"text/markdown": "![Bars](bars.png) and more"})
    nb = nf.v4.new_notebook(cells=[
        nf.v4.new_markdown_cell("# Title\n> Says it."), nf.v4.new_code_cell("#| default_exp x"),
        nf.v4.new_code_cell("#| export\nimport torch"), nf.v4.new_markdown_cell("## Curves\nLook at $x$ and **the end**."),
        nf.v4.new_code_cell("#| export\nplot()", outputs=[png]), nf.v4.new_code_cell("#| echo: false\nf()", outputs=[lost])])
    cells = pages.notebook_page(nb, HERE, links).cells
    assert [c.source for c in cells if c.cell_type == "code"] == ["import torch", "plot()", "f()"]
    assert cells[1].metadata.tags == ["hide-input"] and cells[4].metadata.tags == ["remove-input"]
    assert cells[3].metadata.mystnb["image"]["alt"] == "Curves: Look at x and the end."
    assert cells[4].outputs[0].data["text/markdown"] == "*Bars* and more"


def test_a_function_is_shown_as_it_is_written():
    part = api.module_part("mamex.gate", "../nbs/paper/3_gate.ipynb")
    assert "def fuse(z: Tensor, alpha: Tensor) -> Tensor:  # float [n, M, d] and [n, M] → e, float [n, d]\n```" in part
    assert "class FusionGate(nn.Module):\n    def __init__(self,\n" in part and "The weighted sum of the modalities (eq. 6)." in part


def test_every_public_name_stands_in_the_reference_once():
    import importlib
    rooms = api.modules(ROOT, [""])
    assert {m.split(".")[1] for room in rooms.values() for m in room} == set(rooms) and len(rooms) >= 18
    for room in rooms.values():
        for m in room:
            part, names = api.module_part(m, "../x.ipynb"), importlib.import_module(m).__all__
            assert sorted(re.findall(r"^(?:### |- )`(\w+)`", part, re.M)) == sorted(set(names)), m


def test_the_contents_hold_every_notebook_and_every_report():
    there = {p for _, _, entries in build.contents() for p in build.flat(entries)} | {Path("nbs/index.ipynb")}
    found = (*(ROOT / "nbs").rglob("*.ipynb"), *(ROOT / "reports").rglob("*.md"))
    assert {p.relative_to(ROOT) for p in found if ".ipynb_checkpoints" not in p.parts} <= there


def test_the_drawing_is_made_by_the_code():
    from mamex.reports.drawing import model_svg
    assert (ROOT / "reports" / "model.svg").read_text(encoding="utf-8") == model_svg()


def test_a_folder_of_others_stays(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    command = [sys.executable, str(ROOT / "book" / "build.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "no book" in done.stderr and [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    assert build.replaceable(tmp_path / "new")


# ---- the site

@pytest.fixture(scope="session")
def site(tmp_path_factory):
    "The whole book, built once for all workers, in a namespace without a network where that is allowed."
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "book"
    alone = ["unshare", "-rn"] if not subprocess.run("unshare -rn true", shell=True, capture_output=True).returncode else []
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            command = [*alone, sys.executable, str(ROOT / "book" / "build.py"), str(folder)]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return folder


@pytest.fixture(scope="session")
def address(site):
    "The book as a server gives it; every request that failed is kept."
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *a): pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def names_of(site):
    "Every page but the first, which sends its reader on."
    return sorted(str(p.relative_to(site)) for p in site.rglob("*.html") if "_static" not in p.parts and p != site / "index.html")


SEEN = """() => {
  const text = document.querySelector("article") || document.body, raw = text.cloneNode(true);
  raw.querySelectorAll("pre, code, script, style, mjx-container").forEach(e => e.remove());
  const scrolls = e => e && e !== text && (/auto|scroll|hidden/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
  const column = text.getBoundingClientRect();
  return {
    raw: (raw.textContent.match(/\\$\\$|\\\\\\(|\\\\\\[/g) || []).length,
    errors: document.querySelectorAll("mjx-merror, [data-mjx-error]").length,
    wide: document.documentElement.scrollWidth - window.innerWidth,
    out: [...text.querySelectorAll("*")].filter(e => e.getBoundingClientRect().right > column.right + 2 && !scrolls(e))
         .slice(0, 3).map(e => e.tagName + ": " + e.textContent.slice(0, 60)),
    mute: [...document.images].filter(i => !(i.alt || "").trim() || /^[^ ]*\\.(png|svg)$/.test(i.alt))
          .map(i => i.src.slice(0, 80)),
    broken: [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src.slice(0, 80))};
}"""


@in_browser
@pytest.mark.parametrize("half", [0, 1])
def test_every_page_can_be_read(site, address, half):
    "No raw equation, failed request, foreign host, overflow or picture without words, at 1280 and at 400 pixels."
    from playwright.sync_api import sync_playwright
    faults, hosts, failed = {}, set(), []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda r: hosts.add(r.url) if not r.url.startswith((address, "data:")) else None)
        page.on("response", lambda r: failed.append(r.url) if r.status >= 400 else None)
        page.on("pageerror", lambda e: failed.append(str(e)))
        for name in names_of(site)[half::2]:
            for width in (1280, 400):
                page.set_viewport_size({"width": width, "height": 900})
                if width == 1280: page.goto(f"{address}/{name}", wait_until="load")
                page.evaluate("() => window.MathJax && MathJax.startup ? MathJax.startup.promise : null")
                wrong = {k: v for k, v in page.evaluate(SEEN).items() if v and not (k == "wide" and v < 0)}
                if wrong: faults[name, width] = wrong
        browser.close()
    assert not faults, json.dumps({f"{n} {w}": v for (n, w), v in faults.items()}, indent=1)[:4000]
    assert not hosts and not failed, (sorted(hosts)[:5], failed[:5])


@in_browser
@pytest.mark.parametrize("word, page", [
    ("gate", "nbs/paper/3_gate"), ("alignment", "reports/claims"), ("recommender", "nbs/shop/1_recommender")])
def test_the_search_finds_it(address, word, page):
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = browser.new_page()
        view.goto(f"{address}/search.html?q={word}")
        view.wait_for_selector("ul.search li a", timeout=20_000)
        view.wait_for_timeout(1500)
        found = view.eval_on_selector_all("ul.search li a", "all => all.map(a => a.getAttribute('href'))")
        browser.close()
    assert any(page in f for f in found[:10]), found[:10]


def test_the_first_page_leads_to_the_front(site): assert 'url=nbs/index.html"' in (site / "index.html").read_text()


def test_the_equations_need_nobody_else(site):
    "MathJax lies in the book, and no page names another host as a source of scripts, styles, fonts or pictures."
    assert (site / "_static" / "mathjax" / "tex-chtml.js").stat().st_size > 10**6
    for p in site.rglob("*.html"):
        text = p.read_text(encoding="utf-8")
        foreign = re.findall(r"<(?:script|img|link|iframe|source)\b[^>]*\b(?:src|href)=\"(?:https?:)?//[^\"]+", text)
        assert not foreign, (p.name, foreign[:2])
