"""The README's two runs, as a newcomer types them, and the figures that they must reach.

Run: python .ci/demo.py FOLDER. It fails where a figure is missed. Wall times are only printed: others may be at work.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

DATADIET = Path(sys.executable).with_name("datadiet")


def run(place: Path, *words: str) -> dict[str, Any]:
    start = time.monotonic()
    command = [str(DATADIET), "run", *words, "--store", str(place / "runs"), "--json"]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print(f"datadiet run {' '.join(words)}: {time.monotonic() - start:.0f} s", flush=True)
    return dict(json.loads(ended.stdout))


def accuracies(said: dict[str, Any]) -> dict[str, float]:
    return {row["name"]: 100 * row["mean"] for row in said["rows"]}


def main() -> None:
    place = Path(sys.argv[1])
    failed = []

    def check(what: str, holds: bool) -> None:
        print(f"  {'holds' if holds else 'FAILS'}: {what}", flush=True)
        if not holds:
            failed.append(what)

    clean = accuracies(run(place, "digits", "--out", str(place / "clean"))["comparison"])
    full, hardest, drawn = (clean[name] for name in ("full data", "el2n hardest 50%", "random 50%"))
    check(f"the hardest half is within 0.5 points of all data: {hardest:.2f}, {full:.2f}", hardest >= full - 0.5)
    check(f"and a point above a random half: {drawn:.2f}", hardest >= drawn + 1)
    words = ("digits", "--noise", "permute:0.1", "--keep", "0.5", "--tune", "--out", str(place / "noisy"))
    noisy = run(place, *words)
    check(f"EL2N finds wrong labels: AUROC {noisy['auroc']['el2n']:.4f}", noisy["auroc"]["el2n"] >= 0.98)
    test = accuracies(noisy["tuned"]["test"])
    window = next(mean for name, mean in test.items() if name.startswith("tuned window"))
    check(
        f"the tuned window is a point above all data, wrong labels included: {window:.2f}, {test['full data']:.2f}",
        window >= test["full data"] + 1,
    )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    check(f"no process holds more than 1 GB: {peak:.2f} GB", peak <= 1)
    if failed:
        sys.exit(f"missed: {len(failed)}")


if __name__ == "__main__":
    main()
