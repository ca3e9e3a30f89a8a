"""Models by name: the registry, and the one way to build from it."""

from __future__ import annotations

import inspect
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from datadiet.errors import DatadietError, unknown
from datadiet.models.foreign import build_foreign, find, first_line, is_foreign
from datadiet.models.mlp import mlp
from datadiet.models.options import check_arguments, checked_shape, positive
from datadiet.models.resnet import resnet18, resnet50
from datadiet.models.resnet_thin import resnet8, resnet20, resnet32, resnet56
from datadiet.models.small_cnn import small_cnn
from datadiet.registry import Registry
from datadiet.source import code_of, is_ours

log = logging.getLogger(__name__)

MODELS: Registry[Callable[..., nn.Module]] = Registry("model")
_OURS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18,
    "resnet50": resnet50,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet56": resnet56,
    "resnet8": resnet8,
    "small-cnn": small_cnn,
    "mlp": mlp,
}
for _name, _builder in _OURS.items():
    MODELS.register(_name, _builder)


def build(name: str, input_shape: Sequence[int], classes: int, *, seed: int | None = None, **args: Any) -> nn.Module:
    """A network with fresh weights, in train mode on the CPU: `build_with`, the builder's own arguments by keyword."""
    return build_with(name, input_shape, classes, args, seed=seed)


def build_with(
    name: str, input_shape: Sequence[int], classes: int, args: Mapping[str, Any], *, seed: int | None = None
) -> nn.Module:
    """A network with fresh weights, in train mode on the CPU.

    Args:
        name: a registered name, or a user's own as "package.module:function" or "path/to/file.py:function".
        input_shape: (C, H, W) of images, (D,) of a table's rows.
        classes: the number of logits.
        seed: of the weights, which are then the same byte for byte, and the global random streams (torch's,
            numpy's, Python's) are left untouched; None draws them from these.
        args: the builder's own (`init`, `width`, …), which may have any name, `seed` too.
    """
    shape, classes = checked_shape(input_shape), positive(classes, "classes")
    if name not in MODELS and not is_foreign(str(name)):
        error = unknown("model", name, MODELS.names())
        if str(name).endswith(".py"):
            raise DatadietError(error.what, fix=f"name the function too: {name}:function")
        raise DatadietError(
            error.what, fix=f"{error.fix}; or package.module:function or file.py:function for one of your own"
        )
    with _stream(seed), torch.device("cpu"):
        if is_foreign(name):
            return build_foreign(name, shape, classes, args)
        builder = MODELS.get(name)
        check_arguments(builder, args, name, given=("input_shape", "classes"))
        try:
            return builder(shape, classes, **args)
        except (RuntimeError, MemoryError) as error:  # what no memory carries
            fix = "make it smaller" if is_ours(builder) else None
            what = f"{type(error).__name__}: {first_line(error)}"
            raise DatadietError(what, where=f"model {name}", fix=fix) from error


def is_own(name: str) -> bool:
    """Whether a network is this library's, and not one that a user named or registered."""
    return not is_foreign(name) and is_ours(MODELS.get(name))


def code_fingerprint(name: str, model: nn.Module | None = None) -> str | None:
    """What identifies the code of a user's network; None where no source is found.

    Args:
        model: the network, whose modules may be classes of other files than its builder.
    """
    builder = find(name) if is_foreign(name) else MODELS.get(name)
    classes = {type(module) for module in model.modules()} if model is not None else set()
    theirs = {one for one in classes if not is_ours(one) and not one.__module__.startswith("torch.")}
    return code_of([builder, *theirs])


@dataclass(frozen=True)
class Description:
    """A line of the list of models."""

    name: str
    parameters: int | None  # for (3, 32, 32) and 10 classes; None where it cannot be built for these
    summary: str


def describe() -> list[Description]:
    """Every registered model, its size for CIFAR-10, and the first line of its builder's docstring."""
    lines = []
    for name, builder in MODELS.items():
        summary = (inspect.getdoc(builder) or "").partition("\n")[0]
        parameters = None
        try:
            with _stream(0), torch.device("meta"):
                parameters = sum(p.numel() for p in builder((3, 32, 32), 10).parameters())
        except Exception as error:  # another package's builder; the list must still show
            log.warning("the model %r cannot be built for (3, 32, 32): %s", name, error)
        lines.append(Description(name, parameters, summary))
    return lines


@contextmanager
def _stream(seed: int | None) -> Iterator[None]:
    """The global streams set to a seed, and back: torch's, CUDA's where it is in use, and those of numpy and Python."""
    if seed is None:
        yield
        return
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=cuda):
        # torch.manual_seed would also seed devices that are not in use yet, and nothing would set them back.
        seed = int(seed)  # numpy's are not taken
        torch.default_generator.manual_seed(seed)
        for device in cuda:
            torch.cuda.default_generators[device].manual_seed(seed)
        of_numpy, of_python = np.random.get_state(), random.getstate()
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)
            random.setstate(of_python)
