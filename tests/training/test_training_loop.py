"""The loop against a hand-written one, and the promise that watching a run changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loop_runs import ADAM, RECIPE, Run, same, small_data, small_net
from torch import nn

from datadiet.data.batches import Batches
from datadiet.data.dataset import from_arrays
from datadiet.errors import Diverged
from datadiet.numerics import Numerics
from datadiet.scores.el2n_online import OnlineEL2N
from datadiet.scores.forgetting import Forgetting
from datadiet.seeds import stream
from datadiet.training.checkpoint import weights
from datadiet.training.evaluate import evaluation, predict
from datadiet.training.loop import CHECK_EVERY, Moment, Observer
from datadiet.training.observers import Ticker, Trajectories


def _by_hand(steps, optimizer, recipe):
    """Plain torch: own order, own crops, own normalisation, own schedule."""
    data, net = small_data(), small_net()
    optimizer = optimizer(net.parameters())
    torch.manual_seed(11)
    images, labels = data.train.inputs, torch.from_numpy(data.labels)
    scale, shift = torch.from_numpy(1 / data.std).float(), torch.from_numpy(-data.mean / data.std).float()
    net.train()
    done = 0
    for epoch in range(100):
        rows = stream(0, "score", 0, "order", epoch).permutation(len(data))[: len(data) // 8 * 8]
        draws = stream(0, "score", 0, "augment", epoch)
        corners, mirrored = draws.integers(0, 3, (len(rows), 2)), draws.random(len(rows)) < 0.5
        for first in range(0, len(rows), 8):
            if done == steps:
                return net.state_dict()
            batch = []
            for k in range(first, first + 8):
                padded = np.pad(images[rows[k]], ((1, 1), (1, 1), (0, 0)), mode="reflect")
                image = padded[corners[k, 0] : corners[k, 0] + 6, corners[k, 1] : corners[k, 1] + 5]
                batch.append(image[:, ::-1] if mirrored[k] else image)
            inputs = torch.addcmul(shift, torch.from_numpy(np.stack(batch)).float(), scale).permute(0, 3, 1, 2)
            optimizer.zero_grad()
            loss = F.cross_entropy(net(inputs), labels[rows[first : first + 8]], reduction="none").mean()
            loss.backward()
            if done < 3:
                lr = recipe.lr * (done + 1) / 3
            else:
                lr = recipe.lr * 0.5 * (1 + np.cos(np.pi * (done - 3) / 37))
            for group in optimizer.param_groups:
                group["lr"] = float(lr)
            optimizer.step()
            done += 1
    raise AssertionError


BY_HAND = {
    "nesterov": (RECIPE, lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True, weight_decay=5e-4, fused=True)),
    "plain momentum": (
        RECIPE.with_(nesterov=False, weight_decay=0.0),
        lambda p: torch.optim.SGD(p, 0.1, 0.9, fused=True),
    ),
    "adamw": (ADAM, lambda p: torch.optim.AdamW(p, 0.01, weight_decay=5e-4, fused=True)),
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_the_weights_are_those_of_a_hand_written_loop_bit_for_bit(kind):
    recipe, optimizer = BY_HAND[kind]
    run = Run.start(recipe).go(17)
    assert same(run.model.state_dict(), _by_hand(17, optimizer, recipe))


@pytest.mark.parametrize("kind", ["nesterov", "adamw"])
def test_the_fused_optimiser_computes_what_the_plain_one_does(kind):
    recipe, _ = BY_HAND[kind]
    plain = {
        "nesterov": lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True, weight_decay=5e-4, foreach=False),
        "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=5e-4, foreach=False),
    }[kind]
    by_hand = _by_hand(6, plain, recipe)
    for name, value in Run.start(recipe).go(6).model.state_dict().items():
        torch.testing.assert_close(value, by_hand[name], rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------- observers are guests


class Peeper(Observer):
    """Looks at the network in eval mode after every step, and at the gradients."""

    name = "peeper"

    def __init__(self, batches):
        self.batches, self.seen = batches, []

    def on_backward(self, moment):
        self.seen.append(max(float(p.grad.abs().max()) for p in moment.model.parameters()))

    def on_step(self, moment):
        predict(moment.model, self.batches, Numerics(scoring_batch=16))


def _trajectories(n):
    return Trajectories({"forgetting": Forgetting(n), "el2n_online": OnlineEL2N(n)})


WATCHERS = {
    "trajectories": lambda run: [_trajectories(44)],
    "ticker": lambda run: [Ticker(lambda step: None)],
    "predict in on_step": lambda run: [Peeper(run.batches)],
    "all of them": lambda run: [_trajectories(44), Peeper(run.batches), Ticker(lambda step: None, 3)],
}


@pytest.mark.parametrize("kind", WATCHERS)
def test_an_observer_changes_no_weight_and_no_random_stream(kind):
    alone = Run.start().go(23)
    stream_alone = torch.get_rng_state()
    watched = Run.start()
    watched.go(23, WATCHERS[kind](watched))
    assert same(watched.model.state_dict(), alone.model.state_dict())
    assert torch.equal(torch.get_rng_state(), stream_alone)
    assert all(module.training for module in watched.model.modules())


def test_every_hook_sees_the_batch_it_is_called_for():
    seen = []

    class Recorder(Observer):
        def on_start(self, moment):
            seen.append(("start", moment.step))

        def on_backward(self, moment):
            seen.append(("backward", moment.step, moment.indices.tolist(), moment.labels.tolist()))

        def on_step(self, moment):
            seen.append(("step", moment.step, moment.indices.tolist(), moment.labels.tolist()))
            assert not moment.logits.requires_grad
            assert moment.lr == run.rate(moment.step - 1)

        def on_end(self, moment):
            seen.append(("end", moment.step))

    run = Run.start()
    run.go(2, [Recorder()])
    rows = [run.order.batch(step)[0] for step in range(2)]
    batches = [(r.tolist(), run.batches.labels[r].tolist()) for r in rows]
    assert seen == [
        ("start", 0),
        ("backward", 0, *batches[0]), ("step", 1, *batches[0]),
        ("backward", 1, *batches[1]), ("step", 2, *batches[1]),
        ("end", 2),
    ]  # fmt: skip


def test_a_ticker_tells_every_so_many_steps():
    told = []
    Run.start().go(10, [Ticker(told.append, every=4)])
    assert told == [4, 8]


@pytest.mark.parametrize("buffer", [1, 200, 1 << 20])
def test_trajectories_hold_what_training_saw_whatever_the_size_of_their_buffer(monkeypatch, buffer):
    monkeypatch.setattr("datadiet.training.observers.BUFFER_BYTES", buffer)

    class EveryBatch(Observer):
        def __init__(self):
            self.counts = [Forgetting(44), OnlineEL2N(44)]

        def on_batch(self, moment):
            for count in self.counts:
                count.update(moment.indices, moment.logits, moment.labels)

    plain, watch = EveryBatch(), _trajectories(44)
    Run.start().go(28, [plain, watch])
    assert same(watch.result(), {**plain.counts[0].result(), **plain.counts[1].result()})
    assert int(watch.accumulators["forgetting"].visits.sum()) == 28 * 8


def test_a_run_stops_when_asked_and_stands_where_it_stopped():
    left = iter([False] * 5 + [True] * 9)
    run = Run.start().go(20, should_stop=lambda: next(left))
    assert run.moment.step == 5
    assert same(run.model.state_dict(), Run.start().go(5).model.state_dict())


# ------------------------------------------------------------------------------------------------- divergence


class Spoiled(nn.Module):
    """Gives NaN from its k-th training batch on."""

    def __init__(self, at):
        super().__init__()
        self.net, self.calls, self.at = nn.Linear(3, 4), 0, at

    def forward(self, inputs):
        self.calls += 1
        return self.net(inputs) * (float("nan") if self.calls >= self.at else 1.0)


@pytest.mark.parametrize(
    ("at", "stretches"),
    [(1, [5]), (5, [5]), (3, [200]), (CHECK_EVERY, [200]), (CHECK_EVERY + 1, [200]), (150, [200]), (30, [20, 60])],
)
def test_a_loss_that_is_not_finite_ends_the_run_and_names_its_step(at, stretches):
    rng = np.random.default_rng(0)
    data = from_arrays("table", (rng.normal(size=(40, 3)).astype(np.float32), np.arange(40) % 4))
    run = Run.start(RECIPE.with_(pad=0, flip=False), data, Spoiled(at))
    *finite, last = stretches
    for stop in finite:
        run.go(stop)
    with pytest.raises(Diverged, match=rf"the loss is not finite at step {at};"):
        run.go(last)
    assert run.moment.step < at + CHECK_EVERY


# -------------------------------------------------------------------------------------------------- evaluation


def test_evaluation_puts_every_module_back_in_its_own_mode_also_after_an_error():
    net = small_net().train()
    net[1].eval()  # a frozen batch norm
    before = [module.training for module in net.modules()]
    with evaluation(net):
        assert not any(module.training for module in net.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in net.modules()] == before
    with pytest.raises(KeyError), evaluation(net):
        raise KeyError
    assert [module.training for module in net.modules()] == before
    assert torch.is_grad_enabled()


def test_the_logits_of_a_row_do_not_depend_on_which_rows_are_asked_for():
    data, net = small_data(), small_net()
    batches, numerics = Batches(data.train, data), Numerics(scoring_batch=16)
    whole = predict(net, batches, numerics)
    assert whole.shape == (44, 4)
    rng = np.random.default_rng(0)
    for count in (1, 5, 16, 17, 44):
        rows = rng.permutation(44)[:count]
        assert same({"": predict(net, batches, numerics, rows)}, {"": whole[rows]})


def test_predictions_are_of_eval_mode_and_leave_no_trace():
    run = Run.start().go(5)
    before, state = weights(run.model), torch.get_rng_state()
    logits = predict(run.model, run.batches, Numerics(scoring_batch=44))
    run.model.eval()
    with torch.no_grad():
        plain = run.model(run.batches.inputs(torch.arange(44)))
    assert same({"": logits}, {"": plain})
    assert same(weights(run.model), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not logits.requires_grad


def test_logits_come_out_in_float32_also_when_the_network_runs_in_bfloat16():
    half = Numerics(precision="bfloat16", scoring_precision="bfloat16", scoring_batch=16)
    run, seen = Run.start(), []

    class Recorder(Observer):
        def on_batch(self, moment):
            seen.append(moment.logits.dtype)

    watch = _trajectories(44)
    run.go(6, [Recorder(), watch], autocast=half.autocast())
    assert set(seen) == {torch.bfloat16}, "as the network gave them"
    assert predict(run.model, run.batches, half).dtype == torch.float32
    assert watch.result()["el2n_online"].dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in run.model.parameters())


def test_a_network_of_named_inputs_is_called_by_their_names():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(9, 5), nn.Linear(5, 4)

        def forward(self, ids, mask):
            return self.head((self.words(ids) * mask[..., None]).sum(1))

    rng = np.random.default_rng(0)
    parts = {"ids": rng.integers(0, 9, (40, 6)), "mask": np.ones((40, 6), np.float32)}
    data = from_arrays("tokens", (parts, np.arange(40) % 4))
    run = Run.start(RECIPE.with_(pad=0, flip=False), data, Named()).go(12)
    assert predict(run.model, run.batches, Numerics()).shape == (40, 4)


def test_observers_that_saw_each_other_half_of_a_batch_are_merged_into_the_one_that_saw_all():
    torch.manual_seed(0)
    whole, parts = _trajectories(8), [_trajectories(8), _trajectories(8)]
    for step in range(6):
        rows, labels = torch.randperm(8), torch.arange(8) % 3
        logits = torch.randn(8, 3)
        for observer, mine in ((whole, slice(None)), (parts[0], slice(0, 5)), (parts[1], slice(5, 8))):
            moment = Moment(None, None, step, 1, 1, rows[mine], logits[mine], labels[rows[mine]])
            observer.on_batch(moment)
        states = [part.state() for part in parts]
        states = [{name: value.clone() for name, value in state.items()} for state in states]
        for part in parts:
            part.merge(states)
    for part in parts:
        for name, value in whole.result().items():
            assert torch.equal(part.result()[name], value)
