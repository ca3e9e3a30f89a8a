"""datadiet: which training examples matter, early in training, and what happens when the rest is left out.

>>> import datadiet as dd
>>> data = dd.load("digits")
>>> table = dd.score(data, model="small-cnn", scores=["el2n", "forgetting"], runs=10, at="4ep", out="out/digits")
>>> subset = dd.select(table, by="el2n", keep=0.5)
>>> result = dd.compare(data, {"el2n 50%": subset}, runs=4)

Names are imported when they are first used, so that `datadiet --help` and every worker start without PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from datadiet import data, figures, models, scores, selection
    from datadiet.data import Dataset, load
    from datadiet.errors import DatadietError
    from datadiet.flows.compare import Comparison, compare
    from datadiet.flows.plan import Setup
    from datadiet.flows.run import run
    from datadiet.flows.score import score
    from datadiet.flows.select import load_subset, save_subset, select
    from datadiet.flows.train import train
    from datadiet.flows.tune import tune_window
    from datadiet.gradients import grand, grand_loader
    from datadiet.scores.export import load_table
    from datadiet.scores.table import ScoreTable
    from datadiet.scores.watch import Watch
    from datadiet.selection import Subset
    from datadiet.training.presets import PRESETS
    from datadiet.training.recipe import Recipe

# Public name to the module it lives in; a module of the same name stands for itself.
_HOMES = {
    "Comparison": "datadiet.flows.compare",
    "DatadietError": "datadiet.errors",
    "Dataset": "datadiet.data",
    "PRESETS": "datadiet.training.presets",
    "Recipe": "datadiet.training.recipe",
    "ScoreTable": "datadiet.scores.table",
    "Setup": "datadiet.flows.plan",
    "Subset": "datadiet.selection",
    "Watch": "datadiet.scores.watch",
    "compare": "datadiet.flows.compare",
    "data": "datadiet.data",
    "figures": "datadiet.figures",
    "grand": "datadiet.gradients",
    "grand_loader": "datadiet.gradients",
    "load": "datadiet.data",
    "load_subset": "datadiet.flows.select",
    "load_table": "datadiet.scores.export",
    "models": "datadiet.models",
    "run": "datadiet.flows.run",
    "save_subset": "datadiet.flows.select",
    "score": "datadiet.flows.score",
    "scores": "datadiet.scores",
    "select": "datadiet.flows.select",
    "selection": "datadiet.selection",
    "train": "datadiet.flows.train",
    "tune_window": "datadiet.flows.tune",
}

__all__ = [
    "PRESETS",
    "Comparison",
    "DatadietError",
    "Dataset",
    "Recipe",
    "ScoreTable",
    "Setup",
    "Subset",
    "Watch",
    "compare",
    "data",
    "figures",
    "grand",
    "grand_loader",
    "load",
    "load_subset",
    "load_table",
    "models",
    "run",
    "save_subset",
    "score",
    "scores",
    "select",
    "selection",
    "train",
    "tune_window",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'datadiet' has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name])
    return module if module.__name__ == f"datadiet.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
