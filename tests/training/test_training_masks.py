"""Masks: which weights they cover, that what is gone stays +0.0, and that training is plain masked training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_runs import ADAM, RECIPE, Run, same, small_net
from torch import nn

from datadiet.errors import DatadietError
from datadiet.store.files import read_tensors, write_tensors
from datadiet.task import classification
from datadiet.training.checkpoint import pack, unpack
from datadiet.training.masks import Mask, prunable

PLAIN = RECIPE.with_(momentum=0.0, nesterov=False, weight_decay=0.0)
RECIPES = {
    "plain": PLAIN,
    "momentum": PLAIN.with_(momentum=0.9),
    "nesterov": RECIPE.with_(weight_decay=0.0),
    "nesterov and decay": RECIPE.with_(weight_decay=0.05),
    "adamw": ADAM.with_(weight_decay=0.1),
}


@st.composite
def networks(draw):
    """Layer stacks with everything that has weights, pruned or not."""
    channels = draw(st.integers(1, 4))
    layers = [nn.Conv2d(3, channels, draw(st.sampled_from([1, 3])), bias=draw(st.booleans()))]
    for _ in range(draw(st.integers(0, 2))):
        wider = channels * draw(st.integers(1, 2))
        kind = draw(st.sampled_from([nn.Conv2d, nn.ConvTranspose2d]))
        layers.append(kind(channels, wider, 3, padding=1, groups=draw(st.sampled_from([1, channels]))))
        layers.append(nn.BatchNorm2d(wider))
        channels = wider
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4)]
    return nn.Sequential(*layers)


def any_mask(net, seed, density=0.4):
    rng = np.random.default_rng(seed)
    return Mask({name: rng.random(tuple(p.shape)) < density for name, p in prunable(net).items()})


@settings(max_examples=30)
@given(net=networks())
def test_only_weights_of_convolutions_and_linear_layers_are_pruned(net):
    expected = {
        f"{name}.weight": tuple(module.weight.shape)
        for name, module in net.named_modules()
        if type(module) in (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    }
    assert {name: tuple(p.shape) for name, p in prunable(net).items()} == expected
    full = Mask.full(net)
    assert full.total == full.remaining == sum(int(np.prod(shape)) for shape in expected.values())
    assert full.density == 1.0


def test_shared_embedded_and_attention_weights():
    shared = nn.Linear(4, 4)
    net = nn.ModuleDict({"a": shared, "b": shared, "table": nn.Embedding(7, 4), "heads": nn.MultiheadAttention(4, 2)})
    assert set(prunable(net)) == {"a.weight", "heads.out_proj.weight"}, "each once; the in-projection is no layer"


@settings(max_examples=30)
@given(net=networks(), seed=st.integers(0, 99), density=st.floats(0, 1))
def test_applied_it_sets_what_is_gone_to_plus_zero_and_leaves_the_rest(net, seed, density):
    mask = any_mask(net, seed, density)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    mask.apply(net)
    for name, tensor in net.state_dict().items():
        kept = torch.from_numpy(mask.tensors[name]) if name in mask.tensors else torch.ones_like(tensor, dtype=bool)
        assert torch.equal(tensor[kept], before[name][kept])
        if not bool(kept.all()):
            assert not tensor[~kept].contiguous().view(torch.int32).any(), "no -0.0 either"


@settings(max_examples=20)
@given(net=networks(), seed=st.integers(0, 99))
def test_a_mask_survives_its_file(tmp_path_factory, net, seed):
    file = tmp_path_factory.mktemp("mask") / "mask.safetensors"
    mask = any_mask(net, seed)
    mask.save(file, {"level": 3})
    again = Mask.load(file)
    assert again.tensors.keys() == mask.tensors.keys()
    assert all(t.dtype == bool and np.array_equal(t, mask.tensors[name]) for name, t in again.tensors.items())
    assert (again.digest, again.remaining, again.layers()) == (mask.digest, mask.remaining, mask.layers())
    assert read_tensors(file)[1]["level"] == 3


def test_the_digest_tells_masks_apart():
    net = small_net()
    mask = any_mask(net, 0)
    digests = {mask.digest, any_mask(net, 1).digest, Mask.full(net).digest}
    for name, tensor in mask.tensors.items():
        flipped = tensor.copy()
        flipped.flat[-1] ^= True
        digests.add(Mask({**mask.tensors, name: flipped}).digest)
    reshaped = {name: t.reshape(-1) for name, t in mask.tensors.items()}
    renamed = {f"other.{name}": t for name, t in mask.tensors.items()}
    digests |= {Mask(reshaped).digest, Mask(renamed).digest}
    assert len(digests) == 5 + len(mask.tensors)
    assert Mask(dict(reversed(mask.tensors.items()))).digest == mask.digest


def test_files_that_are_no_masks_are_refused_in_one_line(tmp_path):
    with pytest.raises(DatadietError, match="no such file"):
        Mask.load(tmp_path / "nosuch.safetensors")
    write_tensors(tmp_path / "other.safetensors", {"a": np.zeros(3)}, {"what": "subset"})
    with pytest.raises(DatadietError, match="is no mask"):
        Mask.load(tmp_path / "other.safetensors")
    Mask.full(small_net()).save(tmp_path / "cut.safetensors")
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-2])
    with pytest.raises(DatadietError, match="is damaged"):
        Mask.load(tmp_path / "cut.safetensors")


def test_the_mask_of_another_network_is_refused_before_a_step():
    net = small_net()
    mask = Mask.full(net)
    wider = nn.Sequential(*list(net)[:-1], nn.Linear(8, 5))
    deeper = nn.Sequential(*net, nn.Linear(4, 4))
    for other, said in ((wider, "8.weight is 4×8 in it, 5×8 in"), (deeper, "9.weight is not there in it, 4×4 in")):
        before = {name: t.clone() for name, t in other.state_dict().items()}
        with pytest.raises(DatadietError, match=said):
            mask.hold(other, torch.optim.SGD(other.parameters(), 0.1))
        assert same(other.state_dict(), before)


def held(recipe, mask, seed=0):
    run = Run.start(recipe, net=small_net(seed))
    mask.hold(run.model, run.moment.optimizer)
    return run


def bits_of_what_is_gone(run, mask, of="weights"):
    state = run.moment.optimizer.state
    found = [torch.zeros(0)]
    for name, parameter in prunable(run.model).items():
        gone = ~torch.from_numpy(mask.tensors[name])
        tensors = [parameter.detach()] if of == "weights" else [t for t in state[parameter].values() if t.dim()]
        found += [t[gone].contiguous() for t in tensors]
    return torch.cat(found)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@settings(max_examples=8)
@given(seed=st.integers(0, 99), stop=st.integers(1, 18), density=st.sampled_from([0.05, 0.3, 0.9]))
def test_what_is_gone_stays_plus_zero_to_the_bit_also_through_a_checkpoint(recipe, seed, stop, density):
    mask = any_mask(small_net(), seed, density)
    straight = held(recipe, mask).go(19)
    assert not bits_of_what_is_gone(straight, mask).view(torch.int32).any()
    assert not bits_of_what_is_gone(straight, mask, of="momentum").any()
    kept = [p.detach()[torch.from_numpy(mask.tensors[name])] for name, p in prunable(straight.model).items()]
    assert torch.cat(kept).count_nonzero() > 0
    first = held(recipe, mask).go(stop)
    point = pack(first.model, first.moment.optimizer, {})  # before another run sets torch's stream
    second = held(recipe, mask, seed=99)
    unpack(point, second.model, second.moment.optimizer)
    second.moment.step = stop
    second.go(19)
    assert not bits_of_what_is_gone(second, mask).view(torch.int32).any()
    assert same(pack(second.model, second.moment.optimizer, {}), pack(straight.model, straight.moment.optimizer, {})), (
        "and it goes on as if it had not stopped"
    )


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("density", [0.05, 0.5])
def test_held_in_mid_training_the_momentum_of_before_moves_nothing(recipe, density):
    run = Run.start(recipe).go(5)
    mask = any_mask(run.model, 3, density)
    mask.hold(run.model, run.moment.optimizer)
    run.go(12)
    assert not bits_of_what_is_gone(run, mask).view(torch.int32).any()
    sparser = Mask({name: t & (np.random.default_rng(1).random(t.shape) < 0.5) for name, t in mask.tensors.items()})
    sparser.hold(run.model, run.moment.optimizer)
    run.go(19)
    assert not bits_of_what_is_gone(run, sparser).view(torch.int32).any()


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_under_the_mask_of_all_weights_training_is_what_it_is_without(recipe):
    run, masked = Run.start(recipe).go(12), held(recipe, Mask.full(small_net())).go(12)
    assert same(pack(run.model, run.moment.optimizer, {}), pack(masked.model, masked.moment.optimizer, {}))


def by_hand(recipe, mask, steps, net):
    """Masked training in float64 as one would write it down: a step of all weights, then those gone back to 0."""
    run = Run.start(recipe, net=net)  # for its batches and rates alone
    gone = {name: ~torch.from_numpy(tensor) for name, tensor in mask.tensors.items()}
    weights = dict(net.named_parameters())
    first = {name: torch.zeros_like(w) for name, w in weights.items()}
    second = {name: torch.zeros_like(w) for name, w in weights.items()}
    mu, decay = recipe.momentum, recipe.weight_decay
    with torch.no_grad():
        for name, where in gone.items():
            weights[name][where] = 0.0
    net.train()
    for step in range(steps):
        rows, shifts, flips = run.order.batch(step)
        logits = net(run.batches.inputs(rows, shifts, flips).double())
        loss = classification.loss(logits.float(), run.batches.labels[rows]).mean()
        gradients = torch.autograd.grad(loss, list(weights.values()))
        rate = run.rate(step)
        with torch.no_grad():
            for (name, w), g in zip(weights.items(), gradients, strict=True):
                if recipe.optimizer == "adamw":
                    w -= rate * decay * w
                    first[name] = 0.9 * first[name] + 0.1 * g
                    second[name] = 0.999 * second[name] + 0.001 * g * g
                    root = (second[name] / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                    w -= rate * first[name] / (1 - 0.9 ** (step + 1)) / root
                else:
                    g = g + decay * w
                    first[name] = mu * first[name] + g
                    w -= rate * (g + mu * first[name] if recipe.nesterov else first[name])
                if name in gone:
                    w[gone[name]] = 0.0
    return {name: w.detach() for name, w in weights.items()}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@settings(max_examples=6)
@given(seed=st.integers(0, 99), density=st.sampled_from([0.1, 0.5]))
def test_the_weights_that_are_left_are_those_of_a_naive_masked_loop_in_float64(recipe, seed, density):
    mask = any_mask(small_net(), seed, density)
    net = Run.start(recipe, net=small_net().double())
    mask.hold(net.model, net.moment.optimizer)
    net.go(14, forward=lambda inputs: net.model(inputs.double()))
    expected = by_hand(recipe, mask, 14, small_net().double())
    free = by_hand(recipe, Mask.full(small_net()), 14, small_net().double())
    for name, parameter in net.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-9, atol=1e-11, msg=name)
    assert max(float((free[n] - expected[n]).abs().max()) for n in free) > 1e-3, "the mask makes a difference"


def test_a_mask_holds_where_every_prunable_weight_is_frozen():
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    net[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1)
    mask = any_mask(net, 0)
    mask.hold(net, optimizer)
    net(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    assert not net[0].weight[~torch.from_numpy(mask.tensors["0.weight"])].any()
