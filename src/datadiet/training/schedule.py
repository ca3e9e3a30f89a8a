"""The learning rate at a step, as a pure function of the recipe."""

from __future__ import annotations

import math
from collections.abc import Callable

from datadiet.steps import Step
from datadiet.training.recipe import Recipe


def unreached(recipe: Recipe, examples: int) -> list[str]:
    """What a run is too short for on a training set of `examples`, a sentence each."""
    per_epoch, horizon = recipe.steps_per_epoch(examples), recipe.horizon(examples)
    said = []
    warmup = Step.parse(recipe.warmup).resolve(per_epoch)
    if warmup > horizon:
        said.append(
            f"the warm-up of {warmup} steps ({recipe.warmup}) is longer than the run of {horizon}: "
            f"its learning rate never comes to {recipe.lr:g}"
        )
    if recipe.schedule == "steps":
        beyond = [m for m in recipe.milestones if Step.parse(m).resolve(per_epoch) >= horizon]
        if beyond:
            what = "milestone" if len(beyond) == 1 else "milestones"
            never = "falls" if len(beyond) == len(recipe.milestones) else "falls there"
            said.append(
                f"the {what} {', '.join(beyond)} {'is' if len(beyond) == 1 else 'are'} not within the run of {horizon} "
                f"steps ({recipe.steps}): its learning rate never {never}"
            )
    return said


def learning_rate(recipe: Recipe, examples: int) -> Callable[[int], float]:
    """The rate used by the step that follows `step` finished ones, on a training set of `examples`.

    During warm-up the k-th step (from 0) uses (k + 1)/warmup of the peak. "linear" and "cosine" then fall to 0 at the
    horizon; "steps" multiplies by gamma once as many steps are done as each milestone says.
    """
    per_epoch = recipe.steps_per_epoch(examples)
    horizon = recipe.horizon(examples)
    warmup = Step.parse(recipe.warmup).resolve(per_epoch)
    milestones = sorted(Step.parse(m).resolve(per_epoch) for m in recipe.milestones)

    def rate(step: int) -> float:
        if step < warmup:
            return recipe.lr * (step + 1) / warmup
        if recipe.schedule == "steps":
            return recipe.lr * recipe.gamma ** sum(step >= m for m in milestones)
        progress = min(1.0, (step - warmup) / max(1, horizon - warmup))
        if recipe.schedule == "linear":
            return recipe.lr * (1.0 - progress)
        if recipe.schedule == "cosine":
            return recipe.lr * 0.5 * (1.0 + math.cos(math.pi * progress))
        return recipe.lr

    return rate
