"""`grand_loader`: gradient norms of a whole dataset, in its order."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler

from datadiet.errors import DatadietError
from datadiet.gradients.norms import grand

_LABELS = ("labels", "label", "targets", "target", "y")


def grand_loader(
    model: nn.Module, loader: Iterable[Any], *, device: torch.device | str | None = None, **options: Any
) -> Any:
    """Gradient norms of all examples that a loader gives.

    Args:
        model: as in `grand`.
        loader: batches `(inputs, labels)`, `(input, input, …, labels)`, or dicts with "labels". A shuffling
            `DataLoader` is read in the order of its dataset, and the last partial batch is never dropped.
        device: where batches are put; default: the model's.
        **options: those of `grand`.

    Returns:
        (N,) on the CPU in dataset order; with `per`, a dict of such.
    """
    if device is None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
    found: list[Any] = []
    drawn = torch.get_default_device()  # where a DataLoader draws a seed for its workers
    with torch.random.fork_rng(devices=[drawn] if drawn.type == "cuda" else []):
        for number, batch in enumerate(_in_order(loader)):
            inputs, labels = split_batch(batch, model, number, named=options.get("forward") is None)
            if isinstance(labels, (np.ndarray, list)) and not any(isinstance(t, Tensor) for t in tree_leaves(labels)):
                with suppress(TypeError, ValueError, RuntimeError):  # it may be for a loss of the caller's own
                    labels = torch.as_tensor(labels)
            inputs, labels = tree_map(lambda t: t.to(device) if isinstance(t, Tensor) else t, (inputs, labels))
            found.append(grand(model, inputs, labels, **options))
    if not found:
        return torch.zeros(0, device="cpu")
    if isinstance(found[0], dict):
        return {name: torch.cat([f[name] for f in found]).cpu() for name in found[0]}
    return torch.cat(found).cpu()


def _in_order(loader: Iterable[Any]) -> Iterable[Any]:
    if not isinstance(loader, DataLoader):
        return loader
    sampler, stream = loader.sampler, isinstance(loader.dataset, IterableDataset)
    # One with a generator, which may be that of the caller's training, would draw a seed from it.
    kept = not loader.drop_last and loader.generator is None
    if kept and (stream or (isinstance(sampler, SequentialSampler) and loader.batch_size is not None)):
        return loader
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
    if size is None:
        raise DatadietError(
            "the loader's batches have no size of their own", where="loader", fix="make one with batch_size=…"
        )
    if not (stream or isinstance(sampler, (SequentialSampler, RandomSampler)) or len(sampler) == len(loader.dataset)):  # type: ignore[arg-type]
        raise DatadietError(
            f"the loader's {type(sampler).__name__} draws its own choice of examples, so dataset order is not defined",
            where="loader", fix="wrap the examples in torch.utils.data.Subset and load that",
        )  # fmt: skip
    return DataLoader(
        loader.dataset, batch_size=size, num_workers=loader.num_workers, collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory, multiprocessing_context=loader.multiprocessing_context,
        worker_init_fn=loader.worker_init_fn,
    )  # fmt: skip


def split_batch(batch: Any, model: nn.Module, number: int = 0, *, named: bool = True) -> tuple[Any, Any]:
    """Inputs and labels of a batch.

    Args:
        batch: a tuple whose last item is the labels, or a mapping that holds them under one of the usual names.
        model: to see whether a mapping's names are its arguments; if not, a lone tensor is passed by position.
        named: whether a mapping is called by name (False where the caller calls the model himself).
    """
    if isinstance(batch, Mapping):
        items = dict(batch)
        name = next((n for n in _LABELS if n in items), None)
        if name is None:
            raise _unreadable(f"has the keys {', '.join(map(str, items))}", number)
        labels = items.pop(name)
        tensors = {n: t for n, t in items.items() if isinstance(t, Tensor)}
        if named and len(tensors) == 1 and not set(tensors) & set(inspect.signature(model.forward).parameters):
            return next(iter(tensors.values())), labels
        return tensors, labels
    if isinstance(batch, (tuple, list)) and len(batch) >= 2:
        *inputs, labels = batch
        return (inputs[0] if len(inputs) == 1 else tuple(inputs)), labels
    raise _unreadable(f"is a {type(batch).__name__}", number)


def _unreadable(what: str, number: int) -> DatadietError:
    return DatadietError(
        f"batch {number} {what}; its labels cannot be told", where="loader",
        fix='give tuples (inputs, labels) or dicts with "labels"',
    )  # fmt: skip
