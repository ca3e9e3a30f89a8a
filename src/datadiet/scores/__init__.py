"""Scores: one a file, pure; and ScoreTable, the one result type."""

from datadiet.scores.aum import AreaUnderMargin, aum
from datadiet.scores.base import SCORES, Score, score
from datadiet.scores.cartography import Cartography, confidence
from datadiet.scores.dyn_unc import DynamicUncertainty, dyn_unc
from datadiet.scores.el1n import el1n
from datadiet.scores.el2n import el2n
from datadiet.scores.el2n_online import OnlineEL2N, el2n_online
from datadiet.scores.entropy import entropy
from datadiet.scores.export import load_table
from datadiet.scores.forgetting import Forgetting, forgetting
from datadiet.scores.grand import grand
from datadiet.scores.grand_calibrated import grand_calibrated
from datadiet.scores.input_norm import input_norm
from datadiet.scores.lmc import lmc
from datadiet.scores.loss import loss
from datadiet.scores.margin_max import margin_max
from datadiet.scores.margin_sum import margin_sum
from datadiet.scores.random import random
from datadiet.scores.table import ScoreTable
from datadiet.scores.watch import Watch

__all__ = [
    "SCORES",
    "AreaUnderMargin",
    "Cartography",
    "DynamicUncertainty",
    "Forgetting",
    "OnlineEL2N",
    "Score",
    "ScoreTable",
    "Watch",
    "aum",
    "confidence",
    "dyn_unc",
    "el1n",
    "el2n",
    "el2n_online",
    "entropy",
    "forgetting",
    "grand",
    "grand_calibrated",
    "input_norm",
    "lmc",
    "load_table",
    "loss",
    "margin_max",
    "margin_sum",
    "random",
    "score",
]
