"""The one Dataset: inputs and labels by row, a test split, and what was done to them.

An example is its row in the training set. Nothing derived from a dataset is combined with another one unless the
fingerprints (content hashes of inputs and of labels) agree. Images stay uint8 in memory, as (N, H, W, C), so that a
gathered batch is channels-last without a copy; tables are float32 (N, D); token inputs are a dict of arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from datadiet.data.buffers import read_only, take
from datadiet.data.checks import (
    as_images,
    check_inputs,
    check_labels,
    check_same_shape,
    count_rows,
    count_up,
    refuse_unseen,
)
from datadiet.data.content import Inputs, content_hash, moments
from datadiet.errors import DatadietError


@dataclass(frozen=True)
class Fingerprint:
    """Content hashes of a set of examples; equal inputs with other labels are the same examples, relabelled."""

    inputs: str
    labels: str

    @classmethod
    def parse(cls, text: str) -> Fingerprint:
        inputs, _, labels = text.partition("-")
        return cls(inputs, labels)

    def __str__(self) -> str:
        return f"{self.inputs}-{self.labels}"


@dataclass(frozen=True, eq=False)
class Examples:
    """Rows of inputs with their labels, read-only; arrays may be memory maps.

    Args:
        inputs: (N, H, W, C) uint8 or float32 images, (N, D) float32 tables, or a dict of (N, …) arrays.
        labels: (N,) int64 class indices.
        ids: what the source calls each row (a file name), where it does.
    """

    inputs: Inputs
    labels: np.ndarray
    ids: Sequence[str] | None = None

    def __post_init__(self) -> None:
        # The fingerprint is taken once, and what is stored under it must stay true: nobody writes through these.
        inputs = self.inputs
        if isinstance(inputs, Mapping):
            object.__setattr__(self, "inputs", {key: read_only(array) for key, array in inputs.items()})
        else:
            object.__setattr__(self, "inputs", read_only(inputs))
        object.__setattr__(self, "labels", read_only(self.labels))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()  # copied and unpickled arrays are writeable again

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: Any) -> Any:
        """The raw inputs at `indices`, as stored, copied: an array, or a dict of arrays."""
        rows = np.asarray(indices, dtype=np.int64)
        if isinstance(self.inputs, Mapping):
            return {key: array[rows] for key, array in self.inputs.items()}
        return self.inputs[rows]

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array by name, for sharing with other processes; `from_arrays` is the way back."""
        if isinstance(self.inputs, Mapping):
            named = {f"inputs.{key}": array for key, array in self.inputs.items()}
        else:
            named = {"inputs": self.inputs}
        return {**named, "labels": self.labels}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Examples:
        if "inputs" in arrays:
            return cls(arrays["inputs"], arrays["labels"])
        named = {key[len("inputs.") :]: array for key, array in arrays.items() if key.startswith("inputs.")}
        return cls(named, arrays["labels"])

    def take(self, rows: np.ndarray) -> Examples:
        ids = None if self.ids is None else [self.ids[row] for row in rows]
        if isinstance(self.inputs, Mapping):
            inputs: Inputs = {key: take(array, rows) for key, array in self.inputs.items()}
        else:
            inputs = take(self.inputs, rows)
        return Examples(inputs, self.labels[rows], ids)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint(content_hash(self.inputs), content_hash(self.labels))


@dataclass(frozen=True, eq=False)
class Noise:
    """What label noise did: by which rule, to which rows (`chosen`), and the labels before."""

    kind: str
    fraction: float
    seed: int
    chosen: np.ndarray  # (N,) bool
    original: np.ndarray  # (N,) int64

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "fraction": self.fraction,
            "seed": self.seed,
            "chosen": int(self.chosen.sum()),
        }


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training examples, and a test split that is for the final accuracy only.

    Args:
        name: what reports call it.
        train: the examples that are trained on and scored; `len(data)`, `data.labels` are theirs.
        test: held-out examples, or None (then nothing can be compared).
        classes: the names of the classes, in label order.
        kind: "image", "table" or "tokens".
        mean, std: (C,) or (D,) of the training inputs, in their own units; None for token inputs.
        noise: set by `with_noise`.
        validation: examples cut from the training data by `with_validation`.
        cut: (fraction, seed) of that cut.
        rows: row of each training example in the source as loaded, where the training set is not all of it.
        source: how to load it again (name, path, options), for manifests.
    """

    name: str
    train: Examples
    test: Examples | None
    classes: tuple[str, ...]
    kind: str
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    noise: Noise | None = None
    validation: Examples | None = None
    cut: tuple[float, int] | None = None
    rows: np.ndarray | None = None
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):  # they follow from the inputs
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, read_only(value))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    def __len__(self) -> int:
        return len(self.train)

    def __repr__(self) -> str:
        parts = [f"{self.name!r}", f"{len(self)} training examples"]
        if self.validation is not None:
            parts.append(f"{len(self.validation)} for validation")
        parts.append("no test split" if self.test is None else f"{len(self.test)} for testing")
        parts.append(f"{len(self.classes)} classes")
        if self.noise is not None:
            parts.append(f"{int(self.corrupted.sum())} labels corrupted")
        return f"Dataset({', '.join(parts)})"

    @property
    def labels(self) -> np.ndarray:
        """(N,) the labels that training sees, noise included."""
        return self.train.labels

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example as the network gets it: (C, H, W) or (D,); of a dict, that of its largest array."""
        if isinstance(self.train.inputs, Mapping):
            shapes = [tuple(array.shape[1:]) for array in self.train.inputs.values()]
            return max(shapes, key=lambda shape: (len(shape), shape)) or (1,)
        shape = self.train.inputs.shape
        return (shape[3], shape[1], shape[2]) if self.kind == "image" else tuple(shape[1:])

    @property
    def fingerprint(self) -> str:
        """Content hash of the training inputs and of the labels that training sees."""
        return str(self.train.fingerprint)

    @property
    def original_labels(self) -> np.ndarray:
        """(N,) the labels before noise."""
        return self.labels if self.noise is None else self.noise.original

    @property
    def chosen(self) -> np.ndarray:
        """(N,) bool: the examples that label noise drew, changed or not."""
        return np.zeros(len(self), bool) if self.noise is None else self.noise.chosen

    @property
    def corrupted(self) -> np.ndarray:
        """(N,) bool: the examples whose label noise changed. Detectors are judged on these."""
        return self.labels != self.original_labels

    def gather(self, indices: Any) -> Any:
        """Training inputs at `indices` as stored (uint8 images, unnormalised), with no augmentation."""
        return self.train.gather(indices)

    def with_noise(self, kind: str, fraction: float, seed: int = 0) -> Dataset:
        """The same data with some training labels changed; see `data.noise` for the two kinds."""
        from datadiet.data.noise import corrupt

        return corrupt(self, kind, fraction, seed)

    def with_labels(self, labels: Any) -> Dataset:
        """The same inputs under other training labels, such as other annotators'; `original_labels` stay."""
        given = check_labels(labels, len(self), len(self.classes), where=f"labels for {self.name}")
        changed = given != self.original_labels
        noise = Noise("given", float(changed.mean()), 0, changed, self.original_labels.copy())
        return replace(self, train=replace(self.train, labels=given), noise=noise)

    def with_validation(self, fraction: float, seed: int = 0) -> Dataset:
        """The same data with a stratified part of the training examples set aside, before anything is scored."""
        from datadiet.data.splits import cut_validation

        return cut_validation(self, fraction, seed)


def printable(text: Any) -> str:
    """The text, where bytes of a file name that are no UTF-8 are written as \\xff."""
    try:
        return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character, from no file name
        return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def from_arrays(
    name: str,
    train: tuple[Any, Any],
    test: tuple[Any, Any] | None = None,
    *,
    kind: str | None = None,
    classes: Sequence[str] | None = None,
    ids: Sequence[Any] | None = None,
    rows: np.ndarray | None = None,
    source: Mapping[str, Any] | None = None,
    channels_last: bool = False,
) -> Dataset:
    """A checked Dataset from plain arrays: the one door through which every source comes in.

    Args:
        name: what reports call it; also the place that errors name.
        train, test: (inputs, labels). Images uint8 or float, (N, H, W) or (N, H, W, C); tables (N, D); or a dict.
            Inputs that need no conversion are kept as they are, so they must be nobody else's to change.
        kind: "image", "table" or "tokens"; default by the number of dimensions.
        classes: names in label order, also of classes without a training example; default the numbers 0 … highest
            training label, and test labels must then occur in training.
        ids: a name for each training row; kept as text.
        rows: for each training row, its row in the source as loaded, if that is another.
        channels_last: images are (N, H, W, C) for certain, so that there may be more than 4 channels.
    """
    name = printable(name)
    inputs = check_inputs(train[0], f"{name}, training inputs")
    count = count_rows(inputs, f"{name}, training inputs")
    if kind is None:
        if isinstance(inputs, Mapping):
            kind = "tokens"
        else:
            kind = "table" if inputs.ndim == 2 else "image"
    tested = None if test is None else check_inputs(test[0], f"{name}, test inputs")
    if kind == "image":
        inputs = as_images(inputs, f"{name}, training inputs", channels_last)
        tested = None if tested is None else as_images(tested, f"{name}, test inputs", channels_last)
    if classes is None:
        labels = count_up(train[1], count, where=f"{name}, training labels")
    else:
        labels = check_labels(train[1], count, len(classes), where=f"{name}, training labels")
    if len(np.unique(labels)) < 2:
        raise DatadietError("all training examples are of one class", where=name, fix="at least two classes are needed")
    if ids is not None and len(ids) != count:
        raise DatadietError(f"{len(ids)} ids for {count} examples", where=name)
    held_out = None
    if test is not None and tested is not None:
        rows_tested = count_rows(tested, f"{name}, test inputs")
        place = f"{name}, test labels"
        test_labels = check_labels(test[1], rows_tested, None if classes is None else len(classes), where=place)
        if classes is None:
            refuse_unseen(test_labels, labels, where=place)
        held_out = Examples(tested, test_labels)
        check_same_shape(inputs, tested, name)
    mean, std = (None, None) if isinstance(inputs, Mapping) else moments(inputs)
    return Dataset(
        name=name,
        train=Examples(inputs, labels, None if ids is None else [printable(one) for one in ids]),
        test=held_out,
        classes=tuple(printable(one) for one in (range(int(labels.max()) + 1) if classes is None else classes)),
        kind=kind,
        mean=mean,
        std=std,
        rows=rows,
        source=dict(source or {}),
    )
