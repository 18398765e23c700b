"Tests run on two cores, in their own cache and with their own reports, and see real data only through MAMEX_DATA."
import os, sys, tempfile
from pathlib import Path

# before numpy and torch load: spinning OpenMP threads starve whatever runs beside them, and sums come back to the last digit with one
for k, v in dict(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="0", OMP_NUM_THREADS="1").items(): os.environ.setdefault(k, v)
os.environ.setdefault("MAMEX_CACHE", str(Path(tempfile.gettempdir()) / "mamex-test-cache"))
os.environ["MAMEX_REPORTS"] = tempfile.mkdtemp(prefix="mamex-reports-")
os.environ["IN_TEST"] = "1"  # no progress bars
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
    from mamex.datasets import known_datasets
    gone = sorted(set(names) - set(known_datasets()))
    return pytest.mark.skipif(bool(gone), reason=f"needs {', '.join(gone)} under MAMEX_DATA")
