"""The papers' networks by name, and builders for foreign ones."""

from __future__ import annotations

from datadiet.models.build import MODELS, Description, build, build_with, code_fingerprint, describe, is_own
from datadiet.models.checks import check_output, check_single, weights_fingerprint
from datadiet.models.foreign import is_foreign

__all__ = [
    "MODELS",
    "Description",
    "build",
    "build_with",
    "check_output",
    "check_single",
    "code_fingerprint",
    "describe",
    "is_foreign",
    "is_own",
    "weights_fingerprint",
]
