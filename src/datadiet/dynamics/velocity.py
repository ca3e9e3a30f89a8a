"""An observer that measures kernel velocities while a network trains (Data Diet, eq. 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from datadiet.dynamics.kernel import kernel_velocity, ntk
from datadiet.errors import DatadietError
from datadiet.training.loop import Moment, Observer


class KernelVelocity(Observer):
    """Velocities of the kernel of chosen groups of examples, from each chosen step to the next.

    Args:
        groups: name -> inputs of m examples as the network takes them.
        steps: at which kernels are taken, ascending; 0 is before the first step.

    After training, `velocities` is {group: [one for each pair of neighbouring steps]}.
    """

    name = "kernel_velocity"

    def __init__(self, groups: Mapping[str, Any], steps: Sequence[int]) -> None:
        if list(steps) != sorted(set(steps)) or len(steps) < 2:
            raise DatadietError(f"steps {list(steps)}", where="steps", fix="give at least two, ascending")
        self.groups, self.steps = dict(groups), list(steps)
        self.velocities: dict[str, list[float]] = {name: [] for name in self.groups}
        self._kernels: dict[str, Tensor] = {}

    def on_start(self, moment: Moment) -> None:
        if not self._kernels:
            self._look(moment)

    def on_step(self, moment: Moment) -> None:
        self._look(moment)

    def _look(self, moment: Moment) -> None:
        if moment.step not in self.steps:
            return
        for name, inputs in self.groups.items():
            kernel = ntk(moment.model, inputs)
            before = self._kernels.get(name)
            if before is not None:
                self.velocities[name].append(float(kernel_velocity(before, kernel)))
            self._kernels[name] = kernel

    def state(self) -> dict[str, Tensor]:
        out = {f"kernel/{name}": kernel for name, kernel in self._kernels.items()}
        out |= {f"velocities/{name}": torch.tensor(v, dtype=torch.float64) for name, v in self.velocities.items()}
        return out

    def load(self, state: dict[str, Tensor]) -> None:
        self._kernels = {n.removeprefix("kernel/"): t for n, t in state.items() if n.startswith("kernel/")}
        for name in self.velocities:
            self.velocities[name] = state[f"velocities/{name}"].tolist()
