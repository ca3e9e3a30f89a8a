"""Children, kept checkpoints, measures and the barriers between networks, as jobs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_flows import PER_EPOCH, RECIPE, setup, tiny

import datadiet as dd
from datadiet import models
from datadiet.data.batches import Batches
from datadiet.dynamics.connectivity import estimated_on, linear_path
from datadiet.errors import DatadietError, Diverged
from datadiet.flows.connectivity import connectivity, plan_connectivity
from datadiet.flows.execute import run_tasks
from datadiet.flows.measures import Accuracies, GradientCoherence, TrainingGradientNorms
from datadiet.flows.score import plan_score
from datadiet.flows.spawning import RESULT, child_task
from datadiet.flows.tasks import RunTask, accuracy_of, arrays_of, folder_of
from datadiet.seeds import stream
from datadiet.training.checkpoint import load_weights

END = 4 * PER_EPOCH


def parents(store: Path, runs: int = 1, data: Any = None) -> list[tuple[str, RunTask]]:
    plan = plan_score(data or tiny(), scores=["el2n"], runs=runs, at=["1ep"], recipe=RECIPE, setup=setup(store))
    return [(label, replace(task, marks=(), scores=())) for label, task in plan.tasks]


def state(task: RunTask, step: int) -> dict[str, torch.Tensor]:
    point = folder_of(task).load_checkpoint(step)
    assert point is not None
    return point.tensors


def test_a_child_has_its_parents_weights_and_momentum_and_other_streams(tmp_path: Path) -> None:
    data = tiny()
    ((label, parent),) = parents(tmp_path)
    parent = replace(parent, keep=(PER_EPOCH, END), until=END)
    run_tasks([(label, parent)], data, setup(tmp_path))
    children = [replace(child_task(parent, PER_EPOCH, n, END), keep=(PER_EPOCH, END)) for n in range(2)]
    run_tasks([(f"child {n}", c) for n, c in enumerate(children)], data, setup(tmp_path))
    start = state(parent, PER_EPOCH)
    for child in children:
        own = state(child, PER_EPOCH)
        same = [name for name in start if name.startswith(("model/", "optimizer/"))]
        assert any("momentum" in name for name in same)
        assert all(torch.equal(own[name], start[name]) for name in same)
    ends = [state(task, END) for task in (parent, *children)]
    for a, b in itertools.combinations(ends, 2):
        assert any(not torch.equal(a[n], b[n]) for n in a if n.startswith("model/"))


def test_a_child_spawned_at_the_end_is_its_parent(tmp_path: Path) -> None:
    found = connectivity(tiny(), at=["0", "4ep"], recipe=RECIPE, children=3, runs=1, setup=setup(tmp_path))
    assert found.error_barriers().shape == (1, 2)
    assert found.error_barriers()[0, 1] == 0.0
    assert found.loss_barriers()[0, 1] == 0.0
    assert not found.per_example(END).any()
    assert np.abs(found.per_example(0)).max() > 0
    assert found.onset(kind="loss") is not None
    for words, kind in (("error barrier below 2 %", "error"), ("loss barrier below 0.02", "loss")):
        step = found.onset(kind=kind)
        assert f"connected ({words}): " + ("at none of them" if step is None else f"from step {step:,}") in str(found)


def test_barriers_are_those_of_the_networks_by_hand(tmp_path: Path) -> None:
    """Against networks rebuilt from the checkpoints, on original labels."""
    data = tiny().with_noise("permute", 0.3, seed=1)
    plan = plan_connectivity(
        data, at=["1ep"], recipe=RECIPE, children=3, alphas=[0.25, 0.5], parent_counts=False, setup=setup(tmp_path)
    )
    found = connectivity(
        data, at=["1ep"], recipe=RECIPE, children=3, alphas=[0.25, 0.5], parent_counts=False, setup=setup(tmp_path)
    )
    batches = Batches(data.train, data)
    inputs = batches.inputs(torch.arange(len(data)))
    labels = torch.from_numpy(np.asarray(data.original_labels))
    nets = []
    for _, task in plan.families.children:
        net = models.build("mlp", data.input_shape, 3, seed=0, hidden=[16])
        load_weights(net, state(task, END))
        nets.append(net.eval())
    for path, (a, b) in zip(found.paths[0, PER_EPOCH], itertools.combinations(nets, 2), strict=True):
        wanted = linear_path(a, b, inputs, labels, [0.25, 0.5])
        assert np.allclose(path.loss, wanted.loss, atol=1e-5)
        assert np.array_equal(path.wrong, wanted.wrong)
        assert path.error_barrier([1, 5, 7]) == pytest.approx(wanted.error_barrier([1, 5, 7]))
    noisy = linear_path(nets[0], nets[1], inputs, torch.from_numpy(np.asarray(data.labels)), [0.25, 0.5])
    assert not np.allclose(found.paths[0, PER_EPOCH][0].loss, noisy.loss, atol=1e-3)


def test_re_estimated_statistics_are_those_of_whole_training_batches(tmp_path: Path) -> None:
    recipe = {**RECIPE, "model": "resnet8", "model_args": {"width": 4}, "batch_size": 50}
    options = {"at": ["1ep"], "until": "2ep", "recipe": recipe, "setup": setup(tmp_path)}
    plan = plan_connectivity(tiny(), statistics="re-estimated", **options)
    found = connectivity(tiny(), statistics="re-estimated", **options)
    ((_, path),) = plan.families.paths.values()
    # 120 examples are two batches of 50; what is left over would count for more than its number.
    cuts = estimated_on(np.arange(120), 50, stream(0, "statistics", 0, path.spec.name))
    assert [len(cut) for cut in cuts] == [50, 50]
    data = tiny()
    batches = Batches(data.train, data)
    nets = []
    for _, task in (*plan.families.parents, *plan.families.children):
        net = models.build("resnet8", data.input_shape, 3, seed=0, width=4)
        load_weights(net, state(task, plan.until))
        nets.append(net.eval())
    training = [batches.inputs(torch.from_numpy(cut)) for cut in cuts]
    inputs, labels = batches.inputs(torch.arange(len(data))), torch.from_numpy(np.asarray(data.labels))
    wanted = linear_path(*nets, inputs, labels, [0.5], statistics="re-estimated", estimate_on=training)
    ((mine,),) = found.paths.values()
    assert np.allclose(mine.loss, wanted.loss, atol=1e-4)
    plain = connectivity(tiny(), **options)
    assert not np.allclose(mine.loss, plain.paths[0, plan.scoring.marks[0]][0].loss, atol=1e-3)


def test_the_lmc_score_sees_the_labels_that_training_sees(tmp_path: Path) -> None:
    data = tiny().with_noise("permute", 0.5, seed=1)
    plan = plan_score(data, scores=["lmc"], runs=1, at="1ep", recipe=RECIPE, setup=setup(tmp_path))
    (_, (_, children)) = plan.stages()
    found = dd.score(data, scores=["lmc"], runs=1, at="1ep", recipe=RECIPE, setup=setup(tmp_path)).mean("lmc")
    inputs = Batches(data.train, data).inputs(torch.arange(len(data)))
    nets = []
    for _, task in children.tasks:
        net = models.build("mlp", data.input_shape, 3, seed=0, hidden=[16])
        load_weights(net, state(task, END))
        nets.append(net.eval())

    def by_hand(labels: np.ndarray) -> np.ndarray:
        pairs = itertools.combinations(nets, 2)
        paths = [linear_path(a, b, inputs, torch.from_numpy(np.asarray(labels)), [0.5]) for a, b in pairs]
        return np.mean([path.per_example() for path in paths], axis=0)

    assert np.allclose(found, by_hand(data.labels), atol=1e-5)
    assert not np.allclose(found, by_hand(data.original_labels), atol=1e-2)


def test_the_lmc_score_is_the_mean_barrier_of_three_children_of_each_run(tmp_path: Path) -> None:
    data = tiny()
    table = dd.score(
        data, scores=["el2n", "lmc"], runs=2, at=["1ep", "2ep"], recipe=RECIPE, out=tmp_path / "out",
        setup=setup(tmp_path / "store"),
    )  # fmt: skip
    found = connectivity(
        data, at=["1ep", "2ep"], recipe=RECIPE, children=3, runs=2, parent_counts=False, setup=setup(tmp_path / "store")
    )
    for step in (PER_EPOCH, 2 * PER_EPOCH):
        assert np.allclose(table.mean("lmc", at=step), found.per_example(step), atol=1e-6)
        assert np.allclose(
            table.values("lmc", at=step)[1],
            np.mean([p.per_example() for p in found.paths[1, step]], axis=0), atol=1e-6,
        )  # fmt: skip
    assert dd.load_table(tmp_path / "out").mean("lmc", at=PER_EPOCH).shape == (len(data),)


def test_what_is_there_is_not_trained_again_and_engines_agree(tmp_path: Path) -> None:
    inline = connectivity(tiny(), at=["0", "1ep"], recipe=RECIPE, runs=2, setup=setup(tmp_path / "a"))
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*.safetensors")}
    again = connectivity(tiny(), at=["0", "1ep"], recipe=RECIPE, runs=2, setup=setup(tmp_path / "a"))
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*.safetensors")} == files
    assert np.array_equal(inline.loss_barriers(), again.loss_barriers())
    other = connectivity(
        tiny(), at=["0", "1ep"], recipe=RECIPE, runs=2, setup=setup(tmp_path / "b", engine="processes", workers=2)
    )
    assert np.array_equal(inline.loss_barriers(), other.loss_barriers())
    assert np.array_equal(inline.per_example(0), other.per_example(0))


OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, shape, classes, persistent):
        super().__init__()
        self.head = nn.Linear(36, classes)
        self.register_buffer("mean", torch.full((36,), 5.0), persistent=persistent)
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.5).add_(0.5 * x.flatten(1).mean(0))
        mask = self.mask.softmax(0)[0]  # 1; no number, if its infinity is lost
        return self.head(x.flatten(1) - self.mean) * mask

def saved(input_shape, classes):
    return Net(input_shape, classes, True)

def unsaved(input_shape, classes):
    return Net(input_shape, classes, False)
"""


def own(place: Path, name: str) -> dict[str, Any]:
    (place / "own.py").write_text(OWN)
    return {**RECIPE, "model": f"{place / 'own.py'}:{name}", "model_args": {}}


def test_buffers_count_in_a_barrier_whether_a_state_dict_holds_them_or_not(tmp_path: Path) -> None:
    losses = []
    for name in ("saved", "unsaved"):
        recipe = own(tmp_path, name)
        found = connectivity(tiny(), at=["1ep"], recipe=recipe, setup=setup(tmp_path / name))
        lmc = dd.score(tiny(), scores=["lmc"], runs=1, at="1ep", recipe=recipe, setup=setup(tmp_path / name))
        losses.append((found.paths[0, PER_EPOCH][0].loss, lmc.mean("lmc")))
    for with_it, without in zip(*losses, strict=True):
        assert np.isfinite(with_it).all()
        assert np.array_equal(with_it, without)
    assert losses[0][0].mean() < 2  # 19 with the buffer as the network is built


def test_losses_that_are_no_numbers_are_refused_and_kept_ones_are_taken_again(tmp_path: Path) -> None:
    options = {"at": ["1ep"], "recipe": RECIPE, "setup": setup(tmp_path)}
    plan, first = plan_connectivity(tiny(), **options), connectivity(tiny(), **options)
    ((_, path),) = plan.families.paths.values()
    found, _ = path.result()
    # As former versions kept them.
    path.folder.save_result(RESULT, END, found | {"between": np.full_like(found["between"], np.nan)})
    assert not path.is_done(tiny())
    again = connectivity(tiny(), **options)
    assert np.array_equal(again.loss_barriers(), first.loss_barriers())
    ((_, child),) = plan.families.children
    point = folder_of(child).load_checkpoint(END)
    assert point is not None
    broken = {n: t * np.nan if n.startswith("model/") else t for n, t in point.tensors.items()}
    folder_of(child).save_checkpoint(END, broken, point.meta)
    path.folder.save_result(RESULT, END, found | {"between": np.full_like(found["between"], np.nan)})
    with pytest.raises(Diverged, match=r"between its children .* are not finite at alpha 1;"):
        connectivity(tiny(), **options)


def test_a_result_that_is_gone_is_one_clear_line(tmp_path: Path) -> None:
    ((_, task),) = parents(tmp_path)
    for read in (lambda: arrays_of(task, "weights", 3), lambda: accuracy_of(task, "test", tiny())):
        with pytest.raises(DatadietError, match="a result of this run is gone; run the command again"):
            read()


@dataclass(frozen=True)
class Weights:
    """Takes the network's weights, and disturbs torch's random stream."""

    key: str = "weights"

    def take(self, seen: Any) -> dict[str, np.ndarray]:
        torch.rand(10)
        return {name: p.detach().numpy().copy() for name, p in seen.model.named_parameters()}

    def cost(self, data: Any, batch: int) -> tuple[int, int]:
        return 0, 0


def test_measures_are_of_their_step_and_change_nothing(tmp_path: Path) -> None:
    data = tiny()
    ((label, task),) = parents(tmp_path / "plain")
    plain = replace(task, keep=(3, END), until=END)
    run_tasks([(label, plain)], data, setup(tmp_path / "plain"))
    rows = np.arange(40)
    measures = [
        (3, Weights()), (3, GradientCoherence(rows, 2, 16)), (3, TrainingGradientNorms(4)), (END, Accuracies())
    ]  # fmt: skip
    ((label, task),) = parents(tmp_path / "seen")
    seen = replace(task, measures=tuple(measures), keep=(END,), until=END)
    run_tasks([(label, seen)], data, setup(tmp_path / "seen"))
    for step in (3, END):
        a, b = state(plain, step), state(seen, step)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[n], b[n]) for n in a)
    taken = arrays_of(seen, "weights", 3)
    assert all(np.array_equal(v, state(plain, 3)[f"model/{n}"].numpy()) for n, v in taken.items())
    norms = arrays_of(seen, TrainingGradientNorms(4).key, 3)
    assert norms["norms"].shape == (4,)
    assert (norms["norms"] > 0).all()
    correct = arrays_of(seen, "correct", END)
    assert correct["train"].shape == (len(data),)
    # A further measure of a step that has a checkpoint trains nothing.
    resumed = replace(seen, measures=(*measures, (3, Weights("again"))))
    batch = run_tasks([(label, resumed)], data, setup(tmp_path / "seen"))
    assert batch.steps == 0
    again = arrays_of(seen, "again", 3)
    assert all(np.array_equal(again[name], value) for name, value in taken.items())


def test_bad_input_before_any_training(tmp_path: Path) -> None:
    data = tiny()
    for options, words in (
        ({"children": 1}, "no pair"),
        ({"until": "1ep", "at": ["2ep"]}, "cannot be compared"),
        ({"statistics": "none"}, "statistics"),
        ({"alphas": [2.0]}, "alphas"),
        ({"at": ["9ep"]}, "the run has"),
    ):
        with pytest.raises(DatadietError, match=words):
            connectivity(data, **{"at": ["1ep"], "recipe": RECIPE, "setup": setup(tmp_path / "s"), **options})
    assert not (tmp_path / "s").exists()
    ((_, parent),) = parents(tmp_path / "t")
    with pytest.raises(DatadietError, match="no checkpoint of the parent"):
        run_tasks([("child", child_task(parent, 3, 0, END))], data, setup(tmp_path / "t"))
    with pytest.raises(DatadietError, match="spawn before the end"):
        child_task(parent, 9, 0, 8)
    found = connectivity(data, at=["1ep"], recipe=RECIPE, setup=setup(tmp_path / "u"))
    with pytest.raises(DatadietError, match="without examples"):
        found.error_barriers([])


def test_the_calibrated_control_is_grand_with_statistics_of_the_data(tmp_path: Path) -> None:
    data = tiny()
    recipe = {**RECIPE, "model": "resnet8", "model_args": {"width": 4}, "batch_size": 40}
    options = {"runs": 1, "at": ["0", "2ep"], "recipe": recipe, "setup": setup(tmp_path)}
    table = dd.score(data, scores=["grand", "grand_calibrated"], **options)
    plan = plan_score(data, scores=["grand"], **options)
    batches = Batches(data.train, data)
    for step in (0, 2 * plan.recipe.steps_per_epoch(len(data))):
        net = models.build("resnet8", data.input_shape, 3, seed=0, width=4)
        load_weights(net, state(plan.tasks[0][1], step))
        # All 120 examples are three batches of 40 whatever their order: by hand, the statistics of such batches.
        order = stream(*plan.tasks[0][1].spec.stream, "statistics").permutation(120)
        norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        seen: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {n: [] for n in range(len(norms))}
        hooks = [
            norm.register_forward_pre_hook(
                lambda _, given, to=seen[n]: to.append((given[0].mean((0, 2, 3)), given[0].var((0, 2, 3))))
            )
            for n, norm in enumerate(norms)
        ]
        net.train()
        with torch.no_grad():
            for i in range(0, 120, 40):
                net(batches.inputs(torch.from_numpy(order[i : i + 40])))
        for hook, (n, norm) in zip(hooks, enumerate(norms), strict=True):
            hook.remove()
            norm.running_mean.copy_(torch.stack([mean for mean, _ in seen[n]]).mean(0))
            norm.running_var.copy_(torch.stack([var for _, var in seen[n]]).mean(0))
        wanted = dd.grand(net.eval(), batches.inputs(torch.arange(120)), batches.labels)
        assert np.allclose(table.mean("grand_calibrated", at=f"{step}it"), wanted, rtol=1e-4)
    # What was trained has not changed: the run goes on as it would have without.
    alone = dd.score(data, scores=["grand"], **{**options, "setup": setup(tmp_path / "alone")})
    for step in table.steps("grand"):
        assert table.mean("grand", at=f"{step}it").tolist() == alone.mean("grand", at=f"{step}it").tolist()
    assert not np.allclose(table.mean("grand", at="0"), table.mean("grand_calibrated", at="0"), rtol=0.1)
