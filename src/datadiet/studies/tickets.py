"""What the studies of lottery tickets share: their size at each scale, and lotteries that can be rehearsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datadiet.errors import DatadietError
from datadiet.flows.plan import preset_for
from datadiet.flows.rehearsal import quiet
from datadiet.lottery import LOTTERIES, LotteryPlan, Mask, Outcome, Pretraining, execute_tickets, plan_tickets, stages
from datadiet.lottery.plan import LEVELS, Variant
from datadiet.lottery.pruning import FRACTION, remaining
from datadiet.steps import Step
from datadiet.studies.job import StudyJob
from datadiet.studies.scales import PAPER_MODEL
from datadiet.studies.study import Numbers
from datadiet.training.presets import PRESETS
from datadiet.training.recipe import Recipe

# A study is some hundred runs, so below the paper's scale there are fewer levels, which remove more each, and shorter
# runs: chosen for time, and deep enough that IMP from initialisation alone loses a point or two on digits.
PRUNED = {"quick": (5, 0.5), "small": (5, 0.5), "paper": (LEVELS, FRACTION)}
SHORT = "10ep"  # on digits
# At small, images go through the paper's network at half its width, by the recipe of images-small, for one epoch.
SMALL = ("images-small", "cifar10-small")
NARROW: dict[str, Any] = {"model": "resnet20", "model_args": {"width": 8}, "steps": "1ep"}
# t*, of the horizon, where the paper says none: a short run needs a larger part of itself.
PRETRAINED = {"quick": 0.1, "small": 0.1, "paper": 1 / 64}
EASY = {"quick": 0.2, "small": 2048 / 50000}  # the examples of a subset, of all, where the paper says none
SIZES = (0.25, 1, 2.5)  # subset sizes, of that
PAPER_SIZES: dict[str, tuple[int, ...]] = {
    "lt-cifar10": (256, 2048, 25600), "lt-cifar100": (256, 2048, 6400), "lt-cinic10": (12800, 25600, 102400),
}  # fmt: skip
TOLERANCE = 0.5  # points, within which an accuracy is not worse
MATCHED = 0.167  # of the weights: a matching network keeps its accuracy at least down to here, level 8 of the paper


@dataclass(frozen=True)
class Terms:
    """What all lotteries of a study have in common.

    Args:
        recipe: of every run; preset: whose it is, where it is the paper's.
        full: t*, after which pre-training on all data is said to give a matching network; half: t*/2.
        size: examples of an easy subset; sizes: of the sweep, `size` among them, ascending.
        levels, fraction: of the pruning.
        replicates: of everything.
    """

    recipe: Recipe
    preset: str | None
    full: int
    size: int
    sizes: tuple[int, ...]
    levels: int
    fraction: float
    replicates: int

    @property
    def half(self) -> int:
        return max(1, self.full // 2)


def terms(job: StudyJob) -> Terms:
    """The paper's at its scale, to the letter; below it a short run of a small network. One's own recipe is kept."""
    recipe, count = job.recipe, len(job.data)
    if not job.own:
        if job.scale.name == "paper" and recipe.model == PAPER_MODEL:
            recipe = preset_for(job.data, None, "resnet20")[1].recipe
        elif job.scale.name == "small" and recipe in [PRESETS.get(name).recipe for name in SMALL]:
            augmented = {"pad": recipe.pad, "pad_mode": recipe.pad_mode, "flip": recipe.flip}
            recipe = PRESETS.get("images-small").recipe.with_(**NARROW, **augmented)
        elif recipe == PRESETS.get("digits").recipe:
            recipe = recipe.with_(steps=SHORT)
    preset = next((name for name in LOTTERIES if PRESETS.get(name).recipe == recipe), None)
    levels, fraction = PRUNED.get(job.scale.name, PRUNED["paper"])
    if preset is not None:
        usual = LOTTERIES.get(preset)
        full, size, wanted = int(usual.steps.removesuffix("it")), min(usual.size, count), PAPER_SIZES[preset]
    else:
        full = max(2, round(PRETRAINED.get(job.scale.name, 0.1) * recipe.horizon(count)))
        size = max(1, round(EASY.get(job.scale.name, EASY["small"]) * count))
        wanted = tuple(max(1, round(part * size)) for part in SIZES)
    sizes = tuple(sorted({min(one, count) for one in wanted}))
    return Terms(recipe, preset, full, size, sizes, levels, fraction, job.scale.runs)


def tickets(
    job: StudyJob,
    wanted: Mapping[str, Pretraining],
    *,
    noise: str | None = None,
    noise_seed: int | None = None,
    instruments: Sequence[str] = (),
    levels: int | None = None,
    scores_at: Mapping[str, str | int] | None = None,
) -> dict[str, Outcome]:
    """What comes of each pre-training, by the name it was asked for under; in rehearsal counted and made up.

    Args:
        wanted: pre-trainings; one that says no steps is for t*/2.
        noise: during scoring and pre-training only, such as "redraw:0.5"; noise_seed: default the job's.
        instruments: "barrier", "coherence", "errors".
        levels: default the scale's.
        scores_at: {score: step}, where the usual one is not meant.
    """
    given = terms(job)
    per = given.recipe.steps_per_epoch(len(job.data))
    by = {one.by for one in wanted.values() if one.by is not None}
    at: dict[str, str | int] = {}
    if "el2n" in by and given.preset is None:
        at["el2n"] = f"{min(Step.parse(job.early).resolve(per), given.recipe.horizon(len(job.data)))}it"
    try:
        plan = plan_tickets(
            job.data, pretrain=list(wanted.values()), steps=given.half, baselines=False, replicates=given.replicates,
            levels=given.levels if levels is None else levels, fraction=given.fraction, noise=noise,
            noise_seed=job.seed if noise_seed is None else noise_seed,
            score_runs=dict.fromkeys(by - {"lmc"}, job.scale.score_runs), scores_at={**at, **(scores_at or {})},
            instruments=instruments, recipe=given.recipe, preset=given.preset, seed=job.seed, setup=job.setup,
        )  # fmt: skip
    except DatadietError as error:
        if (error.where or "").split(" ")[0] in ("--pretrain", "--steps"):  # of another command
            fix = "take more data, evenly spread over classes, or a longer --recipe"
            raise DatadietError(error.what, where=job.data.name, fix=fix) from None
        raise
    found: Mapping[str, Outcome]
    if job.rehearsal:
        found = made_up(job, plan)
    else:
        found = execute_tickets(plan, on_progress=job.on_progress).outcomes
    with quiet():  # warnings about subsets were given when they were made
        counted = stages(plan)
    for stage, one in counted:
        job.add(stage, one)
    steps = {n: given.half if o.steps is None else Step.parse(o.steps).resolve(per) for n, o in wanted.items()}
    # Two that come to the same, such as no steps on anything, are one pre-training under two names.
    return {name: found[Variant(one, steps[name], False).label] for name, one in wanted.items()}


def made_up(job: StudyJob, plan: LotteryPlan) -> dict[str, Outcome]:
    """Outcomes of the right shape and sparsity, with values that say nothing."""
    runs, count = plan.replicates, len(plan.data)
    masks = [_first(plan.dense, some) for some in remaining(plan.dense.total, plan.fraction, plan.levels)]

    def of(shape: tuple[int, ...], *names: object) -> np.ndarray:
        return job.made_up(shape, "lottery", *names)

    out = {}
    for variant in plan.variants:
        label = variant.label
        more: dict[str, Any] = {}
        if "barrier" in plan.instruments:
            more |= {"barriers": of((runs, count), "barriers", label), "error_barriers": of((runs,), "error", label)}
        if "coherence" in plan.instruments:
            more["cosines"] = of((runs,), "cosines", label)
        if "errors" in plan.instruments:
            more |= {name: of((runs, count), name, label) for name in ("errors_dense", "errors_sparse")}
        out[label] = Outcome(
            label, variant.step, of((runs, plan.levels + 1), "accuracy", label),
            of((runs,), "test", label), of((runs,), "train", label), (tuple(masks),) * runs, (None,) * runs, **more,
        )  # fmt: skip
    return out


def _first(dense: Mask, count: int) -> Mask:
    """A mask with that many weights, the first ones."""
    out, start = {}, 0
    for name, tensor in dense.tensors.items():
        out[name] = (start + np.arange(tensor.size) < count).reshape(tensor.shape)
        start += tensor.size
    return Mask(out)


def rows_of(outcomes: Mapping[str, Outcome], **common: Any) -> Numbers:
    """A row for each pre-training, replicate and level; the mean and deviation over replicates stand in each."""
    return [
        {
            **common, "way": way, "label": one.label, "step": one.step, "run": run, "level": level,
            "density": one.density[level], "accuracy": float(one.accuracy[run, level]),
            "mean": float(one.mean()[level]), "std": float(one.std()[level]), "matching": one.matching(),
            "pretrained_test": float(one.test[run]), "pretrained_train": float(one.train[run]),
        }
        for way, one in outcomes.items()
        for run in range(len(one.accuracy))
        for level in range(one.levels + 1)
    ]  # fmt: skip


def deepest(numbers: Numbers) -> int:
    """The last level."""
    return max(row["level"] for row in numbers)


def points(numbers: Numbers, level: int, **where: Any) -> np.ndarray:
    """(replicates,) accuracies in percent at a level of the rows in which all of `where` is so."""
    found = [r for r in numbers if r["level"] == level and all(r.get(k) == v for k, v in where.items())]
    return np.array([100 * row["accuracy"] for row in sorted(found, key=lambda row: row["run"])])


def left(numbers: Numbers, level: int) -> float:
    """Percent of the weights that are left at a level."""
    return 100 * next(float(row["density"]) for row in numbers if row["level"] == level)


def by_sparsity(numbers: Numbers, **where: Any) -> dict[float, list[float]]:
    """{all weights / weights left: accuracies (replicates,)}, a curve over the levels that have any left."""
    out: dict[float, list[float]] = {}
    for row in sorted(numbers, key=lambda row: (row["level"], row["run"])):
        if row["density"] and all(row.get(key) == value for key, value in where.items()):
            out.setdefault(1 / row["density"], []).append(row["accuracy"])
    return out


def kept(numbers: Numbers, **where: Any) -> tuple[np.ndarray, int]:
    """(replicates,) points of accuracy that a sparse network has above its dense one, and the level.

    At the level that loses most on average of those at which a matching network must lose nothing.
    """
    levels = {row["level"]: row["density"] for row in numbers if row["level"]}
    judged = [level for level, density in sorted(levels.items()) if density >= MATCHED] or [1]
    dense = points(numbers, 0, **where)
    lost = {level: points(numbers, level, **where) - dense for level in judged}
    worst = min(judged, key=lambda level: float(lost[level].mean()))
    return lost[worst], worst
