"""Scores: one a file, pure; and ScoreTable, the one result type."""

from datadiet.scores.base import SCORES, Score, score
from datadiet.scores.el2n import el2n
from datadiet.scores.el2n_online import OnlineEL2N, el2n_online
from datadiet.scores.export import load_table
from datadiet.scores.forgetting import Forgetting, forgetting
from datadiet.scores.grand import grand
from datadiet.scores.loss import loss
from datadiet.scores.table import ScoreTable
from datadiet.scores.watch import Watch

__all__ = [
    "SCORES",
    "Forgetting",
    "OnlineEL2N",
    "Score",
    "ScoreTable",
    "Watch",
    "el2n",
    "el2n_online",
    "forgetting",
    "grand",
    "load_table",
    "loss",
    "score",
]
