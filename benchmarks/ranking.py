"""How near one scoring's ranking is to another's: a small preset beside ResNet18, say (docs/reproduction.md).

The mean of SCORES is compared with means of ever more runs of REFERENCE. A mean of k runs holds the less of the runs'
own noise the larger k is, so the correlation rises with k; what it says at the last k is the figure.

    datadiet score cifar10 --data-dir DIR -o out/small
    datadiet score cifar10 --data-dir DIR --preset dd-cifar10 --runs 10 --at 20ep -o out/resnet18
    python benchmarks/ranking.py out/small out/resnet18 [--score el2n] [--at 20ep] [--reference-at 20ep]
"""

from __future__ import annotations

import argparse
import sys
from itertools import combinations, islice

import numpy as np

import datadiet as dd
from datadiet.scores.table import rank_correlation

MOST = 300  # choices of k runs that are looked at: all, up to ten runs


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("scores")
    asked.add_argument("reference")
    asked.add_argument("--score", default="el2n")
    asked.add_argument("--at", help="step of SCORES, default its last")
    asked.add_argument("--reference-at", help="step of REFERENCE, default its last")
    given = asked.parse_args()
    small, large = dd.load_table(given.scores), dd.load_table(given.reference)
    small.check(large.fingerprint)
    mine, runs = small.mean(given.score, given.at), large.values(given.score, given.reference_at).astype(np.float64)
    print(f"{given.score} of {len(mine):,} examples; {len(runs)} runs of {given.reference}")
    between = [rank_correlation(a, b) for a, b in combinations(runs, 2)]
    if between:
        print(f"one run of it with another: {span(between)}")
    for k in range(1, len(runs) + 1):
        found = [rank_correlation(mine, np.mean(some, 0)) for some in islice(combinations(runs, k), MOST)]
        print(f"with the mean of {k}: {span(found)}, {len(found)} choices")
    hardest = [
        dd.select(table, by=given.score, keep=0.5, at=at)
        for table, at in ((small, given.at), (large, given.reference_at))
    ]
    shared = len(np.intersect1d(*hardest)) / len(hardest[0])
    print(f"of the hardest halves {shared:.1%} are the same examples")


def span(values: list[float]) -> str:
    return f"{np.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


if __name__ == "__main__":
    try:
        main()
    except dd.DatadietError as error:
        sys.exit(f"error: {error}")
