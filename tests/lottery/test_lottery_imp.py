"""A lottery is what one would do by hand: pre-training, rewinding, masks, and noise in pre-training only."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_lottery import (
    RECIPE,
    START,
    UNTIL,
    accuracy,
    distance,
    fewer,
    logits_of,
    net_of,
    one_run,
    options,
    runs,
    tiny,
    weights_at,
)  # fmt: skip
from torch import nn

import datadiet as dd
from datadiet.data.batches import Batches
from datadiet.data.order import Order
from datadiet.flows import jobs
from datadiet.lottery import Lottery, Mask, find_tickets, prune
from datadiet.training.checkpoint import part


def by_hand(
    net: nn.Module, mask: Mask, stream: tuple[int, str, int], begin: int, schedule_from: int | None = None
) -> nn.Module:
    """SGD with Nesterov momentum from 0, cosine rate, to the end of the run; what is gone is put back to 0."""
    data, lr, mu, decay = tiny(), RECIPE["lr"], RECIPE["momentum"], RECIPE["weight_decay"]
    batches, labels = Batches(data.train, data, pad=1), torch.from_numpy(data.labels)
    order = Order(np.arange(120), 16, stream, pad=1, flip=True)
    momentum = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    net.train()
    for step in range(begin, UNTIL):
        rows, shifts, flips = order.batch(step)
        loss = nn.functional.cross_entropy(net(batches.inputs(rows, shifts, flips)), labels[rows])
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        shown = step if schedule_from is None else schedule_from + step - begin
        rate = lr * (1 + math.cos(math.pi * shown / UNTIL)) / 2
        with torch.no_grad():
            for (name, w), g in zip(net.named_parameters(), gradients, strict=True):
                g = g + decay * w
                momentum[name] = mu * momentum[name] + g
                w -= rate * (g + mu * momentum[name])
                if name in mask.tensors:
                    w *= torch.from_numpy(mask.tensors[name])
    return net


@pytest.mark.parametrize("run", [0, 1])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_level_is_the_loop_that_one_would_write_by_hand(straight: tuple[Lottery, Path], level: int, run: int) -> None:
    (one,), store, data = straight[0].outcomes.values(), straight[1] / "store", tiny()
    mask, stream = one.masks[run][level], (0, f"lottery level {level}", run)
    start = weights_at(store, "pretrain", START, run)
    net = by_hand(net_of(start, mask), mask, stream, START)
    kept = weights_at(store, f"lottery level {level}", UNTIL, run)
    assert distance(net, kept) < 1e-4
    assert accuracy(logits_of(net_of(kept), data, data.test), data.test.labels) == one.accuracy[run, level]
    others = {
        "a schedule from the beginning": by_hand(net_of(start, mask), mask, stream, START, schedule_from=0),
        "other batches": by_hand(net_of(start, mask), mask, (0, "pretrain", run), START),
        "batch norm's buffers afresh": by_hand(forgotten(net_of(start, mask)), mask, stream, START),
    }
    if level:
        others["all weights"] = by_hand(net_of(start), one.masks[run][0], stream, START)
    for what, other in others.items():
        assert distance(other, kept) > 1e-2, f"{what} would have shown"


def forgotten(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return net


def test_a_level_begins_with_the_pretrained_weights_and_buffers_and_no_momentum(
    straight: tuple[Lottery, Path], copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[dict[str, Any]] = []
    real = jobs.train

    def spy(moment: Any, stop: int, **more: Any) -> None:
        state = {name: t.clone() for name, t in moment.model.state_dict().items()}
        begun.append({"step": moment.step, "state": state, "momentum": dict(moment.optimizer.state)})
        real(moment, stop, **more)

    for _, folder in [*runs(copied, "lottery level 1")]:
        shutil.rmtree(folder.path)
    for _, folder in [*runs(copied, "lottery level 2")]:
        shutil.rmtree(folder.path)
    monkeypatch.setattr(jobs, "train", spy)
    find_tickets(tiny(), **options(copied))
    (one,) = straight[0].outcomes.values()
    assert [entry["step"] for entry in begun] == [START] * 4
    for entry, (level, run) in zip(begun, ((1, 0), (1, 1), (2, 0), (2, 1)), strict=True):
        assert entry["momentum"] == {}
        before = weights_at(copied, "pretrain", START, run)
        assert int(before["bn1.num_batches_tracked"]) == START
        for name, tensor in entry["state"].items():
            mask = torch.from_numpy(one.masks[run][level].tensors.get(name, np.ones(tuple(tensor.shape), bool)))
            assert torch.equal(tensor[mask], before[name][mask]), name
            assert not tensor[~mask].any()


def test_a_mask_is_what_pruning_the_trained_weights_of_the_level_before_gives(straight: tuple[Lottery, Path]) -> None:
    (one,), store = straight[0].outcomes.values(), straight[1] / "store"
    for run in (0, 1):
        assert one.masks[run][0].density == 1
        for level in (0, 1):
            trained = weights_at(store, f"lottery level {level}", UNTIL, run)
            after = prune(trained, one.masks[run][level], 0.2, run=run)
            assert after.digest == one.masks[run][level + 1].digest
            pairs = [(trained[n].numpy(), t, after.tensors[n]) for n, t in one.masks[run][level].tensors.items()]
            left = np.concatenate([weight[now] for weight, _, now in pairs])
            gone = np.concatenate([weight[was & ~now] for weight, was, now in pairs])
            assert np.abs(gone).max() <= np.abs(left).min()
            saved = straight[1] / "out" / "masks" / "48-random-6-steps" / f"replicate{run}-level{level + 1}.safetensors"
            assert Mask.load(saved).digest == after.digest


def test_weights_that_are_gone_are_plus_zero_at_the_end(straight: tuple[Lottery, Path]) -> None:
    (one,), store = straight[0].outcomes.values(), straight[1] / "store"
    trained = weights_at(store, "lottery level 2", UNTIL)
    for name, tensor in one.masks[0][2].tensors.items():
        gone = trained[name][~torch.from_numpy(tensor)].contiguous()
        assert len(gone)
        assert not gone.view(torch.int32).any()


def test_pretraining_is_plain_training_on_the_subset_to_the_point(straight: tuple[Lottery, Path]) -> None:
    (one,), store, data = straight[0].outcomes.values(), straight[1] / "store", tiny()
    for run in (0, 1):
        spec, folder = one_run(store, "pretrain", run)
        assert folder.steps() == [START]
        assert "mask" not in spec
        net = net_of(weights_at(store, "pretrain", START, run))
        assert one.test[run] == accuracy(logits_of(net, data, data.test), data.test.labels)
        assert one.train[run] == accuracy(logits_of(net, data), data.labels)
        rows = one.rows[run]
        assert rows is not None
        assert np.bincount(data.labels[rows]).tolist() == [16, 16, 16]
    assert not np.array_equal(one.rows[0], one.rows[1]), "each replicate draws its own"


def test_rewinding_the_rate_alone_goes_on_from_the_trained_weights(copied: Path) -> None:
    result = find_tickets(tiny(), **options(copied, rewind="rate"))
    (one,) = result.outcomes.values()
    levels = {"rate": weights_at(copied, "lottery level 0", UNTIL), "weights": weights_at(copied, "pretrain", START)}
    mask, stream = one.masks[0][1], (0, "lottery level 1", 0)
    found = {}
    for _, folder in runs(copied, "lottery level 1"):
        if (folder.spec() or {}).get("run", 0) == 0:
            point = folder.load_checkpoint(UNTIL)
            assert point is not None
            parent = (folder.spec() or {})["parent"][0]
            kind = "rate" if parent == one_run(copied, "lottery level 0")[1].name else "weights"
            found[kind] = part(point.tensors, "model/")
    assert found.keys() == levels.keys()
    for kind, start in levels.items():
        assert distance(by_hand(net_of(start, mask), mask, stream, START), found[kind]) < 1e-4, kind
    assert distance(net_of(found["rate"]), found["weights"]) > 1e-2


# ------------------------------------------------------------------------------------------------ controls


def test_noise_is_in_scoring_and_pretraining_only(noisy: tuple[Lottery, Path]) -> None:
    result, store = noisy
    data = tiny()
    wrong = data.with_noise("redraw", 0.5, 3)
    assert wrong.corrupted.any()
    levels = ("lottery level 0", "lottery level 1")
    for purpose, expected in (("score", wrong), ("pretrain", wrong), *((level, data) for level in levels)):
        found = [spec for spec, _ in runs(store, purpose)]
        assert found
        assert {spec["dataset"] for spec in found} == {expected.fingerprint}
        assert {"noise" in spec for spec in found} == {expected is wrong}
    one = result["48 random, 6 steps"]
    for run in (0, 1):
        counts = np.bincount(wrong.labels[one.rows[run]], minlength=3)
        assert counts.tolist() == [16, 16, 16], "balanced by the labels that pre-training sees"
    assert result.provenance["noise"]["kind"] == "redraw"


def test_easy_examples_are_those_of_the_scores_and_the_same_in_all_replicates(noisy: tuple[Lottery, Path]) -> None:
    result, store = noisy
    one = result["48 easiest, 6 steps"]
    assert np.array_equal(one.rows[0], one.rows[1])
    found = [folder.load_shard("el2n", folder.shards()[0][1]) for _, folder in runs(store, "score")]
    mean = np.mean([values for values, _ in found], axis=0)
    assert set(one.rows[0]) == set(np.argsort(mean)[:48])


# ------------------------------------------------------------------------------------------------ results


def test_what_an_outcome_says_of_itself(straight: tuple[Lottery, Path]) -> None:
    result, (one,) = straight[0], straight[0].outcomes.values()
    total = sum(t.size for t in one.masks[0][0].tensors.values())
    left = [total, fewer(total), fewer(fewer(total))]
    assert (result.dense, [mask.remaining for mask in one.masks[1]]) == (total, left)
    assert one.density == [count / total for count in left]
    np.testing.assert_allclose(one.mean(), [np.mean(one.accuracy[:, k]) for k in range(3)])
    spread = [abs(one.accuracy[0, k] - one.accuracy[1, k]) / math.sqrt(2) for k in range(3)]
    np.testing.assert_allclose(one.std(), spread, atol=1e-12)
    rows = result.rows()
    assert [(row["replicate"], row["level"]) for row in rows] == [(r, k) for r in (0, 1) for k in (0, 1, 2)]
    assert [row["accuracy"] for row in rows] == one.accuracy.ravel().tolist()


@pytest.mark.parametrize(
    ("means", "level"),
    [
        ([0.9, 0.9, 0.9], 2),
        ([0.9, 0.896, 0.8951], 2),
        ([0.9, 0.894, 0.9], 0),
        ([0.9, 0.95, 0.89], 1),
        ([0.985, 0.98, 0.9], 1),  # half a point, whatever is left of it in floating point
        ([0.981, 0.976, 0.9], 1),
    ],
)
def test_matching_is_down_to_where_every_level_keeps_the_dense_accuracy(
    straight: tuple[Lottery, Path], means: list[float], level: int
) -> None:
    (one,) = straight[0].outcomes.values()
    assert replace(one, accuracy=np.array([means, means])).matching() == level


def test_levels_of_two_environments_are_named_and_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = {}
    for levels, threads in ((0, 1), (1, 2), (1, 1)):
        setup = dd.Setup(store=tmp_path, engine="inline", threads=threads, precision="float32", compile="off")
        options = {"pretrain": ["random:48@2it"], "replicates": 1, "recipe": RECIPE, "horizon": "8it", "setup": setup}
        caplog.clear()
        result = dd.find_tickets(tiny(), levels=levels, **options)
        found[levels, threads] = [was["threads"] for was in result.provenance["numerics"]]
        assert ("2 numeric environments" in caplog.text) == (levels == 1)
    assert found == {(0, 1): [1], (1, 2): [1, 2], (1, 1): [1, 2]}
