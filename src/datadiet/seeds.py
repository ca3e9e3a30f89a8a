"""Random streams by name: each purpose, run and use of chance has its own, and none depends on another.

A stream is a pure function of (seed, purpose, run, names…), so scoring and retraining cannot collide even at
seed 0, an observer cannot disturb training, and a resumed run finds every stream where it was: streams that are
drawn from repeatedly are keyed by the pass or step as well (`stream(0, "score", 3, "order", 7)`), and nothing
has to be stored. Digests are BLAKE2, never `hash()`, which changes from process to process.
"""

from __future__ import annotations

import hashlib

import numpy as np

from datadiet.errors import DatadietError


def digest(*parts: object) -> int:
    """A stable 64-bit number for a tuple of strings and integers; "1" and 1 differ, so do ("a", "b") and ("ab",)."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        kind = "i" if isinstance(part, (int, np.integer)) else "s"
        text = str(int(part) if kind == "i" else part).encode()  # type: ignore[call-overload]
        state.update(f"{kind}{len(text)}:".encode() + text)
    return int.from_bytes(state.digest(), "little")


def sequence(seed: int, purpose: str, run: int, *names: object) -> np.random.SeedSequence:
    """The seed sequence of a stream: `seed` as entropy, the rest as its spawn key."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise DatadietError(f"the seed {seed!r}", fix="a whole number, 0 or more, is needed")
    key = (digest(purpose), run, *(digest(name) for name in names))
    return np.random.SeedSequence(seed, spawn_key=key)


def stream(seed: int, purpose: str, run: int, *names: object) -> np.random.Generator:
    """A numpy generator for one use of chance in one run.

    >>> stream(0, "score", 0, "order", 0).integers(1000) == stream(0, "retrain", 0, "order", 0).integers(1000)
    np.False_
    """
    return np.random.Generator(np.random.PCG64(sequence(seed, purpose, run, *names)))


def torch_seed(seed: int, purpose: str, run: int, *names: object) -> int:
    """A 63-bit seed for `torch.manual_seed`, from the same family of streams."""
    word = sequence(seed, purpose, run, *names).generate_state(1, np.uint64)[0]
    return int(word) >> 1
