"""What a checkpoint holds: weights, buffers, optimiser, torch's random state and the observers, as named tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from datadiet.errors import DatadietError
from datadiet.training.recipe import Recipe

Tensors = dict[str, torch.Tensor]


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over all trainable weights."""
    weights = [p for p in model.parameters() if p.requires_grad]
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in weights)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(weights, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused)
    return torch.optim.SGD(
        weights,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov and recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
        fused=fused,
    )


def weights(model: nn.Module) -> Tensors:
    """Copies of parameters and buffers by name."""
    return {f"model/{name}": t.detach().clone() for name, t in model.state_dict().items()}


def pack(model: nn.Module, optimizer: torch.optim.Optimizer, observers: Mapping[str, Tensors]) -> Tensors:
    """Everything a run needs to go on as if it had not stopped."""
    out = weights(model) | {f"buffer/{name}": t.detach().clone() for name, t in unsaved(model).items()}
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            if value is not None:
                out[f"optimizer/{index}/{key}"] = torch.as_tensor(value).detach().clone()
    out["random/cpu"] = torch.get_rng_state()
    if next(model.parameters()).is_cuda:
        out["random/cuda"] = torch.cuda.get_rng_state(next(model.parameters()).device)
    for name, state in observers.items():
        out.update({f"observer/{name}/{key}": value.detach().clone() for key, value in state.items()})
    return out


def unsaved(model: nn.Module) -> Tensors:
    """Buffers that a state dict leaves out (`persistent=False`): training may change these, too."""
    saved = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name not in saved}


def whole_state(model: nn.Module, tensors: Tensors | None = None) -> dict[str, Any]:
    """The state dict together with the buffers that it leaves out: all that training may have changed in a network.

    Args:
        tensors: take a checkpoint's instead; one of a time when checkpoints left such buffers out has the network's.
    """
    if tensors is None:
        return {**model.state_dict(), **unsaved(model)}
    kept = {name: t.clone() for name, t in part(tensors, "buffer/").items()}
    return {**part(tensors, "model/"), **unsaved(model), **kept}


def load_whole(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Put what `whole_state` gave into a network of the same shape."""
    _make_room(model, state)
    saved = model.state_dict()
    own = dict(model.named_buffers(remove_duplicate=False))
    made_since = {name: value for name, value in saved.items() if name in own and name not in state}
    _fill_unsaved(model, state)
    model.load_state_dict({**made_since, **{n: value for n, value in state.items() if n in saved or n not in own}})


@torch.no_grad()
def _make_room(model: nn.Module, values: Mapping[str, Any], *, persistent: bool = False) -> None:
    """Buffers of the shape and type of these values where a network has none, or other ones.

    Caches are made, or get their size or type, when a network is first used, and one built afresh was not. A constant
    that is expanded cannot be written to. What a network saves under a name of its own is nothing that it lacks.
    """
    modules, saved = dict(model.named_modules(remove_duplicate=False)), model.state_dict().keys()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    for name, value in values.items():
        prefix, _, own = name.rpartition(".")
        module = modules.get(prefix)
        if module is None or not isinstance(value, torch.Tensor):
            continue
        if own in module._buffers:
            buffer = module._buffers[own]
            value = value.to(device if buffer is None else buffer.device, copy=True)
            expanded = buffer is not None and 0 in buffer.stride() and (name in saved or not torch.equal(buffer, value))
            if buffer is None or (buffer.shape, buffer.dtype) != (value.shape, value.dtype) or expanded:
                module._buffers[own] = value
        elif name not in saved and not hasattr(module, own):
            module.register_buffer(own, value.to(device, copy=True), persistent=persistent)


@torch.no_grad()
def _fill_unsaved(model: nn.Module, values: Mapping[str, Any]) -> None:
    for name, buffer in unsaved(model).items():
        if name in values and not torch.equal(buffer, values[name].to(buffer.device)):
            buffer.copy_(values[name])


def load_weights(model: nn.Module, tensors: Tensors, *, where: object = None) -> None:
    """Put a checkpoint's weights and buffers into a network of the same shape."""
    found = part(tensors, "model/")
    try:
        model.load_state_dict(found)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise DatadietError(f"the checkpoint is of another network: {reason}", where=where) from None


def unpack(tensors: Tensors, model: nn.Module, optimizer: torch.optim.Optimizer, *, where: object = None) -> None:
    """Restore weights, optimiser and random state; observers take their own part."""
    _make_room(model, part(tensors, "model/"), persistent=True)
    _make_room(model, part(tensors, "buffer/"))
    load_weights(model, tensors, where=where)
    _fill_unsaved(model, part(tensors, "buffer/"))
    state: dict[int, dict[str, Any]] = {}
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    for name, value in part(tensors, "optimizer/").items():
        index, key = name.split("/", 1)
        state.setdefault(int(index), {})[key] = _like(value, trained[int(index)])
    whole = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
    torch.set_rng_state(tensors["random/cpu"].cpu())
    if "random/cuda" in tensors and next(model.parameters()).is_cuda:
        torch.cuda.set_rng_state(tensors["random/cuda"].cpu(), next(model.parameters()).device)


def _like(value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A copy, in the weight's memory layout where it has its shape.

    Fused optimisers walk through weights and their state as they lie in memory, and files do not keep the layout.
    """
    if value.shape != weight.shape:
        return value.clone()
    return torch.empty_like(weight, dtype=value.dtype, requires_grad=False).copy_(value)


def part(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors under a prefix, without it."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
