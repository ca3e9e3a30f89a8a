"""Exact per-example gradient norms of any network, without per-example gradients: one layer kind a file."""

from __future__ import annotations

from datadiet.gradients import (  # noqa: F401  (they register their rules)
    attention,
    conv,
    embedding,
    linear,
    normalisation,
    prelu,
)
from datadiet.gradients.loader import grand_loader
from datadiet.gradients.norms import grand
from datadiet.gradients.rules import RULES, Rule, register_rule

__all__ = ["RULES", "Rule", "grand", "grand_loader", "register_rule"]
