"""A compiled twin of the network trains the network itself."""

from __future__ import annotations

import torch
from loop_runs import RECIPE, STREAM, small_data

from datadiet import models
from datadiet.data.batches import Batches
from datadiet.data.order import Order
from datadiet.task import classification
from datadiet.training.checkpoint import make_optimizer
from datadiet.training.loop import Moment, train
from datadiet.training.schedule import learning_rate


def _trained(compiled: bool) -> dict[str, torch.Tensor]:
    data = small_data()
    model = models.build("resnet8", data.input_shape, 4, seed=0, width=4)
    order = Order(range(len(data)), 8, STREAM, pad=1, flip=True)
    moment = Moment(model, make_optimizer(model, RECIPE), 0, 5, order.steps_per_pass)
    # The "eager" backend captures the graph as the real one does, and needs no C++ compiler.
    forward = torch.compile(model, dynamic=False, backend="eager") if compiled else None
    train(
        moment, 4, batches=Batches(data.train, data, pad=1), order=order,
        rate=learning_rate(RECIPE, len(data)), task=classification, forward=forward,
    )  # fmt: skip
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_compiled_forward_pass_moves_the_weights_of_the_network_itself():
    plain, compiled = _trained(False), _trained(True)
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        torch.testing.assert_close(value, compiled[name], rtol=1e-5, atol=1e-6)
