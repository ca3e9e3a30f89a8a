"""Pruning rules: exact counts, the smallest weights, fair ties, spared layers; and what is refused."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from datadiet.errors import DatadietError
from datadiet.lottery import Lottery, Outcome
from datadiet.lottery.pruning import RULES, exempted, prune, remaining
from datadiet.training.masks import Mask

Weights = dict[str, np.ndarray]
SHAPES = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple), min_size=1, max_size=4)
PERCENT = st.integers(1, 99)


def full(weights: Mapping[str, np.ndarray]) -> Mask:
    return Mask({name: np.ones(w.shape, bool) for name, w in weights.items()})


def drawn(shapes: list[tuple[int, ...]], seed: int, ties: bool = False) -> Weights:
    rng = np.random.default_rng(seed)
    values = {f"block.{k}.weight": rng.normal(size=shape) for k, shape in enumerate(shapes)}
    return {name: np.round(w) for name, w in values.items()} if ties else values


def flat(weights: Mapping[str, np.ndarray], mask: Mask) -> np.ndarray:
    return np.concatenate([np.abs(weights[name][mask.tensors[name]]) for name in weights])


@pytest.mark.parametrize("rule", RULES.names())
@settings(max_examples=60)
@given(shapes=SHAPES, seed=st.integers(0, 999), percent=PERCENT, levels=st.integers(1, 6), ties=st.booleans())
def test_every_level_takes_exactly_the_part_it_should_and_gives_nothing_back(
    rule: str, shapes: list[tuple[int, ...]], seed: int, percent: int, levels: int, ties: bool
) -> None:
    mask = full(drawn(shapes, seed, ties))
    for level in range(levels):
        weights = drawn(shapes, seed + level, ties)  # retrained in between; what is gone has any value
        after = prune(weights, mask, percent / 100, rule, seed=seed)
        groups = [[name] for name in weights] if rule == "layerwise" else [list(weights)]
        for group in groups:
            before = sum(int(mask.tensors[name].sum()) for name in group)
            left = sum(int(after.tensors[name].sum()) for name in group)
            assert left == before - -(-before * percent // 100)
        assert all(not (after.tensors[name] & ~mask.tensors[name]).any() for name in weights)
        assert after.digest == prune(weights, mask, percent / 100, rule, seed=seed).digest
        mask = after


@settings(max_examples=60)
@given(shapes=SHAPES, seed=st.integers(0, 999), percent=PERCENT)
def test_by_magnitude_the_smallest_of_all_go_as_an_independent_sort_has_it(
    shapes: list[tuple[int, ...]], seed: int, percent: int
) -> None:
    weights = drawn(shapes, seed)
    mask = prune(drawn(shapes, seed + 1), full(weights), 0.3)
    after = prune(weights, mask, percent / 100)
    places = [(name, place) for name, t in mask.tensors.items() for place in zip(*np.nonzero(t), strict=True)]
    places.sort(key=lambda p: abs(float(weights[p[0]][p[1]])))
    gone = set(places[: math.ceil(len(places) * percent / 100 - 1e-9)])
    assert {
        (name, place)
        for name, t in mask.tensors.items()
        for place in zip(*np.nonzero(t & ~after.tensors[name]), strict=True)
    } == gone


@settings(max_examples=40)
@given(shapes=SHAPES, seed=st.integers(0, 999), percent=PERCENT)
def test_layer_by_layer_the_smallest_of_each_go(shapes: list[tuple[int, ...]], seed: int, percent: int) -> None:
    weights = drawn(shapes, seed, ties=True)
    after = prune(weights, full(weights), percent / 100, "layerwise")
    for name, w in weights.items():
        sizes, left = np.abs(w), after.tensors[name]
        if left.any() and not left.all():
            assert sizes[~left].max() <= sizes[left].min()


@pytest.mark.parametrize("rule", RULES.names())
@settings(max_examples=30)
@given(seed=st.integers(0, 999), spared=st.integers(0, 2), percent=PERCENT)
def test_spared_layers_lose_nothing_and_do_not_count(rule: str, seed: int, spared: int, percent: int) -> None:
    weights = drawn([(4, 3), (5, 2, 2), (7,)], seed)
    name = f"block.{spared}.weight"
    for given_name in (name, f"block.{spared}"):
        after = prune(weights, full(weights), percent / 100, rule, exempt=[given_name], seed=seed)
        assert after.tensors[name].all()
        sizes = [w.size for other, w in weights.items() if other != name]
        counted = sizes if rule == "layerwise" else [sum(sizes)]
        gone = sum(-(-size * percent // 100) for size in counted)
        assert after.remaining == full(weights).total - gone
    weights[name][:] = np.nan  # and are not even looked at
    prune(weights, full(weights), percent / 100, rule, exempt=[name])


def test_a_module_is_spared_with_all_that_is_in_it_and_no_other_of_a_like_name() -> None:
    names = ["stage.1.a.weight", "stage.1.b.weight", "stage.10.a.weight", "head.weight"]
    assert exempted(names, ["stage.1"]) == set(names[:2])
    assert exempted(names, ["stage"]) == set(names[:3])
    assert exempted(names, []) == set()


@pytest.mark.parametrize("rule", ["magnitude", "layerwise"])
def test_equal_weights_go_by_a_draw_not_by_their_place(rule: str) -> None:
    weights = {"a": np.ones(500), "b": -np.ones((50, 10))}
    masks = [prune(weights, full(weights), 0.5, rule, seed=s, run=r) for s, r in ((0, 0), (0, 0), (1, 0), (0, 1))]
    assert all(mask.remaining == 500 for mask in masks)
    assert masks[0].digest == masks[1].digest
    assert len({mask.digest for mask in masks}) == 3
    for mask in masks:
        # 250 of each are expected, with a standard deviation below 8.
        assert all(abs(int(t.sum()) - 250) < 60 for t in mask.tensors.values())
        assert all(0 < int(t.reshape(-1)[:250].sum()) < 250 for t in mask.tensors.values())


def test_at_random_seed_and_run_decide_and_the_weights_do_not() -> None:
    weights = drawn([(20, 10), (100,)], 0)
    masks = {
        (seed, run): prune(weights, full(weights), 0.4, "random", seed=seed, run=run)
        for seed in (0, 1)
        for run in (0, 1)
    }
    assert len({mask.digest for mask in masks.values()}) == 4
    again = prune(drawn([(20, 10), (100,)], 5), full(weights), 0.4, "random", seed=1, run=1)
    assert again.digest == masks[1, 1].digest
    # Over many draws every weight goes as often as any other.
    often = np.mean(
        [~prune(weights, full(weights), 0.4, "random", seed=s).tensors["block.1.weight"] for s in range(300)], 0
    )
    assert abs(often.mean() - 0.4) < 0.02
    assert often.min() > 0.4 - 6 * math.sqrt(0.4 * 0.6 / 300)
    assert often.max() < 0.4 + 6 * math.sqrt(0.4 * 0.6 / 300)


def test_successive_draws_of_one_run_are_not_the_same_one() -> None:
    weights = {"a": np.ones(1000)}
    first = prune(weights, full(weights), 0.5, "random")
    second = prune(weights, first, 0.5, "random")
    part = second.tensors["a"][first.tensors["a"]]
    assert int(part.sum()) == 250
    assert not np.array_equal(part, first.tensors["a"][:500])


@settings(max_examples=40)
@given(count=st.integers(1, 5000), percent=PERCENT, levels=st.integers(0, 12))
def test_the_counts_of_all_levels_are_known_beforehand(count: int, percent: int, levels: int) -> None:
    weights = {"a": np.random.default_rng(count).normal(size=count)}
    mask, left = full(weights), [count]
    for _ in range(levels):
        mask = prune(weights, mask, percent / 100)
        left.append(mask.remaining)
    assert remaining(count, percent / 100, levels) == left


def test_a_tenth_of_thirty_is_three() -> None:
    weights = {"a": np.arange(1.0, 31)}
    assert prune(weights, full(weights), 0.1).remaining == 27, "0.1 is a little more than a tenth in binary"
    assert remaining(100_000, 0.2, 8)[-1] == 16_776, "16.8 %: 80,000, 64,000, 51,200, 40,960, 32,768, 26,214, 20,971"


def test_a_layer_that_loses_its_last_weight_is_named(caplog: pytest.LogCaptureFixture) -> None:
    weights = {"first.weight": np.full(2, 0.001), "second.weight": np.arange(1.0, 21)}
    with caplog.at_level(logging.WARNING, "datadiet"):
        mask = prune(weights, full(weights), 0.1)
    assert mask.layers()["first.weight"] == (0, 2), "3 of 22 go, these two among them"
    (record,) = caplog.records
    assert "the last weight of first.weight" in record.getMessage()
    caplog.clear()
    with caplog.at_level(logging.WARNING, "datadiet"):
        prune(weights, mask, 0.1)
    assert not caplog.records, "said once"


@pytest.mark.parametrize("rule", RULES.names())
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(rule: str, value: float) -> None:
    weights = drawn([(4,), (3, 3)], 0)
    weights["block.1.weight"][1, 2] = value
    with pytest.raises(DatadietError, match=r"block\.1\.weight has weights that are not finite"):
        prune(weights, full(weights), 0.2, rule)
    mask = full(weights)
    mask.tensors["block.1.weight"][1, 2] = False
    prune(weights, mask, 0.2, rule)


def test_weights_of_another_network_are_refused() -> None:
    weights = drawn([(4,), (3, 3)], 0)
    with pytest.raises(DatadietError, match=r"another network: no weights block\.1\.weight"):
        prune({"block.0.weight": weights["block.0.weight"]}, full(weights))
    with pytest.raises(DatadietError, match=r"another network: block\.1\.weight has shape \(9,\)"):
        prune({**weights, "block.1.weight": np.zeros(9)}, full(weights))


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, math.nan, math.inf, "half", None])
def test_a_fraction_is_more_than_nothing_and_less_than_all(fraction: Any) -> None:
    with pytest.raises(DatadietError, match="more than 0 and less than 1"):
        prune({"a": np.ones(4)}, full({"a": np.ones(4)}), fraction)


def test_unknown_rules_and_layers_are_named() -> None:
    weights = drawn([(4,), (3, 3)], 0)
    with pytest.raises(DatadietError, match="unknown pruning rule 'magnitud'; did you mean magnitude"):
        prune(weights, full(weights), 0.2, "magnitud")
    with pytest.raises(DatadietError, match=r"unknown layer 'block\.2'; did you mean"):
        prune(weights, full(weights), 0.2, exempt=["block.2"])
    with pytest.raises(DatadietError, match="every layer is exempt"):
        prune(weights, full(weights), 0.2, exempt=["block"])


def test_tensors_of_a_network_are_pruned_as_arrays_are() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(8, 5)).to(memory_format=torch.channels_last)
    mask = Mask.full(net)
    by_tensor = prune(dict(net.named_parameters()), mask, 0.5)
    by_array = prune({n: p.detach().numpy() for n, p in net.named_parameters()}, mask, 0.5)
    assert by_tensor.digest == by_array.digest
    by_tensor.apply(net)
    together = torch.cat([p.detach().flatten() for n, p in net.named_parameters() if n in mask.tensors])
    assert int((together == 0).sum()) == mask.total - by_tensor.remaining


def test_a_lottery_whose_last_level_has_no_weight_is_saved_without_it_in_the_figure(tmp_path: Path) -> None:
    masks = tuple(Mask({"w": np.arange(4) < left}) for left in (4, 2, 0))
    one = Outcome("all", 1, np.full((2, 3), 0.5), np.ones(2), np.ones(2), (masks,) * 2, (None,) * 2)
    lottery = Lottery({"all": one}, 4, 10, 5, "data", {})
    (axes,) = lottery.figure().axes
    assert axes.get_xticks().tolist() == [1, 2]
    assert all(file.exists() for file in lottery.save(tmp_path))
    assert [row["left"] for row in lottery.rows()] == [4, 2, 0] * 2
