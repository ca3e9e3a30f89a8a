"""Forgetting: how often an example went from correct to incorrect (Toneva et al. 2019; Data Diet, section 2.3)."""

from __future__ import annotations

import torch

from datadiet.scores.base import score
from datadiet.scores.following import Following
from datadiet.task import Task, classification


class Forgetting(Following):
    """Counts forgetting events as training goes, when an example is in a minibatch.

    An event is a visit at which the example is misclassified after it was classified correctly at its last visit. An
    example never classified correctly forgets nothing, yet is the hardest: it scores visits + 1, more than any count
    of events can be, and finite, so that means over runs stay ordered. (Where small subsets leave some examples with
    few visits, it scores at least one more than the most events of any example.) An example never visited has no
    score (NaN).

    Args:
        n: number of examples.
        device: where the counts are kept.
        task: says what is correct.
    """

    kept = ("visits", "events", "correct", "learned")

    def __init__(self, n: int, device: torch.device | str = "cpu", task: Task = classification) -> None:
        self.task = task
        self.visits = torch.zeros(n, dtype=torch.int32, device=device)
        self.events = torch.zeros(n, dtype=torch.int32, device=device)
        self.correct = torch.zeros(n, dtype=torch.bool, device=device)  # at the last visit
        self.learned = torch.zeros(n, dtype=torch.bool, device=device)  # at any visit

    def update(self, indices: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        now = self.task.correct(logits, labels)
        forgot = self.correct.index_select(0, indices) & ~now
        self.visits.index_add_(0, indices, torch.ones_like(indices, dtype=torch.int32))
        self.events.index_add_(0, indices, forgot.int())
        self.correct.index_copy_(0, indices, now)
        self.learned.index_copy_(0, indices, now | self.learned.index_select(0, indices))

    def result(self) -> dict[str, torch.Tensor]:
        """`forgetting` and `never_learned`, (n,) float32."""
        seen = self.visits > 0
        above = torch.maximum(self.visits, self.events.max()) + 1 if len(seen) else self.visits
        value = torch.where(self.learned, self.events, above).float()
        never = (seen & ~self.learned).float()
        unseen = torch.tensor(float("nan"), device=value.device)
        return {
            "forgetting": torch.where(seen, value, unseen),
            "never_learned": torch.where(seen, never, unseen),
        }


@score("forgetting", needs="trajectory", columns=("never_learned",))
def forgetting(n: int, device: torch.device | str = "cpu", task: Task = classification) -> Forgetting:
    """Forgetting: times an example in a minibatch went from correct at its last visit to incorrect."""
    return Forgetting(n, device, task)
