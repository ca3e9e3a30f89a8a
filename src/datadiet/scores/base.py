"""What a score is: a pure function, what it must be given, and which way it points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from datadiet.registry import Registry

Needs = Literal["logits", "model", "calibrated", "trajectory", "run", "children"]


@dataclass(frozen=True)
class Score:
    """One score.

    Args:
        name: how it is asked for.
        needs: what `compute` is given. "logits": `(logits, labels) -> (B,)`, of a network in eval mode on unaugmented
            inputs; "model": `(model, inputs, labels) -> (B,)`; "calibrated": the same, of a copy whose batch norm has
            statistics of training batches; "trajectory": `(n, device) -> accumulator` of what
            training saw of n examples; "run": `(n, (seed, purpose, run), step) -> (n,)`, of a run's name alone;
            "children": `(ends, middles, pairs) -> (n,)`, losses of networks spawned at that step and between them.
        compute: the function.
        harder: whether a "higher" or a "lower" value means a harder example; policies use it, so that "hardest"
            always means hardest.
        doc: one line.
        columns: further columns that an accumulator's result has beside the score itself.
        visits: how often training must have seen an example before an accumulator has a value for it.
    """

    name: str
    needs: Needs
    compute: Callable[..., Any]
    harder: Literal["higher", "lower"]
    doc: str
    columns: tuple[str, ...] = ()
    visits: int = 1

    @property
    def sign(self) -> int:
        """1 where higher is harder, else −1."""
        return 1 if self.harder == "higher" else -1


SCORES: Registry[Score] = Registry("score")


def score(
    name: str,
    needs: Needs,
    harder: Literal["higher", "lower"] = "higher",
    columns: tuple[str, ...] = (),
    visits: int = 1,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a score; its docstring's first line is the score's."""

    def add(compute: Callable[..., Any]) -> Callable[..., Any]:
        doc = (compute.__doc__ or "").strip().splitlines()[0] if compute.__doc__ else ""
        SCORES.register(name, Score(name, needs, compute, harder, doc, columns, visits))
        return compute

    return add
