"""`datadiet train`: the weights are those that were tested."""

from __future__ import annotations

from pathlib import Path

import torch
from conftest import FLAGS
from safetensors.torch import load_file
from tiny_cli import RECIPE, ok

import datadiet as dd
from datadiet.data.batches import Batches


def accuracy(file: str) -> float:
    data = dd.load("tiny.npz")
    assert data.test is not None
    model = dd.models.build(RECIPE["model"], data.input_shape, len(data.classes), **RECIPE["model_args"])
    model.load_state_dict(load_file(file))
    batches = Batches(data.test, data)
    with torch.no_grad():
        guess = model.eval()(batches.inputs(torch.arange(len(batches)))).argmax(1)
    return float((guess == torch.from_numpy(data.test.labels)).double().mean())


def test_the_weights_load_into_the_model_and_reproduce_the_accuracy(place: Path) -> None:
    said = ok("train", "tiny.npz", *FLAGS, "--runs", 2, "-o", "trained", "--json").json
    assert said["weights"] == ["trained/weights-0.safetensors", "trained/weights-1.safetensors"]
    ((row),) = said["rows"]
    assert [accuracy(file) for file in said["weights"]] == row["accuracies"]


def test_training_on_a_subset_reports_its_size_and_as_many_steps(place: Path) -> None:
    ok("select", "scores", "--by", "el2n", "--keep", 0.25, "-o", "quarter.txt")
    said = ok("train", "tiny.npz", *FLAGS, "--subset", "quarter.txt", "-o", "trained", "--json").json
    assert [(row["name"], row["examples"]) for row in said["rows"]] == [("quarter", 30)]
    assert said["steps"] == 28
    assert accuracy("trained/weights-0.safetensors") == said["rows"][0]["accuracies"][0]
