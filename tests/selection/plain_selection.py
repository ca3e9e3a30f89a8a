"""The plain definitions that the chunked selection is held against: sort everything, then cut."""

from __future__ import annotations

import numpy as np


def ranks(n, key):
    """SplitMix64 in Python's own integers."""
    out, word = [], 2**64 - 1
    for row in range(n):
        z = (row * 0x9E3779B97F4A7C15 + key) & word
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
        out.append(z ^ (z >> 31))
    return np.array(out, np.uint64)


def ascending(scores, tie):
    """All rows, easiest first, equal scores in tie order."""
    return np.lexsort((ranks(len(scores), tie.key), np.asarray(scores)))


def cut(order, low, high):
    return np.sort(order[low:high])


def by_class(scores, tie, labels, places):
    """places(class, size) -> (low, high), applied within each class."""
    rows = []
    order = ascending(scores, tie)
    for c in np.unique(labels):
        own = order[np.asarray(labels)[order] == c]
        low, high = places(int(c), len(own))
        rows.append(own[low:high])
    return np.sort(np.concatenate(rows))
