"""A subset of a dataset: rows, the dataset they belong to, and how they were chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from datadiet.errors import DatadietError
from datadiet.selection.order import Ints, parts


@dataclass(frozen=True, eq=False)
class Subset:
    """Rows of one dataset; an array where one is wanted.

    Two subsets are equal when they hold the same rows of the same dataset, however they were chosen.

    Attributes:
        indices: (M,) int64, ascending, each once, read-only. Given in any order, they are sorted.
        size: the number of examples N of the dataset.
        fingerprint: of the dataset; None where it is not known (a list of rows from elsewhere).
        policy: how it was made, as plain values: name, keep, options.
        balance: "before" and "after", the number of examples of each class (C,); None without labels.
        warnings: what the maker should be told, a sentence each.
    """

    indices: Ints
    size: int
    fingerprint: str | None = None
    policy: Mapping[str, Any] = field(default_factory=dict)
    balance: Mapping[str, tuple[int, ...]] | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "indices", _checked(self.indices, self.size))

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return (int(row) for row in self.indices)

    def __getitem__(self, item: Any) -> Any:
        return self.indices[item]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy:
            return np.array(self.indices, dtype=dtype)
        return np.asarray(self.indices, dtype=dtype)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Subset):
            return NotImplemented
        same = (self.size, self.fingerprint) == (other.size, other.fingerprint)
        return same and np.array_equal(self.indices, other.indices)

    def __hash__(self) -> int:
        return hash((self.size, self.fingerprint, self.digest))

    @cached_property
    def digest(self) -> str:
        """BLAKE2b of the rows, as 32 hexadecimal digits."""
        return hashlib.blake2b(np.ascontiguousarray(self.indices, "<i8").data, digest_size=16).hexdigest()

    @property
    def keep(self) -> float:
        """The part of the dataset that is kept."""
        return len(self) / self.size

    def check(self, fingerprint: str | None, size: int, *, where: object = None) -> None:
        """Raise if these are rows of another dataset than the one with this fingerprint and size."""
        if self.size != size:
            raise DatadietError(
                f"the subset is of a dataset of {self.size} examples, this one has {size}",
                where=where,
                fix="select from this dataset's scores",
            )
        if None not in (self.fingerprint, fingerprint) and self.fingerprint != fingerprint:
            raise DatadietError(
                f"the subset is of the dataset {self.fingerprint}, this one is {fingerprint}",
                where=where,
                fix="select from this dataset's scores",
            )


def _checked(given: npt.ArrayLike, size: int) -> Ints:
    rows = np.asarray(given)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise DatadietError(
            f"the subset's rows have shape {rows.shape} and type {rows.dtype}",
            fix="a list of row numbers is needed",
        )
    if len(rows) == 0:
        raise DatadietError("the subset has no examples", fix="keep at least one")
    # A read-only array that owns its memory is nobody else's to change, and needs no copy.
    ours = rows.dtype == np.int64 and not rows.flags.writeable and rows.flags.owndata
    if not ours:
        if int(rows.max()) >= 2**63:
            raise DatadietError(f"the row {int(rows.max())} is out of range", fix=f"rows are 0 to {size - 1}")
        rows = rows.astype(np.int64)
    ascending = all(
        bool((rows[part] < rows[part.start + 1 : part.stop + 1][: part.stop - part.start]).all())
        for part in parts(len(rows) - 1)
    )
    if not ascending:
        rows = np.sort(rows)
        same = np.flatnonzero(rows[1:] == rows[:-1])
        if len(same):
            raise DatadietError(
                f"the row {int(rows[same[0]])} is repeated ({len(same)} repetitions in all)",
                fix="a subset holds each row once",
            )
    for row in (int(rows[0]), int(rows[-1])):
        if not 0 <= row < size:
            raise DatadietError(
                f"the row {row} is out of range",
                fix=f"the dataset has {size} examples, rows are 0 to {size - 1}",
            )
    rows.setflags(write=False)
    return rows
