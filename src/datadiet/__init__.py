"""datadiet: which training examples matter, early in training, and what happens when the rest is left out.

>>> import datadiet as dd
>>> data = dd.load("digits")
>>> table = dd.score(data, model="small-cnn", scores=["el2n", "forgetting"], runs=10, at="4ep", out="out/digits")
>>> subset = dd.select(table, by="el2n", keep=0.5)
>>> result = dd.compare(data, {"el2n 50%": subset}, runs=4)
"""

from datadiet import models
from datadiet.data import Dataset, load
from datadiet.errors import DatadietError
from datadiet.flows.compare import Comparison, compare
from datadiet.flows.plan import Setup
from datadiet.flows.run import run
from datadiet.flows.score import score
from datadiet.flows.select import load_subset, save_subset, select
from datadiet.flows.train import train
from datadiet.flows.tune import tune_window
from datadiet.scores import ScoreTable, load_table
from datadiet.selection import Subset
from datadiet.training.presets import PRESETS
from datadiet.training.recipe import Recipe

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "Comparison",
    "DatadietError",
    "Dataset",
    "Recipe",
    "ScoreTable",
    "Setup",
    "Subset",
    "compare",
    "load",
    "load_subset",
    "load_table",
    "models",
    "run",
    "save_subset",
    "score",
    "select",
    "train",
    "tune_window",
]
