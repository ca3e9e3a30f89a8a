"""What the training loop costs beside a bare one, and what following every example costs.

Two comparisons, each of two runs that train in turns in one process, block by block, in random order, so that both
meet the same machine. A ratio is the median over pairs of neighbouring blocks; in brackets its quartiles. With one
thread the clock is this process's CPU time, which other processes on the machine disturb less than the wall's.

    loop      time of a bare hand-written loop / time of `train` without observers   (1 is a loop that costs nothing)
    watched   time of `train` with forgetting and online EL2N / time without         (1 is a watch that costs nothing)
    all       the same with everything that a scoring run follows: the two, AUM, data maps and Dyn-Unc

Run: python benchmarks/training_loop.py [--seconds 20] [--threads 1] [--device cpu]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from datadiet import models
from datadiet.data import digits
from datadiet.data.batches import Batches
from datadiet.data.dataset import Dataset, from_arrays
from datadiet.data.order import Order
from datadiet.scores import SCORES
from datadiet.task import classification
from datadiet.training.checkpoint import make_optimizer
from datadiet.training.loop import Moment, train
from datadiet.training.observers import Trajectories
from datadiet.training.presets import PRESETS
from datadiet.training.recipe import Recipe
from datadiet.training.schedule import learning_rate

Block = Callable[[], None]
Clock = Callable[[], float]


def pieces(recipe: Recipe, data: Dataset, device: str) -> tuple[Moment, Batches, Order, Callable[[int], float]]:
    model = models.build(recipe.model, data.input_shape, len(data.classes), seed=0, **recipe.model_args)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = Batches(data.train, data, device, pad=recipe.pad, pad_mode=recipe.pad_mode)
    order = Order(
        np.arange(len(data)), recipe.batch_size, (0, "score", 0), pad=recipe.pad, flip=recipe.flip, device=device
    )
    moment = Moment(model, make_optimizer(model, recipe), 0, recipe.steps_per_epoch(len(data)), order.steps_per_pass)
    return moment, batches, order, learning_rate(recipe, len(data))


def bare(recipe: Recipe, data: Dataset, steps: int, device: str) -> Block:
    """The loop that one would write by hand: same data, layout, precision, optimiser and schedule."""
    moment, batches, order, rate = pieces(recipe, data, device)
    model, optimizer = moment.model, moment.optimizer

    def block() -> None:
        model.train()
        for step in range(moment.step, moment.step + steps):
            rows, shifts, flips = order.batch(step)
            inputs, labels = batches.inputs(rows, shifts, flips), batches.labels[rows]
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
            loss = F.cross_entropy(model(inputs), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        moment.step += steps
        loss.item()

    return block


def ours(recipe: Recipe, data: Dataset, steps: int, device: str, watch: tuple[str, ...] = ()) -> Block:
    moment, batches, order, rate = pieces(recipe, data, device)
    followed = {name: SCORES.get(name).compute(len(data), torch.device(device)) for name in watch}
    observers = [Trajectories(followed)] if watch else []

    def block() -> None:
        stop = moment.step + steps
        train(moment, stop, batches=batches, order=order, rate=rate, task=classification, observers=observers)

    return block


def compare(first: Block, second: Block, seconds: float, clock: Clock) -> tuple[list[float], list[float]]:
    """Times of both, pair by pair, until the seconds are over."""
    choose = random.Random(0)
    for block in (first, second):  # warm up
        block()
        block()
    times: tuple[list[float], list[float]] = ([], [])
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times[0]) < 5:
        pair = [(first, times[0]), (second, times[1])]
        if choose.random() < 0.5:
            pair.reverse()
        for block, kept in pair:
            start = clock()
            block()
            kept.append(clock() - start)
    return times


def show(name: str, what: str, times: tuple[list[float], list[float]], steps: int) -> None:
    ratios = [a / b for a, b in zip(*times, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    each = [1000 * statistics.median(part) / steps for part in times]
    cells = f"{name:<34} {what:<8} {each[0]:8.3f} {each[1]:8.3f}"
    print(f"{cells}   {middle:.3f} [{low:.3f}, {high:.3f}]  {len(ratios):4d}", flush=True)


def random_images(rows: int) -> Dataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (rows, 32, 32, 3), np.uint8)
    return from_arrays("random", (images, np.arange(rows) % 10), classes="0123456789")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each comparison")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    alone = asked.threads == 1 and asked.device == "cpu"
    clock = time.process_time if alone else time.perf_counter  # a block ends by looking at its loss
    everything = tuple(name for name, entry in SCORES.items() if entry.needs == "trajectory")
    thin = Recipe(model="resnet8", batch_size=128, lr=0.05, steps="1000ep")
    cases = [
        ("digits, small-cnn", PRESETS.get("digits").recipe.with_(steps="1000ep"), digits.load(), 21),
        ("32×32, resnet8", thin, random_images(256), 2),
        ("32×32, resnet8, crop and flip", thin.with_(pad=4, flip=True), random_images(256), 2),
    ]
    print(f"{'':<34} {'':<8} {'ms a step':>17}   ratio [quartiles]     pairs")
    for name, recipe, data, steps in cases:
        if asked.only not in name:
            continue
        common = (recipe, data, steps, asked.device)
        plain = ours(*common)
        show(name, "loop", compare(bare(*common), plain, asked.seconds, clock), steps)
        for what, watch in (("watched", ("forgetting", "el2n_online")), ("all", everything)):
            show(name, what, compare(ours(*common, watch=watch), plain, asked.seconds, clock), steps)


if __name__ == "__main__":
    main()
