"""scikit-learn's digits: 1 797 grey images of 8×8, built in, so that the main job needs no download."""

from __future__ import annotations

import numpy as np

from datadiet.data.dataset import Dataset, from_arrays
from datadiet.data.splits import fixed_test_split

TEST = 0.25


def load() -> Dataset:
    """scikit-learn's handwritten digits (built in): 8×8 grey, 10 classes, a fixed quarter for testing.

    Pixels are 0 … 16, kept as uint8; `rows` are the rows of `load_digits`.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.int64)
    kept, held = fixed_test_split(labels, TEST, where="digits")
    return from_arrays(
        "digits", (images[kept], labels[kept]), (images[held], labels[held]), classes="0123456789", rows=kept
    )
