"""Rows by their place in the order (score, keyed tie rank), for columns that may have a hundred million rows.

A full sort of N scores needs N int64 indices and as much again for the tie ranks. No policy wants the sort,
only the rows whose place lies between two cuts, so a cut is found digit by digit instead (a radix selection
from the leading digit, in chunks that fit the cache): count the digits, keep the bin in which the cut falls,
look at the next digits; when few candidates are left, sort those. Extra memory is the result and a few
chunks, whatever the column, which may be memory-mapped and is never copied or upcast.

Everything is done for several groups of rows at once (classes, strata): places are counted within a group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from datadiet.errors import DatadietError
from datadiet.seeds import digest

CHUNK = 1 << 17  # rows looked at together; their keys, ranks and groups stay in the second-level cache
SORT_BELOW = 1 << 20  # so many candidates are sorted outright

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Tie:
    """The order among equal scores: a permutation of the rows keyed to the dataset, never by row.

    The rank of a row is SplitMix64's bijection of 64-bit numbers at the row's place in the sequence that
    starts from `key`: no two rows share a rank, and no permutation of N numbers has to be held.
    """

    key: int

    @classmethod
    def of(cls, fingerprint: str | None) -> Tie:
        """The tie order of a dataset; without a fingerprint, one that is the same for all."""
        return cls(digest("ties", fingerprint or ""))

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Tie:
        """A fresh order, for sampling: the first `count` ranks are a random subset."""
        return cls(int(rng.integers(2**64, dtype=np.uint64)))

    def rank(self, rows: npt.ArrayLike) -> Words:
        """(M,) row numbers -> (M,) uint64 ranks, all different."""
        z = np.asarray(rows).astype(np.uint64)
        z *= np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(self.key & (2**64 - 1))
        z ^= z >> np.uint64(30)
        z *= np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
        return z


def ascending(values: Array, fingerprint: str | None, rows: Ints | None = None) -> Ints:
    """Rows (default all) from the lowest value to the highest, NaN last; equal ones in the dataset's order of ties."""
    rows = np.arange(len(values)) if rows is None else rows
    ordered: Ints = rows[np.lexsort((Tie.of(fingerprint).rank(rows), values[rows]))]
    return ordered


def parts(n: int) -> Iterator[slice]:
    """The rows 0..n in chunks."""
    for start in range(0, n, CHUNK):
        yield slice(start, min(start + CHUNK, n))


def sortable(values: Array) -> npt.NDArray[np.unsignedinteger]:
    """Unsigned integers in the order of the values: uint32 for float32 and float16, uint64 for the rest."""
    kind, width = values.dtype.kind, values.dtype.itemsize
    if kind == "f":
        unsigned, signed, floating = (
            (np.uint32, np.int32, np.float32) if width <= 4 else (np.uint64, np.int64, np.float64)
        )
        # + 0.0 makes the two zeros one; then a set sign bit turns all bits, a clear one is set.
        bits: Array = np.add(values, floating(0), dtype=floating).view(signed)
        mask: Array = (bits >> (8 * bits.itemsize - 1)).view(unsigned)
        mask |= unsigned(1 << (8 * bits.itemsize - 1))
        mask ^= bits.view(unsigned)
        return mask
    if kind == "u":
        return values.astype(np.uint64)
    return values.astype(np.int64).view(np.uint64) ^ np.uint64(1 << 63)


def checked(difficulty: npt.ArrayLike) -> Array:
    """The scores as real numbers (N,), N >= 1, without NaN; memory-mapped arrays stay as they are."""
    tensor: Any = difficulty if hasattr(difficulty, "detach") else None
    if tensor is not None:  # on whatever device, of a type that numpy may not have
        tensor = tensor.detach().cpu()
        difficulty = tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor
    scores = np.asanyarray(difficulty)
    if scores.ndim != 1 or scores.dtype.kind not in "fiub" or scores.dtype.itemsize > 8:
        raise DatadietError(
            f"the scores have shape {scores.shape} and type {scores.dtype}",
            fix="one real number an example is needed, shape (N,)",
        )
    if len(scores) == 0:
        raise DatadietError("there are no scores", fix="one real number an example is needed, shape (N,)")
    if scores.dtype.kind == "f":
        count, first = 0, -1
        for part in parts(len(scores)):
            bad = np.isnan(scores[part])
            if bad.any():
                first = part.start + int(bad.argmax()) if count == 0 else first
                count += int(np.count_nonzero(bad))
        if count:
            raise DatadietError(
                f"{count} of {len(scores)} scores {'is' if count == 1 else 'are'} NaN, the first in row {first}",
                fix="score these examples, or leave them out of the dataset",
            )
    return scores


@dataclass(frozen=True)
class Cut:
    """For each group the first row *not* below the cut: its key and tie rank; or that all are below."""

    key: npt.NDArray[np.unsignedinteger]
    rank: Words
    whole: npt.NDArray[np.bool_]


class Order:
    """The rows of a column in the order (score, tie rank), within groups.

    Args:
        n: the number of rows.
        tie: the order among equal scores.
        scores: (N,) real numbers without NaN; None orders by tie rank alone.
        groups: (N,) small non-negative integers; None is one group. sizes (G,) is counted if it is not given.
    """

    def __init__(
        self,
        n: int,
        tie: Tie,
        *,
        scores: Array | None = None,
        groups: Array | None = None,
        sizes: Ints | None = None,
    ) -> None:
        self.n, self.tie, self.scores, self.groups = n, tie, scores, groups
        if sizes is None:
            sizes = np.array([n], np.int64) if groups is None else group_sizes(groups)
        self.sizes = sizes

    def between(self, low: npt.ArrayLike, high: npt.ArrayLike) -> Ints:
        """The rows whose place in their group, counted from the lowest, is in [low, high): ascending, int64.

        low and high are (G,) or one number for all groups; they must lie in 0..size.
        """
        lows = np.broadcast_to(np.asarray(low, np.int64), self.sizes.shape)
        highs = np.broadcast_to(np.asarray(high, np.int64), self.sizes.shape)
        lower, upper = self.cut(lows), self.cut(highs)
        rows = np.empty(int((highs - lows).sum()), np.int64)
        filled = 0
        for part in parts(self.n):
            inside = self.below(upper, part)
            if lows.any():
                inside &= ~self.below(lower, part)
            found = np.flatnonzero(inside)
            rows[filled : filled + len(found)] = found
            rows[filled : filled + len(found)] += part.start
            filled += len(found)
        assert filled == len(rows)
        return rows

    def below(self, cut: Cut, part: slice) -> npt.NDArray[np.bool_]:
        """Which rows of the chunk lie below the cut: (len,) bool."""
        groups = self._groups(part)
        keys = self._keys(part)
        if keys is None:
            inside = self.tie.rank(np.arange(part.start, part.stop)) < _at(cut.rank, groups)
        else:
            threshold = _at(cut.key, groups)
            inside = keys < threshold
            equal = np.flatnonzero(keys == threshold)
            if len(equal):
                limit = cut.rank[0] if groups is None else cut.rank[groups[equal]]
                inside[equal] = self.tie.rank(equal + part.start) < limit
        if cut.whole.any():
            inside |= _at(cut.whole, groups)
        return inside

    def cut(self, counts: Ints) -> Cut:
        """The cut below which the first counts[g] rows of each group g lie."""
        probe = next(iter(parts(self.n)), slice(0, 0))
        first = self._keys(slice(probe.start, min(probe.start + 1, probe.stop)))
        key_type = np.dtype(np.uint64) if first is None else first.dtype
        search = _Search(
            places=counts.copy(),
            alive=(counts > 0) & (counts < self.sizes),
            key=np.zeros(len(counts), key_type),
            rank=np.zeros(len(counts), np.uint64),
            left=np.where((counts > 0) & (counts < self.sizes), self.sizes, 0),
        )
        bits = max(4, 16 - max(0, len(counts) - 1).bit_length())
        for word in ("key", "rank") if self.scores is not None else ("rank",):
            width = 8 * (key_type.itemsize if word == "key" else 8)
            known = 0
            while known < width:
                if not search.alive.any() or int(search.left.sum()) <= SORT_BELOW:
                    break
                step = min(bits, width - known)
                self._narrow(search, word, known, step, width)
                known += step
            if known < width:
                if search.alive.any():
                    self._finish(search, word, known, width)
                break
        return Cut(search.key, search.rank, counts >= self.sizes)

    def _narrow(self, search: _Search, word: str, known: int, step: int, width: int) -> None:
        """Count the next `step` bits of the candidates; keep for each group the bin its cut falls into."""
        bins = np.zeros((len(search.alive), 1 << step), np.int64)
        for part in parts(self.n):
            chosen, groups, words = self._candidates(search, word, known, width, part)
            if len(chosen) == 0:
                continue
            digits = words >> words.dtype.type(width - known - step)
            digits &= digits.dtype.type((1 << step) - 1)
            digits = digits.astype(np.int64)
            if groups is not None:
                digits += groups.astype(np.int64) << step
            bins += np.bincount(digits, minlength=bins.size).reshape(bins.shape)
        for g in np.flatnonzero(search.alive):
            total = np.cumsum(bins[g])
            digit = int(np.searchsorted(total, search.places[g], side="right"))
            search.places[g] -= total[digit - 1] if digit else 0
            search.left[g] = bins[g, digit]
            found = search.key if word == "key" else search.rank
            found[g] |= found.dtype.type(digit << (width - known - step))

    def _finish(self, search: _Search, word: str, known: int, width: int) -> None:
        """Sort the few candidates that are left, and read the cut off."""
        kept = [(*self._candidates(search, word, known, width, part), part.start) for part in parts(self.n)]
        rows = np.concatenate([chosen + start for chosen, _, _, start in kept])
        ranks = self.tie.rank(rows)
        of = np.zeros(len(rows), np.int64)
        if self.groups is not None:
            of = np.concatenate([np.asarray(g, np.int64) for _, g, _, _ in kept if g is not None])
        keys = ranks
        if word == "key":
            keys = np.concatenate([words for _, _, words, _ in kept])
        order = np.lexsort((ranks, keys, of))
        starts = np.searchsorted(of[order], np.arange(len(search.alive)))
        for g in np.flatnonzero(search.alive):
            row = order[starts[g] + search.places[g]]
            search.rank[g] = ranks[row]
            if word == "key":
                search.key[g] = keys[row]

    def _candidates(
        self, search: _Search, word: str, known: int, width: int, part: slice
    ) -> tuple[Ints, Array | None, npt.NDArray[np.unsignedinteger]]:
        """Rows of the chunk (from its start) of which the bits known so far agree, their groups and words."""
        groups = self._groups(part)
        keys = self._keys(part)
        if word == "rank" and keys is None:
            keys = self.tie.rank(np.arange(part.start, part.stop))
            found, shift = search.rank, width - known
        elif word == "rank":
            found, shift = search.key, 0  # the score must agree entirely; ranks are then made for few
        else:
            found, shift = search.key, width - known
        assert keys is not None
        live = bool(search.alive.all())
        if shift >= 8 * keys.itemsize and live:
            chosen = np.arange(len(keys))
            words = keys
        else:
            agree = np.ones(len(keys), bool)
            if shift < 8 * keys.itemsize:
                by = keys.dtype.type(shift)
                agree = (keys >> by) == _at(found >> by, groups)
            if not live:
                agree &= _at(search.alive, groups)
            chosen = np.flatnonzero(agree)
            words = keys[chosen]
            groups = None if groups is None else groups[chosen]
        if word == "rank" and self.scores is not None:
            words = self.tie.rank(chosen + part.start)
            if known:
                by64 = np.uint64(width - known)
                same = (words >> by64) == _at(search.rank >> by64, groups)
                chosen, words = chosen[same], words[same]
                groups = None if groups is None else groups[same]
        return chosen, groups, words

    def _groups(self, part: slice) -> Array | None:
        return None if self.groups is None else np.asarray(self.groups[part])

    def _keys(self, part: slice) -> npt.NDArray[np.unsignedinteger] | None:
        return None if self.scores is None else sortable(np.asarray(self.scores[part]))


@dataclass
class _Search:
    """How far the cuts of the groups are known: all (G,)."""

    places: Ints  # the cut's place among the candidates
    alive: npt.NDArray[np.bool_]  # groups whose cut falls between two rows
    key: npt.NDArray[np.unsignedinteger]  # the leading bits found so far
    rank: Words
    left: Ints  # candidates


def group_sizes(groups: Array) -> Ints:
    """(N,) non-negative integers -> (G,) counts, G one more than the largest."""
    sizes = np.zeros(0, np.int64)
    for part in parts(len(groups)):
        here = np.bincount(np.asarray(groups[part]).astype(np.int64, copy=False), minlength=len(sizes))
        here[: len(sizes)] += sizes
        sizes = here
    return sizes


def _at(values: Array, groups: Array | None) -> Array:
    return values[0] if groups is None else values[groups]
