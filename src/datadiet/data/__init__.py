"""Dataset and its splits; one file a source format; label noise."""

from __future__ import annotations

from datadiet.data.dataset import Dataset, Examples, from_arrays
from datadiet.data.load import DATASETS, load

__all__ = ["DATASETS", "Dataset", "Examples", "from_arrays", "load"]
