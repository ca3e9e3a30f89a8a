"""Lottery tickets: masks by pruning, and iterative magnitude pruning with rewinding to a pre-trained point."""

from datadiet.lottery.imp import execute_tickets, find_tickets, stages
from datadiet.lottery.plan import LotteryPlan, plan_tickets
from datadiet.lottery.presets import LOTTERIES, LotteryPreset
from datadiet.lottery.pretraining import Pretraining
from datadiet.lottery.pruning import RULES, prune
from datadiet.lottery.result import Lottery, Outcome
from datadiet.training.masks import Mask

__all__ = [
    "LOTTERIES",
    "RULES",
    "Lottery",
    "LotteryPlan",
    "LotteryPreset",
    "Mask",
    "Outcome",
    "Pretraining",
    "execute_tickets",
    "find_tickets",
    "plan_tickets",
    "prune",
    "stages",
]
