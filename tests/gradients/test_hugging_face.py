"""Hugging Face networks with random weights, as they come: nothing about them is known to the engine but `Conv1D`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from naive_loop import error, naive
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    ViTConfig,
    ViTForImageClassification,
)

from datadiet.gradients import grand, grand_loader


def bert() -> tuple[nn.Module, dict[str, Tensor], Tensor]:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    model = BertForSequenceClassification(BertConfig(vocab_size=60, max_position_embeddings=16, num_labels=3, **sizes))
    mask = torch.ones(4, 7, dtype=torch.long)
    mask[1, 5:] = 0
    return model, {"input_ids": torch.randint(0, 60, (4, 7)), "attention_mask": mask}, torch.tensor([0, 2, 1, 1])


def gpt2() -> tuple[nn.Module, dict[str, Tensor], Tensor]:
    config = GPT2Config(vocab_size=60, n_positions=16, n_embd=32, n_layer=2, n_head=2, num_labels=3, pad_token_id=0)
    model = GPT2ForSequenceClassification(config)
    return model, {"input_ids": torch.randint(1, 60, (4, 7))}, torch.tensor([0, 2, 1, 1])


def vit() -> tuple[nn.Module, dict[str, Tensor], Tensor]:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    model = ViTForImageClassification(ViTConfig(image_size=16, patch_size=4, num_labels=3, **sizes))
    return model, {"pixel_values": torch.randn(4, 3, 16, 16)}, torch.tensor([0, 2, 1, 1])


def doubled(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}


@pytest.mark.parametrize("make", [bert, gpt2, vit])
def test_classifiers(make: object) -> None:
    torch.manual_seed(0)
    model, inputs, labels = make()  # type: ignore[operator]
    for p in model.parameters():
        nn.init.normal_(p, std=0.2)
    single = grand(model, inputs, labels)
    model, inputs = model.double(), doubled(inputs)
    wanted = naive(model, inputs, labels)
    assert error(grand(model, inputs, labels), wanted) < 1e-9
    assert error(single, wanted) < 1e-4


def test_a_language_model_with_tied_weights() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=60, n_positions=16, n_embd=32, n_layer=2, n_head=2)).double()
    assert model.lm_head.weight is model.transformer.wte.weight
    tokens = torch.randint(0, 60, (4, 7))
    tokens[2, 5:] = 3
    following = tokens.roll(-1, 1)
    following[:, -1] = -100
    inputs = {"input_ids": tokens}

    def summed(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")

    wanted = naive(model, inputs, following, summed)
    assert error(grand(model, inputs, following), wanted) < 1e-9
    assert error(grand(model, inputs, following, loss=summed), wanted) < 1e-9
    assert error(grand(model, inputs, following, memory=1), wanted) < 1e-9


def test_a_loader_of_dicts() -> None:
    torch.manual_seed(0)
    model, inputs, labels = vit()
    batches = [{k: v[i : i + 3] for k, v in inputs.items()} | {"labels": labels[i : i + 3]} for i in (0, 3)]
    assert torch.allclose(grand_loader(model, batches), grand(model, inputs, labels), rtol=1e-5)
