"""The paper's hyperparameters of iterative magnitude pruning (Lottery Tickets, Table 1), and small ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

from datadiet.data.dataset import Dataset
from datadiet.registry import Registry
from datadiet.training.presets import PRESETS
from datadiet.training.recipe import Recipe


@dataclass(frozen=True)
class LotteryPreset:
    """What a lottery needs beside a recipe.

    Args:
        lr: the pre-training learning rate, the best at `steps` of 0.1, 0.2 and 0.4 in the paper.
        steps: t*, after which pre-training on all data gives a matching sparse network.
        size: examples of an easy subset that serve as well in half the steps.
        scores_at: when the scores are taken that say what is easy.
    """

    lr: float
    steps: str
    size: int
    scores_at: str


LOTTERIES: Registry[LotteryPreset] = Registry("lottery preset")
# LT Table 1; for CINIC-10 it gives t* = 400 and 800.
LOTTERIES.register("lt-cifar10", LotteryPreset(0.4, "400it", 2048, "7800it"))
LOTTERIES.register("lt-cifar100", LotteryPreset(0.4, "800it", 2048, "7800it"))
LOTTERIES.register("lt-cinic10", LotteryPreset(0.1, "400it", 25600, "8000it"))


def lottery_preset(data: Dataset, recipe_preset: str, recipe: Recipe, horizon: int, early: str) -> LotteryPreset:
    """The paper's where the recipe is; else pre-training over a 64th of the horizon.

    The paper's pre-training rate was chosen for its optimiser and rate: a recipe with others pre-trains at its own.
    In the paper t* is a 156th of the training on CIFAR-10 and a 78th on CIFAR-100 and CINIC-10. A short schedule
    needs a larger part of itself to get as far.
    """
    if recipe_preset in LOTTERIES:
        found, of = LOTTERIES.get(recipe_preset), PRESETS.get(recipe_preset).recipe
        same = (recipe.optimizer, recipe.lr) == (of.optimizer, of.lr)
        return found if same else replace(found, lr=recipe.lr)
    size = max(1, min(len(data), max(16 * len(data.classes), round(2048 / 50000 * len(data)))))
    return LotteryPreset(recipe.lr, f"{max(2, round(horizon / 64))}it", size, early)
