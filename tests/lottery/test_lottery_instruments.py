"""Errors, barriers and coherence of pre-trained points, each against the computation that one would write by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_lottery import (
    START,
    UNTIL,
    accuracy,
    distance,
    logits_of,
    losses,
    net_of,
    one_run,
    runs,
    tiny,
    weights_at,
)  # fmt: skip
from torch import nn

from datadiet.data.batches import Batches
from datadiet.data.order import Order
from datadiet.lottery import Lottery
from datadiet.store import Store
from datadiet.training.checkpoint import part


def check_errors(one: Any, store: Path, level: int) -> None:
    """`errors_dense` and `errors_sparse` are EL2N of the pre-trained weights, all and masked."""
    data = tiny()
    for run in (0, 1):
        parent = next(
            spec["parent"][0]
            for spec, folder in runs(store, f"lottery level {level}")
            if spec.get("mask") == one.masks[run][level].digest and spec.get("run", 0) == run
        )
        point = Store(store).run(parent).load_checkpoint(START)
        assert point is not None
        for mask, values in ((None, one.errors_dense), (one.masks[run][level], one.errors_sparse)):
            logits = logits_of(net_of(part(point.tensors, "model/"), mask), data)
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            expected = np.linalg.norm(p - np.eye(3)[data.labels], axis=1)
            np.testing.assert_allclose(values[run], expected, atol=2e-6)


def test_errors_are_el2n_of_the_pretrained_weights_before_and_after_the_projection(
    straight: tuple[Lottery, Path],
) -> None:
    (one,) = straight[0].outcomes.values()
    check_errors(one, straight[1] / "store", level=2)
    assert np.abs(one.errors_dense - one.errors_sparse).max() > 1e-3


def test_barriers_are_those_between_three_dense_networks_from_the_same_point(straight: tuple[Lottery, Path]) -> None:
    (one,), store, data = straight[0].outcomes.values(), straight[1] / "store", tiny()
    for run in (0, 1):
        ends = [weights_at(store, p, UNTIL, run) for p in ("lottery level 0", "lottery child 1", "lottery child 2")]
        parents = {
            tuple(one_run(store, p, run)[0]["parent"])
            for p in ("lottery level 0", "lottery child 1", "lottery child 2")
        }
        assert parents == {(one_run(store, "pretrain", run)[1].name, START)}
        each, wrong = [], []
        for i, j in ((0, 1), (0, 2), (1, 2)):
            assert distance(net_of(ends[i]), ends[j]) > 1e-2, "three networks, not one"
            middle = {n: (t + ends[j][n]) / 2 if t.is_floating_point() else t for n, t in ends[i].items()}
            found = [logits_of(net_of(w), data) for w in (ends[i], ends[j], middle)]
            first, second, between = (losses(logits, data.labels) for logits in found)
            each.append(between - (first + second) / 2)
            errors = [1 - accuracy(logits, data.labels) for logits in found]
            wrong.append(max(0.0, errors[2] - (errors[0] + errors[1]) / 2))
        np.testing.assert_allclose(one.barriers[run], np.mean(each, axis=0), atol=1e-5)
        assert one.error_barriers[run] == pytest.approx(np.mean(wrong), abs=1e-9)


def test_coherence_is_the_mean_cosine_of_sixteen_batch_gradients_of_the_subset(
    straight: tuple[Lottery, Path],
) -> None:
    (one,), store, data = straight[0].outcomes.values(), straight[1] / "store", tiny()
    batches, labels = Batches(data.train, data), torch.from_numpy(data.labels)
    for run in (0, 1):
        net = net_of(weights_at(store, "pretrain", START, run)).double().train()
        order = Order(one.rows[run], 16, (0, "pretrain, coherence", run))
        gradients = []
        for number in range(START * 16, START * 16 + 16):
            rows = order.batch(number)[0]
            assert set(rows.tolist()) <= set(one.rows[run].tolist())
            loss = nn.functional.cross_entropy(net(batches.inputs(rows).double()), labels[rows])
            found = torch.autograd.grad(loss, list(net.parameters()))
            gradients.append(np.concatenate([g.numpy().ravel() for g in found]))
        mean = np.mean(gradients, axis=0)
        cosines = [g @ mean / np.linalg.norm(g) / np.linalg.norm(mean) for g in gradients]
        assert one.cosines[run] == pytest.approx(np.mean(cosines), abs=1e-5)


def test_errors_are_against_the_labels_that_the_levels_train_on(noisy: tuple[Lottery, Path]) -> None:
    result, store = noisy
    check_errors(result["48 easiest, 6 steps"], store, level=1)
