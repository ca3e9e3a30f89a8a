"""What a lottery came to: accuracy by pre-training, replicate and level; as a table, a figure and files."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datadiet.errors import DatadietError
from datadiet.flows.score_folder import own_record, refuse_unless_begun
from datadiet.steps import describe
from datadiet.store.files import write_json
from datadiet.store.parquet import write_parquet
from datadiet.training.masks import Mask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

SCHEMA = 1
TOLERANCE = 0.005  # of accuracy: half a point


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of one pre-training; R replicates, L levels and the dense network.

    Args:
        label: the pre-training with its steps.
        step: the step that was rewound to.
        accuracy: (R, L + 1) test accuracies at the end of each level; level 0 is the dense network.
        test, train: (R,) accuracies at the step rewound to: on test, and on all training examples with the labels of
            pre-training.
        masks: for each replicate the mask of each level.
        rows: for each replicate the rows pre-trained on; None for all.
        barriers: (R, N) loss barriers of examples between three children of the pre-trained point, where asked for.
        error_barriers: (R,) mean error barriers between them.
        cosines: (R,) coherence of the batch gradients there.
        errors_dense, errors_sparse: (R, N) EL2N of the pre-trained weights, before and after the sparse projection.
    """

    label: str
    step: int
    accuracy: np.ndarray
    test: np.ndarray
    train: np.ndarray
    masks: tuple[tuple[Mask, ...], ...]
    rows: tuple[np.ndarray | None, ...]
    barriers: np.ndarray | None = None
    error_barriers: np.ndarray | None = None
    cosines: np.ndarray | None = None
    errors_dense: np.ndarray | None = None
    errors_sparse: np.ndarray | None = None

    @property
    def density(self) -> list[float]:
        """The part of the prunable weights that is left at each level: the same in all replicates."""
        return [mask.density for mask in self.masks[0]]

    @property
    def levels(self) -> int:
        return self.accuracy.shape[1] - 1

    def mean(self) -> np.ndarray:
        """(L + 1,) mean accuracies."""
        return np.asarray(self.accuracy.mean(0))

    def std(self) -> np.ndarray:
        """(L + 1,) standard deviations over replicates; NaN for one."""
        return np.asarray(self.accuracy.std(0, ddof=1)) if len(self.accuracy) > 1 else np.full(self.levels + 1, np.nan)

    def matching(self, tolerance: float = TOLERANCE) -> int:
        """The deepest level down to which every level's mean accuracy is that of the dense network, within tolerance.

        The paper calls a pre-training matching where this is 8 or more (16.8 % of the weights).
        """
        lost = self.mean()[0] - self.mean() > tolerance + 1e-9  # half a point is half a point, however it is rounded
        return int(np.argmax(lost)) - 1 if lost.any() else self.levels

    def to_json(self) -> dict[str, Any]:
        layers = [mask.layers() for mask in (one[-1] for one in self.masks)]
        by_layer = {
            name: float(np.mean([one[name][0] / one[name][1] for one in layers])) for name in layers[0]
        }  # fmt: skip
        more = {
            "loss_barrier": None if self.barriers is None else self.barriers.mean(1).tolist(),
            "error_barrier": None if self.error_barriers is None else self.error_barriers.tolist(),
            "coherence": None if self.cosines is None else self.cosines.tolist(),
            "error_dense": None if self.errors_dense is None else self.errors_dense.mean(1).tolist(),
            "error_sparse": None if self.errors_sparse is None else self.errors_sparse.mean(1).tolist(),
        }
        return {
            "label": self.label, "step": self.step, "examples": None if self.rows[0] is None else len(self.rows[0]),
            "density": self.density, "left": [mask.remaining for mask in self.masks[0]],
            "density_by_layer": by_layer, "accuracy": self.accuracy.tolist(), "mean": self.mean().tolist(),
            "std": [None if np.isnan(v) else float(v) for v in self.std()],
            "pretrained_accuracy": self.test.tolist(), "pretrained_train_accuracy": self.train.tolist(),
            "matching_to_level": self.matching(),
            **{name: value for name, value in more.items() if value is not None},
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Lottery:
    """Outcomes by pre-training, in the order in which they were asked for.

    Args:
        outcomes: {label: Outcome}.
        dense: prunable weights of the network.
        until: the last step of every level.
    """

    outcomes: Mapping[str, Outcome]
    dense: int
    until: int
    steps_per_epoch: int
    dataset: str
    provenance: Mapping[str, Any]

    def __getitem__(self, label: str) -> Outcome:
        return self.outcomes[label]

    def to_json(self) -> dict[str, Any]:
        return {
            "what": "lottery", "dataset": self.dataset, "steps": self.until,
            "epochs": self.until / self.steps_per_epoch, "prunable_weights": self.dense,
            "tolerance": TOLERANCE, "outcomes": [one.to_json() for one in self.outcomes.values()],
            **self.provenance,
        }  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        """A row for each pre-training, replicate and level."""
        return [
            {
                "pretraining": one.label, "step": one.step, "replicate": run, "level": level,
                "left": one.masks[run][level].remaining, "density": one.masks[run][level].density,
                "accuracy": float(one.accuracy[run, level]), "pretrained_accuracy": float(one.test[run]),
            }
            for one in self.outcomes.values()
            for run in range(len(one.accuracy))
            for level in range(one.levels + 1)
        ]  # fmt: skip

    def figure(self) -> Figure:
        """Accuracy against how many weights there were for each that is left; of levels that have any left."""
        from datadiet.figures.lines import lines

        curves = {
            one.label: {1 / d: one.accuracy[:, level] for level, d in enumerate(one.density) if d}
            for one in self.outcomes.values()
        }
        return lines(
            curves, xlabel="all weights / weights left", ylabel="test accuracy", percent=True, log=True,
            title=f"{self.dataset}: sparse networks by pre-training", deviation=True,
        )  # fmt: skip

    def save(self, folder: Path) -> list[Path]:
        """`lottery.json`, `lottery.parquet`, the figure, and the masks; what is there of this lottery is replaced."""
        from datadiet.figures import save

        files = []
        for one in self.outcomes.values():
            for run, masks in enumerate(one.masks):
                for level, mask in enumerate(masks[1:], 1):
                    file = folder / "masks" / slug(one.label) / f"replicate{run}-level{level}.safetensors"
                    about = {"pretraining": one.label, "replicate": run, "level": level, "density": mask.density}
                    if not _same(file, mask):
                        mask.save(file, about)
        names = list(self.rows()[0])
        columns = {name: [row[name] for row in self.rows()] for name in names}
        about = {"schema": SCHEMA, "dataset": self.dataset, "steps": self.until}
        files.append(write_parquet(folder / "lottery.parquet", columns, about))
        files += save(self.figure(), folder / "lottery")
        write_json(folder / "lottery.json", self.to_json(), schema=SCHEMA)
        return [*files, folder / "lottery.json"]

    def __str__(self) -> str:
        width = max(len(label) for label in self.outcomes)
        lines = [f"{self.dataset}: test accuracy after {describe(self.until, self.steps_per_epoch)}, mean ± std"]
        for one in self.outcomes.values():
            shown = sorted({0, one.levels // 2, one.levels})
            cells = [
                f"{100 * one.density[k]:5.1f} % left: {100 * one.mean()[k]:6.2f}"
                + ("" if np.isnan(one.std()[k]) else f" ± {100 * one.std()[k]:.2f}")
                for k in shown
            ]
            lines.append(f"{one.label:<{width}}  {'   '.join(cells)}   matches to level {one.matching()}")
        return "\n".join(lines)


def slug(label: str) -> str:
    """A label as a folder's name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-")


def _same(file: Path, mask: Mask) -> bool:
    if not file.exists():
        return False
    try:
        return Mask.load(file).digest == mask.digest
    except DatadietError:
        return False


def check_folder(folder: Path, mine: Mapping[str, Any]) -> None:
    """Refuse a folder that holds a lottery on other data or by other rules."""
    found = own_record(folder / "lottery.json", "lottery", SCHEMA)
    if found is None:
        figures = [folder / "lottery.png", folder / "lottery.svg"]
        refuse_unless_begun(folder / "lottery.parquet", figures, "lottery")
    if not found:
        return
    differ = [key for key, value in mine.items() if found.get(key, value) != value and key != "scores"]
    scores = found.get("scores", {})
    differ += [f"{name} scores" for name, one in mine["scores"].items() if scores.get(name, one) != one]
    if differ:
        raise DatadietError(
            f"holds another lottery (other {', '.join(differ)})", where=folder,
            fix="choose another --out, or move that folder away",
        )  # fmt: skip
