"A number that was just made beside the committed one:  python tests/committed.py out/toy/run.json reports/toy/run.json"
import json, sys


def number(path: str, model="mamex/released", metric="ndcg@10") -> str:
    "Mean ± sd over the seeds, as reports write it."
    s = json.load(open(path, encoding="utf-8"))["test"][model][metric]
    return " ± ".join(f"{s[k]:.4f}".removeprefix("0") for k in ("mean", "sd"))


def beside(made: str, committed: str) -> str:
    a, b = number(made), number(committed)
    return f"test NDCG@10 {a} (committed: {b})" + ("" if a == b else "; they differ: another processor, other versions, or code that changed since")


if __name__ == "__main__": print(beside(*sys.argv[1:]))
