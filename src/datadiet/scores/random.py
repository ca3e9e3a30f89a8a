"""A control: chance. What selects no better than this score is worth nothing."""

from __future__ import annotations

import torch

from datadiet.scores.base import score
from datadiet.seeds import stream


@score("random", needs="run")
def random(n: int, key: tuple[int, str, int], step: int) -> torch.Tensor:
    """Random (a control): uniform in [0, 1), drawn anew for every run and step.

    Args:
        n: number of examples.
        key: (seed, purpose, run) of the run, whose stream "random score" is drawn from.
        step: at which the score is taken.

    Returns:
        (n,) float32; called harder where higher.
    """
    return torch.from_numpy(stream(*key, "random score", step).random(n, dtype="float32"))
