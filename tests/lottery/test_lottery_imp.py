"""A lottery is what one would do by hand: rewinding, masks, instruments; and it survives whatever ends its process."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_lottery import RECIPE, UNTIL, arrays, files, one_run, options, runs, tiny
from torch import nn

import datadiet as dd
from datadiet import models
from datadiet.data.batches import Batches
from datadiet.data.order import Order
from datadiet.flows import jobs
from datadiet.flows.tasks import is_done
from datadiet.lottery import Lottery, Mask, find_tickets, plan_tickets, prune, stages
from datadiet.store import Store
from datadiet.training.checkpoint import part

START = 6
INSTRUMENTS = ["barrier", "coherence", "errors"]
Stretches = list[tuple[int, int]]


@pytest.fixture
def stretches(monkeypatch: pytest.MonkeyPatch) -> Stretches:
    """Every call of the training loop in this process, as (first step, last step)."""
    seen: Stretches = []
    real = jobs.train

    def spy(moment: Any, stop: int, **options: Any) -> None:
        before = moment.step
        real(moment, stop, **options)
        seen.append((before, moment.step))

    monkeypatch.setattr(jobs, "train", spy)
    return seen


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lottery, Path]:
    """A lottery with every instrument, made in one go, and its folder (store, out)."""
    folder = tmp_path_factory.mktemp("straight")
    result = find_tickets(tiny(), out=folder / "out", **options(folder / "store", instruments=INSTRUMENTS))
    return result, folder


@pytest.fixture
def copied(straight: tuple[Lottery, Path], tmp_path: Path) -> Path:
    """A copy of its store."""
    shutil.copytree(straight[1] / "store", tmp_path / "store")
    return tmp_path / "store"


def weights_at(store: Path, purpose: str, step: int, run: int = 0) -> dict[str, torch.Tensor]:
    point = one_run(store, purpose, run)[1].load_checkpoint(step)
    assert point is not None, f"{purpose} keeps its state at step {step}"
    return part(point.tensors, "model/")


def net_of(weights: dict[str, torch.Tensor], mask: Mask | None = None) -> nn.Module:
    """The tiny network with these weights, those that are gone at 0."""
    net = models.build(RECIPE["model"], (1, 6, 6), 3, seed=5, **RECIPE["model_args"])
    net.load_state_dict(weights)
    if mask is not None:
        with torch.no_grad():
            for name, tensor in mask.tensors.items():
                net.get_parameter(name).mul_(torch.from_numpy(tensor).float())
    return net


def logits_of(net: nn.Module, data: dd.Dataset, examples: Any = None) -> np.ndarray:
    batches = Batches(examples or data.train, data)
    net.eval()
    with torch.no_grad():
        return net(batches.inputs(torch.arange(len(batches)))).double().numpy()


def losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(1) == labels).mean())


def by_hand(
    net: nn.Module, mask: Mask, stream: tuple[int, str, int], begin: int, schedule_from: int | None = None
) -> nn.Module:
    """SGD with Nesterov momentum from 0, cosine rate, to the end of the run; what is gone is put back to 0."""
    data, lr, mu, decay = tiny(), RECIPE["lr"], RECIPE["momentum"], RECIPE["weight_decay"]
    batches, labels = Batches(data.train, data, pad=1), torch.from_numpy(data.labels)
    order = Order(np.arange(120), 16, stream, pad=1, flip=True)
    momentum = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    net.train()
    for step in range(begin, UNTIL):
        rows, shifts, flips = order.batch(step)
        loss = nn.functional.cross_entropy(net(batches.inputs(rows, shifts, flips)), labels[rows])
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        shown = step if schedule_from is None else schedule_from + step - begin
        rate = lr * (1 + math.cos(math.pi * shown / UNTIL)) / 2
        with torch.no_grad():
            for (name, w), g in zip(net.named_parameters(), gradients, strict=True):
                g = g + decay * w
                momentum[name] = mu * momentum[name] + g
                w -= rate * (g + mu * momentum[name])
                if name in mask.tensors:
                    w *= torch.from_numpy(mask.tensors[name])
    return net


def distance(net: nn.Module, weights: dict[str, torch.Tensor]) -> float:
    return max(float((t - weights[name]).abs().max()) for name, t in net.state_dict().items() if t.is_floating_point())


# ------------------------------------------------------------------------------------------------ rewinding


@pytest.mark.parametrize("run", [0, 1])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_level_is_the_loop_that_one_would_write_by_hand(straight: tuple[Lottery, Path], level: int, run: int) -> None:
    (one,), store, data = straight[0].outcomes.values(), straight[1] / "store", tiny()
    mask, stream = one.masks[run][level], (0, f"lottery level {level}", run)
    start = weights_at(store, "pretrain", START, run)
    net = by_hand(net_of(start, mask), mask, stream, START)
    kept = weights_at(store, f"lottery level {level}", UNTIL, run)
    assert distance(net, kept) < 1e-4
    assert accuracy(logits_of(net_of(kept), data, data.test), data.test.labels) == one.accuracy[run, level]
    others = {
        "a schedule from the beginning": by_hand(net_of(start, mask), mask, stream, START, schedule_from=0),
        "other batches": by_hand(net_of(start, mask), mask, (0, "pretrain", run), START),
        "batch norm's buffers afresh": by_hand(forgotten(net_of(start, mask)), mask, stream, START),
    }
    if level:
        others["all weights"] = by_hand(net_of(start), one.masks[run][0], stream, START)
    for what, other in others.items():
        assert distance(other, kept) > 1e-2, f"{what} would have shown"


def forgotten(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return net


def test_a_level_begins_with_the_pretrained_weights_and_buffers_and_no_momentum(
    straight: tuple[Lottery, Path], copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[dict[str, Any]] = []
    real = jobs.train

    def spy(moment: Any, stop: int, **more: Any) -> None:
        state = {name: t.clone() for name, t in moment.model.state_dict().items()}
        begun.append({"step": moment.step, "state": state, "momentum": dict(moment.optimizer.state)})
        real(moment, stop, **more)

    for _, folder in [*runs(copied, "lottery level 1")]:
        shutil.rmtree(folder.path)
    for _, folder in [*runs(copied, "lottery level 2")]:
        shutil.rmtree(folder.path)
    monkeypatch.setattr(jobs, "train", spy)
    find_tickets(tiny(), **options(copied))
    (one,) = straight[0].outcomes.values()
    assert [entry["step"] for entry in begun] == [START] * 4
    for entry, (level, run) in zip(begun, ((1, 0), (1, 1), (2, 0), (2, 1)), strict=True):
        assert entry["momentum"] == {}
        before = weights_at(copied, "pretrain", START, run)
        assert int(before["bn1.num_batches_tracked"]) == START
        for name, tensor in entry["state"].items():
            mask = torch.from_numpy(one.masks[run][level].tensors.get(name, np.ones(tuple(tensor.shape), bool)))
            assert torch.equal(tensor[mask], before[name][mask]), name
            assert not tensor[~mask].any()


def test_a_mask_is_what_pruning_the_trained_weights_of_the_level_before_gives(straight: tuple[Lottery, Path]) -> None:
    (one,), store = straight[0].outcomes.values(), straight[1] / "store"
    for run in (0, 1):
        assert one.masks[run][0].density == 1
        for level in (0, 1):
            trained = weights_at(store, f"lottery level {level}", UNTIL, run)
            after = prune(trained, one.masks[run][level], 0.2, run=run)
            assert after.digest == one.masks[run][level + 1].digest
            pairs = [(trained[n].numpy(), t, after.tensors[n]) for n, t in one.masks[run][level].tensors.items()]
            left = np.concatenate([weight[now] for weight, _, now in pairs])
            gone = np.concatenate([weight[was & ~now] for weight, was, now in pairs])
            assert np.abs(gone).max() <= np.abs(left).min()
            saved = straight[1] / "out" / "masks" / "48-random-6-steps" / f"replicate{run}-level{level + 1}.safetensors"
            assert Mask.load(saved).digest == after.digest


def test_weights_that_are_gone_are_plus_zero_at_the_end(straight: tuple[Lottery, Path]) -> None:
    (one,), store = straight[0].outcomes.values(), straight[1] / "store"
    trained = weights_at(store, "lottery level 2", UNTIL)
    for name, tensor in one.masks[0][2].tensors.items():
        gone = trained[name][~torch.from_numpy(tensor)].contiguous()
        assert len(gone)
        assert not gone.view(torch.int32).any()


def test_pretraining_is_plain_training_on_the_subset_to_the_point(straight: tuple[Lottery, Path]) -> None:
    (one,), store, data = straight[0].outcomes.values(), straight[1] / "store", tiny()
    for run in (0, 1):
        spec, folder = one_run(store, "pretrain", run)
        assert folder.steps() == [START]
        assert "mask" not in spec
        net = net_of(weights_at(store, "pretrain", START, run))
        assert one.test[run] == accuracy(logits_of(net, data, data.test), data.test.labels)
        assert one.train[run] == accuracy(logits_of(net, data), data.labels)
        rows = one.rows[run]
        assert rows is not None
        assert np.bincount(data.labels[rows]).tolist() == [16, 16, 16]
    assert not np.array_equal(one.rows[0], one.rows[1]), "each replicate draws its own"


def test_rewinding_the_rate_alone_goes_on_from_the_trained_weights(copied: Path) -> None:
    result = find_tickets(tiny(), **options(copied, rewind="rate"))
    (one,) = result.outcomes.values()
    levels = {"rate": weights_at(copied, "lottery level 0", UNTIL), "weights": weights_at(copied, "pretrain", START)}
    mask, stream = one.masks[0][1], (0, "lottery level 1", 0)
    found = {}
    for _, folder in runs(copied, "lottery level 1"):
        if (folder.spec() or {}).get("run", 0) == 0:
            point = folder.load_checkpoint(UNTIL)
            assert point is not None
            parent = (folder.spec() or {})["parent"][0]
            kind = "rate" if parent == one_run(copied, "lottery level 0")[1].name else "weights"
            found[kind] = part(point.tensors, "model/")
    assert found.keys() == levels.keys()
    for kind, start in levels.items():
        assert distance(by_hand(net_of(start, mask), mask, stream, START), found[kind]) < 1e-4, kind
    assert distance(net_of(found["rate"]), found["weights"]) > 1e-2


# ------------------------------------------------------------------------------------------------ the store


def test_the_same_lottery_again_trains_nothing_and_writes_the_same(
    straight: tuple[Lottery, Path], copied: Path, tmp_path: Path, stretches: Stretches
) -> None:
    before = files(copied)
    again = find_tickets(tiny(), out=tmp_path / "out", **options(copied, instruments=INSTRUMENTS))
    assert stretches == []
    assert files(copied) == before
    assert again.to_json() == straight[0].to_json()
    assert (
        files(tmp_path / "out").items()
        >= {
            name: content for name, content in files(straight[1] / "out").items() if not name.endswith((".png", ".svg"))
        }.items()
    )


def test_more_levels_and_replicates_only_add(copied: Path, stretches: Stretches) -> None:
    before = files(copied)
    plain = find_tickets(tiny(), **options(copied, levels=1, replicates=1))
    assert stretches == []
    more = find_tickets(tiny(), **options(copied, levels=3, replicates=3))
    assert sorted(stretches) == [(0, 6), *[(6, 28)] * 6], "a level of two replicates, and all of the third"
    assert files(copied).items() >= before.items()
    (short,), (long,) = plain.outcomes.values(), more.outcomes.values()
    assert np.array_equal(long.accuracy[:1, :2], short.accuracy)


def test_level_0_is_shared_by_rules_and_its_masks_are_not(copied: Path, stretches: Stretches) -> None:
    for rule in ("layerwise", "random"):
        stretches.clear()
        (one,) = find_tickets(tiny(), **options(copied, rule=rule, replicates=1)).outcomes.values()
        assert len(stretches) == 2, "levels 1 and 2"
        assert len([*runs(copied, "lottery level 0")]) == 2
        layers = one.masks[0][2].layers()
        even = all(left == fewer(fewer(total)) for left, total in layers.values())
        assert even is (rule == "layerwise")
    masks = {spec["mask"] for spec, _ in runs(copied, "lottery level 1")}
    assert len(masks) == 2 + 1 + 1, "of two replicates by magnitude, and of one by each other rule"


def fewer(count: int) -> int:
    """A fifth less, rounded up."""
    return count - -(-count // 5)


def test_the_same_seed_gives_the_same_masks_and_another_others(straight: tuple[Lottery, Path], tmp_path: Path) -> None:
    (one,) = straight[0].outcomes.values()
    (again,) = find_tickets(tiny(), **options(tmp_path / "again", levels=1)).outcomes.values()
    (other,) = find_tickets(tiny(), **options(tmp_path / "other", levels=1, seed=1)).outcomes.values()
    digests = [[mask.digest for masks in found.masks for mask in masks[1:2]] for found in (one, again, other)]
    assert digests[0] == digests[1]
    assert len({*digests[0], *digests[2]}) == 4


def test_the_stages_count_what_is_missing(copied: Path, tmp_path: Path) -> None:
    def counted(store: Path, **changes: Any) -> dict[str, tuple[int, int]]:
        plan = plan_tickets(tiny(), **options(store, **changes))
        return {
            name: (len(tasks), sum(not is_done(task, data) for _, task in tasks))
            for name, data, _, tasks in stages(plan)
        }

    fresh = counted(tmp_path / "fresh", pretrain=["easiest:48@6", "all@6"], instruments=["barrier"])
    assert fresh == {
        "scoring by el2n": (2, 2), "pre-training": (4, 4), "level 0": (4, 4), "children": (8, 8), "level 1": (4, 4),
        "level 2": (4, 4),
    }  # fmt: skip
    assert not (tmp_path / "fresh").exists()
    done = counted(copied, instruments=INSTRUMENTS, levels=3)
    assert done == {
        "pre-training": (2, 0), "level 0": (2, 0), "children": (4, 0), "level 1": (2, 0), "level 2": (2, 0),
        "level 3": (2, 2),
    }  # fmt: skip


SCRIPT = """
import sys
from datadiet.lottery import find_tickets

if __name__ == "__main__":
    data, store, out = sys.argv[1:]
    fixed = {"threads": 1, "precision": "float32", "compile": "off", "resume_every": 0.02, "engine": "inline"}
    find_tickets(data, out=out, setup={"store": store, **fixed}, **%r)
"""


def test_planning_trains_no_child_of_a_scoring_run_that_is_done(tmp_path: Path, stretches: Stretches) -> None:
    usual = options(tmp_path, pretrain=["easiest/lmc:30@6"], scores_at={"lmc": "8it"}, levels=0)
    again = {name: usual[name] for name in ("recipe", "setup")}
    dd.score(tiny(), scores=["lmc"], runs=2, at="8it", **again)
    assert stretches
    for _, folder in runs(tmp_path, "score"):  # the runs and their checkpoints stay, the scores from their children go
        for shard in folder.path.glob("shards/lmc@*"):
            shard.unlink()
    for spec, folder in list(runs(tmp_path, "score, child of 0")):
        assert spec["parent"][1] == 8
        shutil.rmtree(folder.path)
    stretches.clear()
    found = {what: tasks for what, _, _, tasks in stages(plan_tickets(tiny(), **usual))}
    assert not stretches
    assert [sum(not is_done(task, tiny()) for _, task in found["children of scoring runs"])] == [3]


def test_killed_within_a_level_and_run_again_it_ends_with_the_bytes_of_a_straight_run(
    tmp_path: Path, stretches: Stretches
) -> None:
    np.savez(tmp_path / "tiny.npz", **arrays())
    given = {"pretrain": ["random:48@6"], "levels": 2, "replicates": 1, "recipe": {**RECIPE, "steps": "150ep"}}
    (tmp_path / "long.py").write_text(SCRIPT % given)
    store, data = tmp_path / "store", str(tmp_path / "tiny.npz")
    fixed = {"threads": 1, "precision": "float32", "compile": "off", "engine": "inline"}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, str(tmp_path / "long.py"), data, str(store), str(tmp_path / "out")],
        stderr=subprocess.PIPE, env=environment, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for_level(store, 1, child)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
    assert child.returncode == -signal.SIGKILL
    resumed = one_run(store, "lottery level 1")[1].load_resume()
    assert resumed is not None
    assert 6 < resumed.step < 1050
    assert not (tmp_path / "out" / "lottery.json").exists()
    find_tickets(data, out=tmp_path / "out", setup={"store": store, **fixed}, **given)
    assert sum(stop - begin for begin, stop in stretches) <= 2 * 1044 - (resumed.step - 6), "it went on where it was"
    find_tickets(data, out=tmp_path / "whole", setup={"store": tmp_path / "other", **fixed}, **given)
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    both = [
        {name: content for name, content in files(folder).items() if "/results/" in name or "/evaluations/" in name}
        for folder in (store, tmp_path / "other")
    ]
    assert both[0] == both[1]
    assert not list(store.glob("??/*/resume.safetensors"))


def wait_for_level(store: Path, level: int, child: subprocess.Popen[bytes], seconds: float = 120) -> None:
    """Until a run of this level has a resume point; its process must not have ended by then."""
    end = time.monotonic() + seconds
    while True:
        assert child.poll() is None, child.communicate()[1]
        assert time.monotonic() < end, f"no level {level} after {seconds} s"
        if store.exists() and any(
            (folder.path / "resume.safetensors").exists() for _, folder in runs(store, f"lottery level {level}")
        ):
            return
        time.sleep(0.002)


# ------------------------------------------------------------------------------------------------ controls


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lottery, Path]:
    store = tmp_path_factory.mktemp("noisy")
    given = options(store, pretrain=["easiest:48@6", "random:48@6"], levels=1, noise="redraw:0.5", noise_seed=3)
    return find_tickets(tiny(), **given, instruments=["errors"]), store


def test_noise_is_in_scoring_and_pretraining_only(noisy: tuple[Lottery, Path]) -> None:
    result, store = noisy
    data = tiny()
    wrong = data.with_noise("redraw", 0.5, 3)
    assert wrong.corrupted.any()
    levels = ("lottery level 0", "lottery level 1")
    for purpose, expected in (("score", wrong), ("pretrain", wrong), *((level, data) for level in levels)):
        found = [spec for spec, _ in runs(store, purpose)]
        assert found
        assert {spec["dataset"] for spec in found} == {expected.fingerprint}
        assert {"noise" in spec for spec in found} == {expected is wrong}
    one = result["48 random, 6 steps"]
    for run in (0, 1):
        counts = np.bincount(wrong.labels[one.rows[run]], minlength=3)
        assert counts.tolist() == [16, 16, 16], "balanced by the labels that pre-training sees"
    assert result.provenance["noise"]["kind"] == "redraw"


def test_errors_are_against_the_labels_that_the_levels_train_on(noisy: tuple[Lottery, Path]) -> None:
    result, store = noisy
    check_errors(result["48 easiest, 6 steps"], store, level=1)


def test_easy_examples_are_those_of_the_scores_and_the_same_in_all_replicates(noisy: tuple[Lottery, Path]) -> None:
    result, store = noisy
    one = result["48 easiest, 6 steps"]
    assert np.array_equal(one.rows[0], one.rows[1])
    found = [folder.load_shard("el2n", folder.shards()[0][1]) for _, folder in runs(store, "score")]
    mean = np.mean([values for values, _ in found], axis=0)
    assert set(one.rows[0]) == set(np.argsort(mean)[:48])


def check_errors(one: Any, store: Path, level: int) -> None:
    """`errors_dense` and `errors_sparse` are EL2N of the pre-trained weights, all and masked."""
    data = tiny()
    for run in (0, 1):
        parent = next(
            spec["parent"][0]
            for spec, folder in runs(store, f"lottery level {level}")
            if spec.get("mask") == one.masks[run][level].digest and spec.get("run", 0) == run
        )
        point = Store(store).run(parent).load_checkpoint(START)
        assert point is not None
        for mask, values in ((None, one.errors_dense), (one.masks[run][level], one.errors_sparse)):
            logits = logits_of(net_of(part(point.tensors, "model/"), mask), data)
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            expected = np.linalg.norm(p - np.eye(3)[data.labels], axis=1)
            np.testing.assert_allclose(values[run], expected, atol=2e-6)


# ------------------------------------------------------------------------------------------------ instruments


def test_errors_are_el2n_of_the_pretrained_weights_before_and_after_the_projection(
    straight: tuple[Lottery, Path],
) -> None:
    (one,) = straight[0].outcomes.values()
    check_errors(one, straight[1] / "store", level=2)
    assert np.abs(one.errors_dense - one.errors_sparse).max() > 1e-3


def test_barriers_are_those_between_three_dense_networks_from_the_same_point(straight: tuple[Lottery, Path]) -> None:
    (one,), store, data = straight[0].outcomes.values(), straight[1] / "store", tiny()
    for run in (0, 1):
        ends = [weights_at(store, p, UNTIL, run) for p in ("lottery level 0", "lottery child 1", "lottery child 2")]
        parents = {
            tuple(one_run(store, p, run)[0]["parent"])
            for p in ("lottery level 0", "lottery child 1", "lottery child 2")
        }
        assert parents == {(one_run(store, "pretrain", run)[1].name, START)}
        each, wrong = [], []
        for i, j in ((0, 1), (0, 2), (1, 2)):
            assert distance(net_of(ends[i]), ends[j]) > 1e-2, "three networks, not one"
            middle = {n: (t + ends[j][n]) / 2 if t.is_floating_point() else t for n, t in ends[i].items()}
            found = [logits_of(net_of(w), data) for w in (ends[i], ends[j], middle)]
            first, second, between = (losses(logits, data.labels) for logits in found)
            each.append(between - (first + second) / 2)
            errors = [1 - accuracy(logits, data.labels) for logits in found]
            wrong.append(max(0.0, errors[2] - (errors[0] + errors[1]) / 2))
        np.testing.assert_allclose(one.barriers[run], np.mean(each, axis=0), atol=1e-5)
        assert one.error_barriers[run] == pytest.approx(np.mean(wrong), abs=1e-9)


def test_coherence_is_the_mean_cosine_of_sixteen_batch_gradients_of_the_subset(
    straight: tuple[Lottery, Path],
) -> None:
    (one,), store, data = straight[0].outcomes.values(), straight[1] / "store", tiny()
    batches, labels = Batches(data.train, data), torch.from_numpy(data.labels)
    for run in (0, 1):
        net = net_of(weights_at(store, "pretrain", START, run)).double().train()
        order = Order(one.rows[run], 16, (0, "pretrain, coherence", run))
        gradients = []
        for number in range(START * 16, START * 16 + 16):
            rows = order.batch(number)[0]
            assert set(rows.tolist()) <= set(one.rows[run].tolist())
            loss = nn.functional.cross_entropy(net(batches.inputs(rows).double()), labels[rows])
            found = torch.autograd.grad(loss, list(net.parameters()))
            gradients.append(np.concatenate([g.numpy().ravel() for g in found]))
        mean = np.mean(gradients, axis=0)
        cosines = [g @ mean / np.linalg.norm(g) / np.linalg.norm(mean) for g in gradients]
        assert one.cosines[run] == pytest.approx(np.mean(cosines), abs=1e-5)


# ------------------------------------------------------------------------------------------------ results


def test_what_an_outcome_says_of_itself(straight: tuple[Lottery, Path]) -> None:
    result, (one,) = straight[0], straight[0].outcomes.values()
    total = sum(t.size for t in one.masks[0][0].tensors.values())
    left = [total, fewer(total), fewer(fewer(total))]
    assert (result.dense, [mask.remaining for mask in one.masks[1]]) == (total, left)
    assert one.density == [count / total for count in left]
    np.testing.assert_allclose(one.mean(), [np.mean(one.accuracy[:, k]) for k in range(3)])
    spread = [abs(one.accuracy[0, k] - one.accuracy[1, k]) / math.sqrt(2) for k in range(3)]
    np.testing.assert_allclose(one.std(), spread, atol=1e-12)
    rows = result.rows()
    assert [(row["replicate"], row["level"]) for row in rows] == [(r, k) for r in (0, 1) for k in (0, 1, 2)]
    assert [row["accuracy"] for row in rows] == one.accuracy.ravel().tolist()


@pytest.mark.parametrize(
    ("means", "level"),
    [
        ([0.9, 0.9, 0.9], 2),
        ([0.9, 0.896, 0.8951], 2),
        ([0.9, 0.894, 0.9], 0),
        ([0.9, 0.95, 0.89], 1),
    ],
)
def test_matching_is_down_to_where_every_level_keeps_the_dense_accuracy(
    straight: tuple[Lottery, Path], means: list[float], level: int
) -> None:
    (one,) = straight[0].outcomes.values()
    assert replace(one, accuracy=np.array([means, means])).matching() == level
