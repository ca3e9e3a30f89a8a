"""The papers' recipes by name, and small ones for machines without an accelerator.

A preset is a Recipe with the numbers of the scoring that goes with it. Sources: "DD" is Deep Learning on a Data Diet
(NeurIPS 2021, appendix B.2), "LT" Lottery Tickets on a Data Diet (appendices). Every field can be overridden.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from datadiet.registry import Registry
from datadiet.training.recipe import Recipe


@dataclass(frozen=True)
class Preset:
    """A recipe and what is usually asked of it.

    Args:
        doc: one line for `datadiet models`.
        runs: scoring runs whose mean is the score.
        at: steps at which scores are taken.
        keeps: fractions kept, for `datadiet run`.
        scores: those of `datadiet run`.
    """

    recipe: Recipe
    doc: str
    runs: int = 10
    at: tuple[str, ...] = ("10ep",)
    keeps: tuple[float, ...] = (0.5,)
    scores: tuple[str, ...] = field(default=("el2n", "grand", "forgetting"))


PRESETS: Registry[Preset] = Registry("preset")

_dd = Recipe(
    model="resnet18",
    batch_size=128,
    lr=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    schedule="steps",
    milestones=("60ep", "120ep", "160ep"),
    gamma=0.2,
    steps="200ep",
    pad=4,
    pad_mode="reflect",
    flip=True,
)
_dd_keeps = (0.9, 0.7, 0.5, 0.4, 0.3, 0.2)

PRESETS.register(
    "dd-cifar10",
    Preset(_dd, "DD, CIFAR-10: ResNet18, 200 epochs (78,000 steps)", at=("10ep", "20ep"), keeps=_dd_keeps),
)
PRESETS.register(
    "dd-cifar100",
    Preset(
        _dd,
        "DD, CIFAR-100: ResNet18, 200 epochs (78,000 steps)",
        at=("10ep", "20ep"),
        keeps=(0.9, 0.75, 0.6, 0.5, 0.4, 0.3),
    ),
)
PRESETS.register(
    "dd-cinic10",
    Preset(
        _dd.with_(batch_size=256),
        "DD, CINIC-10: ResNet18, batch 256, 200 epochs (140,600 steps)",
        at=("10ep", "20ep"),
        keeps=(0.9, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2),
    ),
)

_lt = Recipe(
    model="resnet20",
    batch_size=128,
    lr=0.1,
    momentum=0.9,
    nesterov=False,
    weight_decay=1e-4,
    schedule="steps",
    milestones=("31200it", "46800it"),
    gamma=0.1,
    steps="62400it",
    pad=4,
    pad_mode="zeros",
    flip=True,
)
PRESETS.register("lt-cifar10", Preset(_lt, "LT, CIFAR-10: ResNet-20, 62,400 steps, EL2N at 7,800", at=("7800it",)))
PRESETS.register(
    "lt-cifar100",
    Preset(_lt.with_(model="resnet32"), "LT, CIFAR-100: ResNet-32, 62,400 steps, EL2N at 7,800", at=("7800it",)),
)
PRESETS.register(
    "lt-cinic10",
    Preset(
        _lt.with_(model="resnet56", batch_size=256, milestones=("15625it", "23440it"), steps="31250it"),
        "LT, CINIC-10: ResNet-56, batch 256, 31,250 steps, EL2N at 8,000",
        at=("8000it",),
    ),
)

# Small machines. Chosen for time and for a stable ranking, never by the accuracies that `datadiet run` reports.
PRESETS.register(
    "digits",
    Preset(
        Recipe(
            model="small-cnn",
            batch_size=64,
            lr=0.1,
            nesterov=True,
            weight_decay=5e-4,
            schedule="cosine",
            steps="20ep",
        ),
        "scikit-learn's 8×8 digits: small-cnn, 20 epochs, seconds a run",
        at=("0", "1ep", "2ep", "4ep"),
        keeps=(0.5, 0.25),
        scores=("el2n", "grand", "forgetting", "el2n_online", "loss"),
    ),
)
PRESETS.register(
    "images-small",
    Preset(
        Recipe(
            model="small-cnn",
            model_args={"width": 32},
            batch_size=128,
            lr=0.1,
            nesterov=True,
            weight_decay=5e-4,
            schedule="cosine",
            warmup="0.2ep",
            steps="10ep",
        ),
        "images of any size: small-cnn, 10 epochs, no augmentation",
        runs=5,
        at=("2ep",),
    ),
)
PRESETS.register(
    "cifar10-small",
    Preset(
        Recipe(
            model="resnet8",
            model_args={"width": 32, "stem": 2},
            batch_size=128,
            lr=0.2,
            nesterov=True,
            weight_decay=5e-4,
            schedule="linear",
            warmup="1ep",
            steps="16ep",
            pad=4,
            pad_mode="reflect",
            flip=True,
        ),
        "32×32 colour images on a laptop: a wide resnet8, one-cycle over 16 epochs",
        runs=2,  # two side by side on two cores
        at=("16ep",),
        scores=("el2n", "forgetting", "el2n_online", "loss"),
    ),
)
PRESETS.register(
    "table-small",
    Preset(
        Recipe(
            model="mlp",
            batch_size=128,
            lr=0.05,
            nesterov=True,
            weight_decay=5e-4,
            schedule="cosine",
            steps="20ep",
        ),
        "tables: a two-layer network, 20 epochs",
        at=("4ep",),
    ),
)
