"""What is asked of a model before hours of training: that its output fits the classes; and who it is."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from datadiet.errors import DatadietError


def check_output(model: nn.Module, sample_batch: Any, classes: int) -> None:
    """Raise unless two examples give finite logits (2, classes), in eval mode and in training mode.

    The model is left as it was: mode, buffers and random streams.

    Args:
        sample_batch: inputs as the model takes them, a tensor (B, …) or a dict of tensors, B >= 2.
    """
    _refuse_lazy(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    pair = _first(sample_batch, 2, device)
    modes = [(module, module.training) for module in model.modules()]
    places = [(module, dict(module._buffers)) for module in model.modules()]  # training may put others in their place
    weights, modules = {id(weight) for weight in model.parameters()}, {id(module) for module in model.modules()}
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    cuda = [device.index or 0] if device.type == "cuda" else []
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise DatadietError("no weight of the model is trained", fix="leave some that require a gradient")
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=cuda):
            for mode, training in (("", False), (" in training mode", True)):
                model.train(training)
                _check_logits(model(**pair) if isinstance(pair, dict) else model(pair), classes, mode)
        _refuse_made(model, weights, modules)
    except DatadietError:
        raise
    except Exception as error:  # the user's network may raise anything; its own words say what
        line = (str(error).strip().splitlines() or ["no message"])[0]
        raise DatadietError(
            f"the model does not accept {_shape(pair)}{mode}, {type(error).__name__}: {line}",
            fix="build it for this dataset's input shape",
        ) from error
    finally:
        for module, training in modes:
            module.training = training
        for module, before in places:
            module._buffers.clear()
            module._buffers.update(before)
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def _refuse_lazy(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):  # its initial weights would depend on when it is first called
            raise DatadietError(
                f"the model's {name} is lazy: its shape is not known before the first batch",
                fix="give the layer its input size, nn.Linear for nn.LazyLinear",
            )


def _refuse_made(model: nn.Module, weights: set[int], modules: set[int]) -> None:
    """Of weights, and of modules with buffers, that a network made when it was used, beside those from before."""
    made = [f"the weight {name}" for name, weight in model.named_parameters() if id(weight) not in weights]
    for name, module in model.named_modules():
        made += [f"the module {name}"] if id(module) not in modules and module._buffers else []
    if made:  # an optimiser knows nothing of it, and a run that goes on has none
        raise DatadietError(f"the model makes {made[0]} when it is first used", fix="make it in __init__")


def check_single(model: nn.Module, sample_batch: Any) -> None:
    """Raise unless the model can train on batches of one example, which batch norm over (B, C) cannot."""
    one = _first(sample_batch, 1, next((p.device for p in model.parameters()), torch.device("cpu")))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.train()(**one) if isinstance(one, dict) else model.train()(one)
    except Exception as error:  # batch norm's own words, or those of a squeeze that took the batch away
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DatadietError(
            f"the model cannot train on batches of one example: {line}",
            fix="keep more examples, or have larger batches",
        ) from error


def _check_logits(output: Any, classes: int, mode: str) -> None:
    """Finite logits (2, classes); `mode` says when, where that is not as usual."""
    if not isinstance(output, torch.Tensor):
        raise DatadietError(
            f"the model returns {type(output).__name__}{mode}", fix="return the logits, a tensor (batch, classes)"
        )
    if output.shape != (2, classes):
        raise DatadietError(
            f"the model's output{mode} for 2 examples has shape {tuple(output.shape)}, "
            f"the dataset has {classes} classes",
            fix=f"its last layer must give {classes} logits an example",
        )
    if not output.is_floating_point():
        raise DatadietError(f"the model's output{mode} has type {output.dtype}", fix="return logits, not decisions")
    if not bool(torch.isfinite(output).all()):
        raise DatadietError(
            f"the untrained model's output{mode} is not finite", fix="check its initial weights and its inputs"
        )


def weights_fingerprint(model: nn.Module) -> str:
    """BLAKE2b over names, types, shapes and bytes of every parameter and buffer; 32 hexadecimal digits."""
    _refuse_lazy(model)
    state = hashlib.blake2b(digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            raise DatadietError(f"the model's state {name!r} is a {type(value).__name__}", fix="keep state in tensors")
        state.update(f"{len(name)}:{name} {value.dtype} {tuple(value.shape)}\n".encode())
        plain = value.detach().cpu().contiguous().reshape(-1)
        state.update(plain.view(torch.uint8).numpy().data if plain.numel() else b"")
    return state.hexdigest()


def _first(batch: Any, count: int, device: torch.device) -> Any:
    if isinstance(batch, dict):
        return {key: _first(value, count, device) for key, value in batch.items()}
    if len(batch) < count:
        raise DatadietError(f"the sample has fewer than {count} examples", fix="pass a batch of two or more")
    return batch[:count].to(device)


def _shape(pair: Any) -> str:
    if isinstance(pair, dict):
        return "inputs " + ", ".join(f"{key} {tuple(value.shape)}" for key, value in pair.items())
    return f"inputs of shape {tuple(pair.shape)}"
