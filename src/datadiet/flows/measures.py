"""What jobs can take of a run's network beside scores: kernels, coherence, gradient norms, accuracies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from datadiet.data.batches import Batches
from datadiet.data.dataset import Dataset
from datadiet.data.order import Order
from datadiet.dynamics.coherence import GradientNorms, batch_gradients, coherence
from datadiet.flows.jobs import Seen
from datadiet.scores.el2n import el2n
from datadiet.task import classification
from datadiet.training.evaluate import predict


def digest_of(rows: np.ndarray) -> str:
    """Eight hex digits that tell one choice of rows from another."""
    return hashlib.blake2b(np.asarray(rows, np.int64).tobytes(), digest_size=4).hexdigest()


@dataclass(frozen=True, eq=False)
class Kernel:
    """The kernel of some training examples: `kernel`, (m·C, m·C) float32, rows ordered (example, logit)."""

    rows: np.ndarray

    @property
    def key(self) -> str:
        return f"kernel-{digest_of(self.rows)}"

    def take(self, seen: Seen) -> dict[str, np.ndarray]:
        from datadiet.dynamics.kernel import ntk

        inputs = seen.batches.inputs(torch.from_numpy(np.asarray(self.rows, np.int64)).to(seen.batches.device))
        return {"kernel": ntk(seen.model, inputs).float().cpu().numpy()}

    def cost(self, data: Dataset, batch: int) -> tuple[int, int]:
        return 0, len(self.rows) * len(data.classes)  # a gradient for each logit

    def bytes(self, data: Dataset) -> int:
        return 4 * (len(self.rows) * len(data.classes)) ** 2


@dataclass(frozen=True, eq=False)
class GradientCoherence:
    """Cosines of batch gradients to their mean, and their norms, at fixed weights, in training mode.

    Args:
        rows: training rows that batches are drawn from, pass by pass.
        batches: how many gradients.
        size: examples in a batch; the whole of `rows` where these are fewer.
    """

    rows: np.ndarray
    batches: int
    size: int

    @property
    def key(self) -> str:
        return f"coherence-{self.batches}x{self.size}-{digest_of(self.rows)}"

    def take(self, seen: Seen) -> dict[str, np.ndarray]:
        seed, purpose, run = seen.stream
        order = Order(self.rows, self.size, (seed, f"{purpose}, coherence", run), device=seen.batches.device)
        # Passes of their own at every step, so that one step's batches are not the next one's.
        first = seen.step * self.batches
        picks = [order.batch(first + i)[0] for i in range(self.batches)]
        pairs = [(seen.batches.inputs(pick), seen.batches.labels[pick]) for pick in picks]
        found = coherence(batch_gradients(seen.model, pairs))
        return {"cosines": found.cosines.cpu().numpy(), "norms": found.norms.cpu().numpy()}

    def cost(self, data: Dataset, batch: int) -> tuple[int, int]:
        return 0, self.batches * min(self.size, len(self.rows))

    def bytes(self, data: Dataset) -> int:
        return 16 * self.batches


@dataclass(frozen=True)
class TrainingGradientNorms:
    """The norms of the batch gradients of the next `steps` training steps: `norms`, (steps,)."""

    steps: int

    @property
    def key(self) -> str:
        return f"gradient-norms-{self.steps}"

    def take(self, seen: Seen) -> dict[str, np.ndarray]:
        observer = GradientNorms()
        seen.replay([observer], self.steps)
        return {"norms": observer.result().numpy()}

    def cost(self, data: Dataset, batch: int) -> tuple[int, int]:
        return 0, self.steps * batch

    def bytes(self, data: Dataset) -> int:
        return 8 * self.steps


@dataclass(frozen=True, eq=False)
class Accuracies:
    """Whether each training example and each test example is classified correctly, in eval mode: `train`, `test`."""

    key: str = "correct"

    def take(self, seen: Seen) -> dict[str, np.ndarray]:
        out = {}
        for name, examples in (("train", seen.data.train), ("test", seen.data.test)):
            if examples is not None:
                batches = seen.batches if name == "train" else Batches(examples, seen.data, seen.batches.device)
                correct = classification.correct(predict(seen.model, batches, seen.numerics), batches.labels)
                out[name] = correct.cpu().numpy().astype(np.uint8)
        return out

    def cost(self, data: Dataset, batch: int) -> tuple[int, int]:
        return len(data) + (0 if data.test is None else len(data.test)), 0

    def bytes(self, data: Dataset) -> int:
        return len(data) + (0 if data.test is None else len(data.test))


@dataclass(frozen=True)
class Errors:
    """The length of each training example's error vector, against the labels of training: `el2n`, (N,) float32."""

    key: str = "errors"

    def take(self, seen: Seen) -> dict[str, np.ndarray]:
        values = el2n(predict(seen.model, seen.batches, seen.numerics), seen.batches.labels)
        return {"el2n": values.float().cpu().numpy()}

    def cost(self, data: Dataset, batch: int) -> tuple[int, int]:
        return len(data), 0

    def bytes(self, data: Dataset) -> int:
        return 4 * len(data)
