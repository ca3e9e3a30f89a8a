"""What every trajectory score of this library is: tensors of all examples, which can be kept, taken up and merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch


class Following:
    """Follows every example through training, in the tensors named in `kept`: the last dimension is the example.

    One of them is `visits`, how often each example came up.
    """

    kept: tuple[str, ...] = ("visits", "total")

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint must hold; the tensors themselves, no copies."""
        return {name: getattr(self, name) for name in self.kept}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from `state()`."""
        for name, value in self.state().items():
            value.copy_(state[name])

    def merge(self, states: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Go on from what several saw, each of other examples, that were one before: `state()` of all, in one order.

        Of an example that several saw, what one of them saw counts: the one that saw it most often, the first of
        equals. So all that merge the same states agree.
        """
        found = {name: states[0][name].to(value.device) for name, value in self.state().items()}
        for state in states[1:]:
            more = state["visits"].to(found["visits"].device) > found["visits"]
            found = {name: torch.where(more, state[name].to(held.device), held) for name, held in found.items()}
        self.load(found)
