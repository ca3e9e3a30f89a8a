"""`datadiet train`: the weights are those that were tested."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from tiny_cli import FLAGS, RECIPE, ok, refused

import datadiet as dd
from datadiet.data.batches import Batches
from datadiet.store import write_json


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


def test_weights_of_two_trainings_are_not_mixed_up_in_one_folder(place: Path) -> None:
    ok("select", "scores", "--by", "el2n", "--keep", 0.25, "-o", "quarter.txt")
    ok("train", "tiny.npz", *FLAGS, "--runs", 2, "-o", "trained")
    before = {file: file.read_bytes() for file in Path("trained").iterdir()}
    line = refused(place, "train", "tiny.npz", *FLAGS, "--subset", "quarter.txt", "-o", "trained")
    assert "trained: holds another comparison (other subset)" in line
    assert {file: file.read_bytes() for file in Path("trained").iterdir()} == before
    ok("train", "tiny.npz", *FLAGS, "--runs", 2, "-o", "trained")


def test_a_training_and_a_comparison_do_not_share_a_folder(place: Path) -> None:
    ok("select", "scores", "--by", "el2n", "--keep", 0.25, "-o", "quarter.txt")
    compared = ("compare", "tiny.npz", *FLAGS, "--runs", 1, "--subset", "quarter.txt", "-o")
    trained = ("train", "tiny.npz", *FLAGS, "-o")
    ok(*compared, "compared")
    ok(*trained, "trained")
    assert "compared: holds a comparison" in refused(place, *trained, "compared")
    assert "trained: holds a training" in refused(place, *compared, "trained")


def test_what_was_trained_here_before_is_ours_without_its_comparison_too(place: Path) -> None:
    words = ("train", "tiny.npz", *FLAGS, "-o", "trained")
    ok(*words)
    Path("trained/comparison.json").unlink()
    ok(*words)
    content = json.loads(Path("trained/comparison.json").read_text())
    older = {key: value for key, value in content.items() if key not in ("subset", "mask", "schema", "checksum")}
    write_json("trained/comparison.json", older)  # as an older version wrote it
    ok(*words)


def test_weights_of_somebody_elses_are_not_written_over(place: Path) -> None:
    Path("trained").mkdir()
    Path("trained/weights-0.safetensors").write_text("mine")
    line = refused(place, "train", "tiny.npz", *FLAGS, "-o", "trained")
    assert "trained/weights-0.safetensors: is in the way: nothing says that it is of this training" in line


def test_a_damaged_last_checkpoint_is_trained_again(place: Path) -> None:
    words = ("train", "tiny.npz", *FLAGS, "--seed", 3, "-o", "trained")
    ok(*words)
    weights = Path("trained/weights-0.safetensors").read_bytes()
    for file in Path("datadiet-runs").glob("??/*/checkpoints/00000028.safetensors"):
        file.write_bytes(file.read_bytes()[:-9])
    assert "redoing it" in ok(*words).err
    assert Path("trained/weights-0.safetensors").read_bytes() == weights


def test_a_mask_is_held_from_initialisation_to_the_end(place: Path) -> None:
    model = dd.models.build(RECIPE["model"], (1, 6, 6), 3, **RECIPE["model_args"])
    mask = dd.lottery.prune(dict(model.named_parameters()), dd.lottery.Mask.full(model), 0.5)
    mask.save("half.safetensors")
    dense = ok("train", "tiny.npz", *FLAGS, "-o", "dense", "--json").json
    said = ok("train", "tiny.npz", *FLAGS, "--mask", "half.safetensors", "-o", "sparse", "--json").json
    weights, whole = load_file("sparse/weights-0.safetensors"), load_file("dense/weights-0.safetensors")
    for name, left in mask.tensors.items():
        kept = torch.from_numpy(left)
        assert (weights[name].view(torch.int32)[~kept] == 0).all()
        assert (weights[name][kept] != 0).all()
        assert (whole[name] != 0).all()
    assert accuracy("sparse/weights-0.safetensors") == said["rows"][0]["accuracies"][0]
    assert dense["rows"][0]["examples"] == said["rows"][0]["examples"]


def test_a_mask_of_another_network_is_refused_before_training(place: Path) -> None:
    other = dd.models.build(RECIPE["model"], (1, 6, 6), 3, hidden=[9])
    dd.lottery.Mask.full(other).save("other.safetensors")
    said = refused(place, "train", "tiny.npz", *FLAGS, "--mask", "other.safetensors", "-o", "sparse")
    assert "other.safetensors: the mask is of another network: 1.weight is 9×36 in it, 16×36 in the network" in said
    said = refused(place, "train", "tiny.npz", *FLAGS, "--mask", "gone.safetensors", "-o", "sparse")
    assert "gone.safetensors: no such file" in said
    assert not Path("sparse").exists()
