"A number that was just made beside the committed one:  python tests/committed.py out/toy/run.json reports/toy/run.json"
import json, statistics, sys


def number(path: str, model="mamex/released") -> str:
    "Mean ± sd over the folds, as reports write it."
    v = json.load(open(path, encoding="utf-8"))["folds"]["own"][model]
    return " ± ".join(f"{x:.4f}".removeprefix("0") for x in (statistics.mean(v), statistics.stdev(v)))


def beside(made: str, committed: str) -> str:
    a, b = number(made), number(committed)
    return f"NDCG@10 over cold folds {a} (committed: {b})" + ("" if a == b else "; they differ: another processor, other versions, or code that changed since")


if __name__ == "__main__": print(beside(*sys.argv[1:]))
