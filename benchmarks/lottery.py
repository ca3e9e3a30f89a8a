"""What a mask costs in training: the same network with most of its weights held at zero, beside all of them.

Two runs train in turns in one process, block by block, in random order, as in training_loop.py. A ratio is the median
over pairs of neighbouring blocks; in brackets its quartiles.

    50 %, 17 %   time of training under a mask that leaves so much / time without   (1 is a mask that costs nothing)

A mask is unstructured, so no ratio can lie below 1 for long: nothing is skipped, and the gradients are multiplied.

Run: python benchmarks/lottery.py [--seconds 20] [--threads 1]
"""

from __future__ import annotations

import argparse
import time

import torch

from datadiet.data import digits
from datadiet.data.dataset import Dataset
from datadiet.lottery import Mask, prune
from datadiet.task import classification
from datadiet.training.loop import train
from datadiet.training.presets import PRESETS
from datadiet.training.recipe import Recipe
from training_loop import Block, compare, pieces, random_images, show

DENSITIES = (0.5, 0.17)


def training(recipe: Recipe, data: Dataset, steps: int, density: float | None = None) -> Block:
    """Blocks of training, under a mask of the largest weights at the start where a density is given."""
    moment, batches, order, rate = pieces(recipe, data)
    if density is not None:
        weights = dict(moment.model.named_parameters())
        prune(weights, Mask.full(moment.model), round(1 - density, 6)).hold(moment.model, moment.optimizer)

    def block() -> None:
        stop = moment.step + steps
        train(moment, stop, batches=batches, order=order, rate=rate, task=classification)

    return block


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each comparison")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    clock = time.process_time if asked.threads == 1 else time.perf_counter
    thin = Recipe(model="resnet8", batch_size=128, lr=0.05, steps="1000ep")
    cases = [
        ("digits, small-cnn", PRESETS.get("digits").recipe.with_(steps="1000ep"), digits.load(), 21),
        ("32×32, resnet8", thin, random_images(256), 2),
        ("32×32, resnet20", thin.with_(model="resnet20"), random_images(256), 2),
    ]
    print(f"{'':<34} {'left':<8} {'ms a step':>17}   ratio [quartiles]     pairs")
    for name, recipe, data, steps in cases:
        if asked.only not in name:
            continue
        for density in DENSITIES:
            pair = training(recipe, data, steps, density), training(recipe, data, steps)
            show(name, f"{100 * density:.0f} %", compare(*pair, asked.seconds, clock), steps)


if __name__ == "__main__":
    main()
