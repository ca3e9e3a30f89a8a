"""How large a study is: quick, small or paper, and what each scale trains."""

from __future__ import annotations

from dataclasses import dataclass

from datadiet.data.dataset import Dataset
from datadiet.errors import DatadietError
from datadiet.flows.plan import preset_for
from datadiet.registry import Registry
from datadiet.training.presets import Preset


@dataclass(frozen=True)
class Scale:
    """One size of every study.

    Args:
        name: "quick", "small" or "paper".
        doc: one line.
        data: the dataset where none is named.
        score_runs: scoring runs whose mean is the score.
        runs: retraining runs of everything that is plotted.
        keeps: parts kept in the pruning curve.
        marks: when scores are taken, as parts of the horizon, 0 and 1 included.
        window_step: between two offsets of the sliding window.
    """

    name: str
    doc: str
    data: str
    score_runs: int
    runs: int
    keeps: tuple[float, ...]
    marks: tuple[float, ...]
    window_step: float = 0.1


SCALES: Registry[Scale] = Registry("scale")

# Chosen for time, before any verdict was seen: quick is at most 3 minutes a study on two cores.
SCALES.register(
    "quick",
    Scale(
        "quick",
        "digits and a small network: minutes",
        "digits",
        score_runs=10,
        runs=5,
        keeps=(0.5, 0.25, 0.1, 0.05),
        marks=(0, 0.05, 0.1, 0.2, 0.4, 1),
        window_step=0.15,
    ),
)
SCALES.register(
    "small",
    Scale(
        "small",
        "CIFAR-10 or Fashion-MNIST and a small network: hours on two cores",
        "fashion-mnist",
        score_runs=4,
        runs=3,
        keeps=(0.5, 0.3, 0.1),
        marks=(0, 0.1, 0.2, 0.5, 1),
        window_step=0.3,
    ),
)
SCALES.register(
    "paper",
    Scale(
        "paper",
        "the papers' networks, steps and runs: accelerators and days",
        "cifar10",
        score_runs=10,
        runs=4,
        keeps=(0.9, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1),
        marks=(0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 1),
    ),
)

PAPER_MODEL = "resnet18"


def preset_at(
    scale: Scale, data: Dataset, preset: str | None = None, model: str | None = None, own_recipe: bool = False
) -> tuple[str, Preset]:
    """The recipe of a scale on a dataset, unless one is named: the papers' at "paper", else the small one."""
    if scale.name == "paper" and preset is None and model is None:
        if data.kind != "image" or data.input_shape != (3, 32, 32):
            if own_recipe:
                return preset_for(data)
            raise DatadietError(
                f"the papers have no recipe for {data.name}, of shape {data.input_shape}",
                where="--scale paper",
                fix="use cifar10, cifar100 or cinic10, or say --preset or --recipe",
            )
        model = PAPER_MODEL
    return preset_for(data, preset, model)
