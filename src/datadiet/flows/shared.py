"""A dataset across process borders: its arrays by memory map under one key, the rest as a small card."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datadiet.data.dataset import Dataset, Examples
from datadiet.engines import Context, Engine

SPLITS = ("train", "test", "validation")


@dataclass(frozen=True, eq=False)
class DataCard:
    """What a job needs, besides the shared arrays, to put the dataset together again."""

    key: str
    name: str
    kind: str
    classes: tuple[str, ...]
    mean: np.ndarray | None
    std: np.ndarray | None

    @classmethod
    def of(cls, data: Dataset) -> DataCard:
        prints = [getattr(data, split) for split in SPLITS]
        key = "+".join("-" if examples is None else str(examples.fingerprint) for examples in prints)
        key += f"+{data.kind}+{len(data.classes)}"
        return cls(key, data.name, data.kind, data.classes, data.mean, data.std)


def share(data: Dataset, engine: Engine) -> DataCard:
    """Give an engine's jobs access to a dataset."""
    card = DataCard.of(data)
    arrays = {
        f"{split}/{name}": array
        for split in SPLITS
        if (examples := getattr(data, split)) is not None
        for name, array in examples.arrays().items()
    }
    engine.share(card.key, arrays)
    return card


_last: tuple[str, Dataset] | None = None


def dataset_of(card: DataCard, context: Context) -> Dataset:
    """The dataset of a card; a worker's jobs mostly share one, so the last stays."""
    global _last
    if _last is None or _last[0] != card.key:
        arrays = context.shared(card.key)
        splits: dict[str, Examples | None] = {}
        prints = dict(zip(SPLITS, card.key.split("+"), strict=False))
        for split in SPLITS:
            own = {k[len(split) + 1 :]: v for k, v in arrays.items() if k.startswith(f"{split}/")}
            splits[split] = Examples.from_arrays(own) if own else None
            _known_fingerprint(splits[split], prints[split])
        train = splits["train"]
        assert train is not None
        _last = (
            card.key,
            Dataset(
                card.name,
                train,
                splits["test"],
                card.classes,
                card.kind,
                card.mean,
                card.std,
                validation=splits["validation"],
            ),
        )
    return _last[1]


def _known_fingerprint(examples: Examples | None, text: str) -> None:
    """Spare every worker the hash of arrays that were shared by it."""
    from datadiet.data.dataset import Fingerprint

    if examples is not None:
        examples.__dict__["fingerprint"] = Fingerprint.parse(text)
