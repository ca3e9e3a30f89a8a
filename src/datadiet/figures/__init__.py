"""Plots: plain functions from arrays to a matplotlib figure, and `save`, with the same bytes each time."""

from __future__ import annotations

from datadiet.figures.curves import accuracy_against_keep
from datadiet.figures.gallery import gallery
from datadiet.figures.histograms import score_histogram, score_histograms
from datadiet.figures.saving import save
from datadiet.figures.windows import windows

__all__ = [
    "accuracy_against_keep",
    "gallery",
    "save",
    "score_histogram",
    "score_histograms",
    "windows",
]
