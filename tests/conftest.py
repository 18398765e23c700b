"Tests run on two cores, in their own cache and with their own reports, and see real data only through MAMEX_DATA."
import os, shutil, subprocess, sys, tempfile
from pathlib import Path

# before numpy and torch load: spinning OpenMP threads starve whatever runs beside them, and sums come back to the last digit with one
for k, v in dict(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="0", OMP_NUM_THREADS="1").items(): os.environ.setdefault(k, v)
os.environ.setdefault("MAMEX_CACHE", str(Path(tempfile.gettempdir()) / "mamex-test-cache"))
os.environ["MAMEX_REPORTS"] = tempfile.mkdtemp(prefix="mamex-reports-")
os.environ["TQDM_DISABLE"] = "1"  # no progress bars; before tqdm loads
import matplotlib; matplotlib.use("agg")

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(Path(__file__).parent))

import pytest
from hypothesis import settings
# the same examples in every run, so that a red run points at a changed line; HYPOTHESIS=explore draws fresh ones
settings.register_profile("same", derandomize=True)
settings.register_profile("explore", print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS", "same"))


def needs(*names: str):
    "Marks a test that reads real datasets: it is skipped where one of them is absent."
    from mamex.datasets.folders import known_datasets
    gone = sorted(set(names) - set(known_datasets()))
    return pytest.mark.skipif(bool(gone), reason=f"needs {', '.join(gone)} under MAMEX_DATA")


class Files:
    "Says of each test file and each notebook when it is through, and how many are left; dots alone say little in ten minutes."
    def __init__(self, reporter): self.reporter, self.left, self.took = reporter, {}, {}

    @staticmethod
    def of(test: str) -> str: return test if test.startswith("tests/test_notebooks.py::test_notebook[") else test.split("::")[0]

    def found(self, tests):
        if not self.left: self.left = {f: sum(map(f.__eq__, map(self.of, tests))) for f in dict.fromkeys(map(self.of, tests))}

    def pytest_collection_finish(self, session): self.found([i.nodeid for i in session.items])
    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node, ids): self.found(ids)

    def pytest_runtest_logreport(self, report):
        f = self.of(report.nodeid)
        self.took[f] = self.took.get(f, 0) + report.duration
        if report.when != "teardown" or f not in self.left: return
        self.left[f] -= 1
        if self.left[f] == 0:
            done = sum(n == 0 for n in self.left.values())
            self.reporter.write(f"\n{done} of {len(self.left)}: {f} took {self.took[f]:.0f} s\n")


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    "In the process that prints; the helpers of xdist stay silent."
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter and not hasattr(config, "workerinput"): config.pluginmanager.register(Files(reporter), "files")


@pytest.fixture
def run(capsys):
    "A command of `mamex`: its status, what it prints, what it complains of."
    from mamex import cli
    def run(*argv):
        try: status = cli.main([str(a) for a in argv])
        except SystemExit as e: status = e.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err and "np." not in out + err and "pd." not in err
        return status, out, err
    return run


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    "What a package is made of, copied from the checkout."
    src = tmp_path_factory.mktemp("source")
    for name in ("mamex", "README.md", "settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE"):
        there, ignored = ROOT / name, shutil.ignore_patterns("__pycache__")
        if there.is_dir(): shutil.copytree(there, src / name, ignore=ignored)
        else: shutil.copy(there, src)
    return src


def build_wheel(source: Path, to: Path) -> Path:
    "Of a folder or of a source distribution."
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(to), str(source)], check=True, capture_output=True, text=True)
    return next(to.glob("mamex-*.whl"))


@pytest.fixture(scope="session")
def wheel(source, tmp_path_factory) -> Path: return build_wheel(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def world():
    "60 users and 50 items, of which nobody has met the last six."
    from dataclasses import replace
    from mamex.datasets.toy import toy
    ds = toy(n_users=60, n_items=50)
    return replace(ds, interactions=ds.interactions[ds.interactions["item"] < 44].reset_index(drop=True))
