"""Ours beside the authors' way (chapter 19b), epoch by epoch in turn.

    python tests/reference.py movielens offline      # seconds of an epoch, and the ratios
"""
import sys
from mamex.studies.clocks import material
from mamex.studies.speed import race
from mamex.studies.speed_page import race_sentences


if __name__ == "__main__":
    name, encoder = (sys.argv[1:] + ["toy", "auto"])[:2]
    _, features, split = material(name, encoder)
    facts = race(features, split, rounds=5)
    for n, w in facts["ways"].items():
        s, r = w["epoch_s"], w["ratio_training"]
        print(f"{n:20} {s['median']:8.2f} s ({s['min']:.2f} to {s['max']:.2f})   {r['median']:.2f}× in training ({r['min']:.2f} to {r['max']:.2f})")
    print(*race_sentences(facts), sep="\n")
