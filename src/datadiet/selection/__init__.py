"""Scores to a subset, by a stated policy: one policy a file, pure, numpy alone."""

from __future__ import annotations

from datadiet.selection.counts import count
from datadiet.selection.easiest import easiest
from datadiet.selection.hardest import hardest
from datadiet.selection.order import Order, Tie
from datadiet.selection.policy import POLICIES, Policy, options_of
from datadiet.selection.quota import quota
from datadiet.selection.random import random
from datadiet.selection.selecting import select
from datadiet.selection.stratified import stratified
from datadiet.selection.subset import Subset
from datadiet.selection.window import window

__all__ = [
    "POLICIES",
    "Order",
    "Policy",
    "Subset",
    "Tie",
    "count",
    "easiest",
    "hardest",
    "options_of",
    "quota",
    "random",
    "select",
    "stratified",
    "window",
]
