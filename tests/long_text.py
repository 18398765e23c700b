"""Does it help to read long texts to their end? The ridge floor on texts alone, cut against split, over random cold splits.

    python tests/long_text.py luxury offline 10
"""
import sys, warnings
import numpy as np
from scipy import stats
from mamex.rivals.floors import tune_ridge
from mamex.extractor import extract
from mamex.datasets.folders import load_dataset
from mamex.protocol.metrics import evaluate
from mamex.protocol.splits import cold_split


def measure(ds, features, seed):
    "Mean test NDCG@10 among the test items; λ chosen among the validation items."
    split = cold_split(ds, seed=seed)
    return evaluate(tune_ridge(features, split, ["text"], pool="own")[0], split, "test", "own")["ndcg@10"].mean()


def main(name="luxury", encoder="offline", folds=10):
    warnings.simplefilter("ignore")
    ds = load_dataset(name)
    F = {how: extract(ds, encoder, long_text=how, progress=False) for how in ("cut", "split")}
    c = F["cut"].counts["text"]
    print(f"{name}, {encoder}: {c.get('too_long', 0):,} of {c['present']:,} texts too long, {c.get('tokens_unread', 0) / max(1, c.get('tokens', 0)):.0%} of their tokens not read")
    x = np.array([[measure(ds, f, seed) for f in F.values()] for seed in range(int(folds))])
    d = x[:, 1] - x[:, 0]
    low, high = stats.t.interval(.95, len(d) - 1, d.mean(), stats.sem(d))
    print(f"ridge/text, NDCG@10 among the test items, {folds} splits: cut {x[:, 0].mean():.4f}, split {x[:, 1].mean():.4f}, "
          f"difference {d.mean():+.4f} [{low:+.4f}, {high:+.4f}], split ahead in {(d > 0).sum()}")


if __name__ == "__main__": main(*sys.argv[1:])
