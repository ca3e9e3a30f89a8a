"""A run that stopped and went on is the run that did not stop, byte for byte."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_runs import ADAM, RECIPE, Run, same, small_net

from datadiet.errors import DatadietError
from datadiet.scores.el2n_online import OnlineEL2N
from datadiet.scores.forgetting import Forgetting
from datadiet.store.files import read_tensors, write_tensors
from datadiet.training.checkpoint import load_weights, make_optimizer, pack, part, unpack, weights
from datadiet.training.observers import Trajectories

STEPS = 19  # nearly four passes of five steps


def _watch():
    return Trajectories({"forgetting": Forgetting(44), "el2n_online": OnlineEL2N(44)})


def _packed(run, watch):
    return pack(run.model, run.moment.optimizer, {"trajectories": watch.state()})


def _straight(recipe):
    run, watch = Run.start(recipe), _watch()
    run.go(STEPS, [watch])
    return _packed(run, watch), watch.result()


def _taken_up(tensors, recipe, step):
    run, watch = Run.start(recipe, net=small_net(seed=99)), _watch()
    torch.manual_seed(12345)
    unpack(tensors, run.model, run.moment.optimizer)
    watch.load(part(tensors, "observer/trajectories/"))
    run.moment.step = step
    return run, watch


@pytest.mark.parametrize("recipe", [RECIPE, ADAM], ids=["nesterov", "adamw"])
@settings(max_examples=12)
@given(stop=st.integers(0, STEPS), again=st.integers(0, STEPS))
def test_a_run_stopped_at_any_step_and_taken_up_again_gives_the_same_bytes(recipe, stop, again):
    whole, seen = _straight(recipe)
    run, watch = Run.start(recipe), _watch()
    run.go(stop, [watch])
    for then in sorted({max(stop, again), STEPS}):
        held = _packed(run, watch)
        run, watch = _taken_up(held, recipe, run.moment.step)
        run.go(then, [watch])
    assert same(_packed(run, watch), whole)
    assert same(watch.result(), seen)


@pytest.mark.parametrize("recipe", [RECIPE, ADAM], ids=["nesterov", "adamw"])
def test_so_does_one_taken_up_from_a_file_which_keeps_no_memory_layout(recipe, tmp_path):
    whole, seen = _straight(recipe)
    run, watch = Run.start(recipe), _watch()
    run.go(7, [watch])
    write_tensors(tmp_path / "point.safetensors", _packed(run, watch))
    tensors, _ = read_tensors(tmp_path / "point.safetensors", as_torch=True)
    run, watch = _taken_up(tensors, recipe, 7)
    run.go(STEPS, [watch])
    assert same(_packed(run, watch), whole)
    assert same(watch.result(), seen)


def test_a_packed_run_does_not_change_while_training_goes_on_from_it():
    run, watch = Run.start(), _watch()
    run.go(7, [watch])
    held = _packed(run, watch)
    copy = {name: value.clone() for name, value in held.items()}
    run.go(11, [watch])
    other, seen = _taken_up(held, RECIPE, 7)
    other.go(11, [seen])
    assert same(held, copy), "so that several children can be spawned from one state"


def test_a_run_resumed_before_its_first_step_needs_no_optimiser_state():
    run, watch = Run.start(), _watch()
    held = _packed(run, watch)
    assert not part(held, "optimizer/")
    run, watch = _taken_up(held, RECIPE, 0)
    run.go(STEPS, [watch])
    assert same(_packed(run, watch), _straight(RECIPE)[0])


def test_the_weights_of_another_network_are_refused_in_words():
    with pytest.raises(DatadietError, match=r"run 3: the checkpoint is of another network: .*size mismatch"):
        load_weights(small_net(), {**weights(small_net()), "model/8.weight": torch.zeros(4, 9)}, where="run 3")


def test_weights_that_are_frozen_are_not_trained_but_kept():
    net = small_net()
    net[0].weight.requires_grad_(False)
    first = net[0].weight.clone()
    run = Run.start(net=net).go(6)
    assert torch.equal(run.model[0].weight, first)
    held = pack(run.model, run.moment.optimizer, {})
    assert torch.equal(held["model/0.weight"], first)
    other = small_net(3)
    other[0].weight.requires_grad_(False)
    optimizer = make_optimizer(other, RECIPE)
    unpack(held, other, optimizer)
    assert same(pack(other, optimizer, {}), held)
