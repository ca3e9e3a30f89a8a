"""What a lottery is, resolved and checked before a step of it is taken."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datadiet.data as data_room
from datadiet.data.dataset import Dataset
from datadiet.data.noise import parse as parse_noise
from datadiet.errors import DatadietError, unknown
from datadiet.flows.arguments import several, whole
from datadiet.flows.network import network_of
from datadiet.flows.plan import Network, Setup, check_seed, defaults_for, environment, inspect, recipe_for
from datadiet.flows.score import ScorePlan, check_ranking, plan_score
from datadiet.lottery.presets import lottery_preset
from datadiet.lottery.pretraining import Pretraining
from datadiet.lottery.pruning import FRACTION, RULES, as_fraction, exempted, remaining
from datadiet.numerics import Numerics
from datadiet.source import code_of, is_ours
from datadiet.steps import Step
from datadiet.training.masks import Mask
from datadiet.training.recipe import Recipe

log = logging.getLogger(__name__)

LEVELS = 8  # down to 16.8 % of the weights: where the paper asks whether they match
BATCHES = 16  # gradients whose coherence is taken
PROJECTED = 6  # the level at which the paper looks at errors after the sparse projection (Figure 9)
REWINDS = ("weights", "rate")
INSTRUMENTS = ("barrier", "coherence", "errors")
LMC_RUNS = 2  # replicates of the paper's LMC score


@dataclass(frozen=True)
class Variant:
    """One pre-training, resolved: where it rewinds to, and whether its classes are balanced."""

    pretraining: Pretraining
    step: int
    balanced: bool

    @property
    def label(self) -> str:
        if self.step == 0:
            return "no pre-training"
        return f"{self.pretraining.name}, {self.step:,} step{'s' * (self.step != 1)}"


@dataclass(frozen=True)
class LotteryPlan:
    """Everything a lottery is, before a step of it is taken."""

    data: Dataset
    noisy: Dataset
    recipe: Recipe
    pre_recipe: Recipe
    variants: tuple[Variant, ...]
    scorings: Mapping[str, ScorePlan]
    replicates: int
    levels: int
    fraction: float
    rule: str
    exempt: tuple[str, ...]
    rewind: str
    instruments: tuple[str, ...]
    dense: Mask
    seed: int
    setup: Setup
    network: Network
    numerics: Numerics
    balanced: str

    @property
    def until(self) -> int:
        """The last step of every level."""
        return self.recipe.horizon(len(self.data))

    @property
    def pruning(self) -> str:
        """What names a level's mask beside the run it was made from."""
        named = [self.rule, str(as_fraction(self.fraction)), sorted(self.exempt), self.seed]
        code = self.rule_code
        text = json.dumps(named if code is None else [*named, code])
        return f"mask-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"

    @property
    def rule_code(self) -> str | None:
        """What identifies the code of a rule that is not the library's."""
        rule = RULES.get(self.rule)
        return None if is_ours(rule) else code_of([rule])

    @property
    def projected(self) -> int:
        """The level whose errors are looked at right after the projection."""
        return min(PROJECTED, self.levels)


def plan_tickets(
    data: Any, model: str | None = None, *, pretrain: Sequence[str | Pretraining] | None = None,
    steps: str | int | None = None, baselines: bool | None = None, levels: int = LEVELS, replicates: int = 4,
    fraction: float = FRACTION, rule: str = "magnitude", exempt: Sequence[str] = (), rewind: str = "weights",
    noise: str | None = None, noise_seed: int = 0, pretrain_lr: float | None = None, balanced: str = "paper",
    score_runs: int | Mapping[str, int] | None = None, scores_at: Mapping[str, str | int] | None = None,
    instruments: Sequence[str] = (), recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
    preset: str | None = None, horizon: str | None = None, seed: int = 0,
    setup: Setup | Mapping[str, Any] | None = None,
) -> LotteryPlan:  # fmt: skip
    """Resolve and check all that `find_tickets` was asked, and train nothing. Arguments as of `find_tickets`."""
    data, setup = data_room.load(data), Setup.of(setup)
    seed = check_seed(seed)
    if data.test is None:
        raise DatadietError("no test split to compare on", where=data.name, fix="load it with one")
    each = list(score_runs.values()) if isinstance(score_runs, Mapping) else [score_runs]
    instruments = several(instruments, "instruments", "--instrument")
    exempt = several(exempt, "layers", "--exempt")
    pretrain = [pretrain] if isinstance(pretrain, (str, Pretraining)) else pretrain
    numbers = [("levels", levels, 0), ("replicates", replicates, 1), *(("score runs", one, 1) for one in each)]
    for what, value, least in numbers:
        if value is not None:
            whole(value, what, f"--{what.replace(' ', '-')}", least)
    as_fraction(fraction)
    RULES.get(rule, where="--prune")
    for choice, legal, flag in ((rewind, REWINDS, "--rewind"), (balanced, ("paper", "yes", "no"), "--balanced")):
        if choice not in legal:
            raise unknown("choice", choice, legal, where=flag)
    for name in instruments:
        if name not in INSTRUMENTS:
            raise unknown("instrument", name, INSTRUMENTS, where="--instrument")
    if "errors" in instruments and rewind == "rate":
        raise DatadietError(
            "errors are of the pre-trained weights, which --rewind rate does not go back to", where="--instrument",
            fix="leave errors out, or rewind weights",
        )  # fmt: skip
    chosen = recipe_for(data, recipe=recipe, preset=preset, model=model, steps=horizon)
    recipe_preset, defaults = defaults_for(data, preset, model, recipe)
    until = chosen.horizon(len(data))
    usual = lottery_preset(data, recipe_preset, chosen, until, defaults.at[-1])
    noisy = data
    if noise is not None:
        if data.validation is not None:
            raise DatadietError(
                "a validation split would be cut before the noise", where="--noise", fix="leave --validation out"
            )
        kind, part = parse_noise(noise)
        noisy = data.with_noise(kind, part, noise_seed)
    pre_recipe = chosen.with_(lr=usual.lr if pretrain_lr is None else pretrain_lr)
    network = inspect(chosen, data)

    def at(step: str | int, where: str = "--steps") -> int:
        plain = int(step) if str(step).isdecimal() else step
        return Step.parse(plain, where=where).resolve(chosen.steps_per_epoch(len(data)))

    short = at(steps) if steps is not None else max(1, at(usual.steps) // 2)
    wanted = [
        one if isinstance(one, Pretraining) else Pretraining.parse(one)
        for one in ([f"easiest:{usual.size}", f"random:{usual.size}"] if pretrain is None else pretrain)
    ]
    if baselines if baselines is not None else pretrain is None:
        if 2 * short > until:
            raise DatadietError(
                f"all data for twice {short:,} steps is more than the run has ({until:,})", where="--baselines",
                fix="pre-train for fewer steps, or lengthen the run",
            )  # fmt: skip
        wanted += [Pretraining("all", steps=f"{n}it" if n else "0") for n in (2 * short, short, 0)]
    variants: dict[str, Variant] = {}
    for one in wanted:
        step = short if one.steps is None else at(one.steps)
        if step == 0:  # on what makes no difference
            one = Pretraining("all", steps="0")
        even = one.balanced if balanced == "paper" else balanced == "yes"
        one.check(noisy, even and one.policy != "all")
        if step >= until:
            raise DatadietError(
                f"rewinding to step {step:,} leaves nothing to train of {until:,}", where="--steps",
                fix="pre-train for fewer steps, or lengthen the run",
            )  # fmt: skip
        variant = Variant(one, step, even and one.policy != "all")
        variants.setdefault(variant.label, variant)
        there = one.size or len(data)
        batches = there // chosen.batch_size
        if "coherence" in instruments and batches < BATCHES:
            what = "agree by construction" if batches < 2 else "agree the more, as examples come again"
            log.warning(
                "%s: %d examples make %s of %d, for %d gradients, which %s",
                variant.label, there, f"{batches} batches" if batches > 1 else "fewer than two batches",
                chosen.batch_size, BATCHES, what,
            )  # fmt: skip
    if any(variant.pretraining.size == 1 for variant in variants.values()):
        inspect(pre_recipe, data, smallest=1)
    if not variants:
        raise DatadietError("no pre-training is asked for", where="--pretrain", fix='say "all" or "easiest:2048"')
    by = sorted({v.pretraining.by for v in variants.values() if v.pretraining.by is not None})
    asked_at, asked_runs = dict(scores_at or {}), score_runs if isinstance(score_runs, Mapping) else {}
    for given, flag in ((asked_at, "--score-at"), (asked_runs, "--score-runs")):
        for name in given:
            if name not in by:
                raise unknown("score of a pre-training", name, by, where=flag)
    runs = {name: min(defaults.runs, LMC_RUNS) if name == "lmc" else defaults.runs for name in by}
    runs |= asked_runs if score_runs is None or isinstance(score_runs, Mapping) else dict.fromkeys(by, int(score_runs))
    usual_at = {"forgetting": chosen.steps, "lmc": f"{min(4 * short, until - 1)}it"}

    def scored_at(name: str) -> int:
        if name not in asked_at:  # the usual step, or the end of a shorter run
            return min(at(usual_at.get(name, usual.scores_at)), until)
        found = at(asked_at[name], "--score-at")
        if found > until:
            raise DatadietError(
                f"{asked_at[name]} is step {found:,}, and the run has {until:,}", where="--score-at",
                fix="take the score earlier",
            )  # fmt: skip
        return found

    scorings = {
        name: plan_score(
            noisy, scores=[name], runs=runs[name], at=[f"{scored_at(name)}it"], recipe=chosen, seed=seed,
            setup=setup,
        )
        for name in by
    }  # fmt: skip
    for name, scoring in scorings.items():
        check_ranking(scoring, name, scoring.marks[-1], where="--score-at")
    dense = Mask.full(network_of(chosen, data))
    if not dense.tensors:
        raise DatadietError(
            f"{chosen.model} has no convolution or linear layer to prune", where="--model", fix="use another network"
        )
    spared = exempted(list(dense.tensors), exempt)
    _warn_of_empty_layers(dense, spared, fraction, levels, rule)
    return LotteryPlan(
        data, noisy, chosen, pre_recipe, tuple(variants.values()), scorings, replicates, levels, fraction, rule,
        tuple(exempt), rewind, tuple(dict.fromkeys(instruments)), dense, seed, setup, network,
        environment(chosen, data, network, setup), balanced,
    )  # fmt: skip


def _warn_of_empty_layers(dense: Mask, spared: set[str], fraction: float, levels: int, rule: str) -> None:
    """Say before training which layers are sure to lose their last weight."""
    layers = {name: count for name, (_, count) in dense.layers().items() if name not in spared}
    left = remaining(sum(layers.values()), fraction, levels)[-1]
    if rule == "layerwise":
        empty = [name for name, count in layers.items() if not remaining(count, fraction, levels)[-1]]
        if empty:
            log.warning("after %d levels nothing is left of %s", levels, ", ".join(empty))
    elif left < len(layers):
        log.warning("after %d levels %d weights are left for %d layers", levels, left, len(layers))
