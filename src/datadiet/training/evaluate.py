"""Eval-mode forward passes over many rows: logits for snapshots and accuracies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from datadiet.data.batches import Batches
from datadiet.numerics import Numerics


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Eval mode for the block, each module back in its own mode afterwards; no gradient is recorded."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def predict(model: nn.Module, batches: Batches, numerics: Numerics, rows: np.ndarray | None = None) -> torch.Tensor:
    """(n, C) float32 logits of unaugmented rows (all by default), in eval mode.

    Every forward pass has the same number of rows, the last one filled up, so that a row's logits do not depend on
    how many rows are asked for.
    """
    wanted = torch.arange(len(batches), device="cpu") if rows is None else torch.from_numpy(np.asarray(rows, np.int64))
    wanted = wanted.to(batches.device)
    size = numerics.scoring_batch
    out = []
    with evaluation(model), numerics.autocast(scoring=True):
        for part, count in _filled(wanted, size):
            inputs = batches.inputs(part)
            logits = model(**inputs) if isinstance(inputs, dict) else model(inputs)
            out.append(logits[:count].float())
    return torch.cat(out)


def by_model(
    compute: Any, model: nn.Module, batches: Batches, numerics: Numerics, go_on: Callable[[], None]
) -> torch.Tensor:
    """A score of the network itself (a gradient norm), batch by batch over all rows; `go_on` may raise between two."""
    size = min(numerics.scoring_batch, 128)
    out = []
    for rows, count in _filled(torch.arange(len(batches), device=batches.device), size):
        go_on()
        found = compute(model, batches.inputs(rows), batches.labels[rows])
        out.append(torch.as_tensor(found)[:count])  # somebody's may give an array or a list
    return torch.cat(out)


def _filled(rows: torch.Tensor, size: int) -> Iterator[tuple[torch.Tensor, int]]:
    """Batches of one size, the last filled up, and how many of each count: a row's value then depends on no other."""
    for part in rows.split(size):
        yield (part if len(part) == size else torch.cat([part, part[:1].expand(size - len(part))])), len(part)
