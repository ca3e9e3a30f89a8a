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
    from datadiet import data, figures, lottery, models, scores, selection, studies
    from datadiet.data import Dataset, load
    from datadiet.dynamics.connectivity import linear_path
    from datadiet.dynamics.kernel import kernel_velocity, ntk
    from datadiet.errors import DatadietError
    from datadiet.flows.compare import Comparison, compare
    from datadiet.flows.connectivity import connectivity
    from datadiet.flows.plan import Setup
    from datadiet.flows.run import run
    from datadiet.flows.score import score
    from datadiet.flows.select import load_subset, save_subset, select
    from datadiet.flows.train import train
    from datadiet.flows.tune import tune_window
    from datadiet.gradients import grand, grand_loader
    from datadiet.lottery import find_tickets
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
    "connectivity": "datadiet.flows.connectivity",
    "data": "datadiet.data",
    "figures": "datadiet.figures",
    "find_tickets": "datadiet.lottery",
    "grand": "datadiet.gradients",
    "grand_loader": "datadiet.gradients",
    "kernel_velocity": "datadiet.dynamics.kernel",
    "linear_path": "datadiet.dynamics.connectivity",
    "load": "datadiet.data",
    "load_subset": "datadiet.flows.select",
    "load_table": "datadiet.scores.export",
    "lottery": "datadiet.lottery",
    "models": "datadiet.models",
    "ntk": "datadiet.dynamics.kernel",
    "run": "datadiet.flows.run",
    "save_subset": "datadiet.flows.select",
    "score": "datadiet.flows.score",
    "scores": "datadiet.scores",
    "select": "datadiet.flows.select",
    "selection": "datadiet.selection",
    "studies": "datadiet.studies",
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
    "connectivity",
    "data",
    "figures",
    "find_tickets",
    "grand",
    "grand_loader",
    "kernel_velocity",
    "linear_path",
    "load",
    "load_subset",
    "load_table",
    "lottery",
    "models",
    "ntk",
    "run",
    "save_subset",
    "score",
    "scores",
    "select",
    "selection",
    "studies",
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
