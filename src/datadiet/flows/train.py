"""`train`: one recipe on all data or a subset, with the final weights kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from datadiet.errors import DatadietError
from datadiet.flows.arguments import refuse_unknown
from datadiet.flows.compare import FULL, ComparePlan, Comparison, check_folder, execute_compare, plan_compare
from datadiet.flows.execute import OnProgress
from datadiet.flows.network import network_of
from datadiet.flows.score_folder import refuse_in_the_way
from datadiet.flows.tasks import folder_of
from datadiet.machine import expanded
from datadiet.store.files import read_tensors, writable_folder, write_json, write_tensors
from datadiet.training.checkpoint import part
from datadiet.training.masks import Mask


def plan_train(
    data: Any, subset: Any = None, *, runs: int = 1, mask: Mask | str | Path | None = None, **plan: Any
) -> ComparePlan:  # fmt: skip
    """Resolve and check a training; arguments as of `train` and `compare`."""
    if subset is None:
        found = plan_compare(data, {}, runs=runs, baselines=("full",), keep_last=True, **plan)
    else:
        name = Path(subset).stem if isinstance(subset, (str, Path)) else "subset"
        found = plan_compare(data, {name: subset}, runs=runs, baselines=(), keep_last=True, **plan)
    return found if mask is None else _masked(found, mask)


def _masked(plan: ComparePlan, given: Mask | str | Path) -> ComparePlan:
    """The same runs under a weight mask, which must be of their network."""
    mask, where = (given, "mask") if isinstance(given, Mask) else (Mask.load(given), str(given))
    mask.check(network_of(plan.recipe, plan.data), where=where)
    groups = [
        (
            name, keep, size,
            [(label, replace(t, spec=replace(t.spec, mask=mask.digest), mask=mask)) for label, t in tasks],
        )
        for name, keep, size, tasks in plan.groups
    ]  # fmt: skip
    return replace(plan, groups=groups)


def execute_train(
    plan: ComparePlan, out: str | Path, on_progress: OnProgress | None = None
) -> tuple[Comparison, list[Path]]:
    """Train, and write `weights-<run>.safetensors` (a state dict) and `comparison.json` to a folder."""
    folder = expanded(out)
    first = plan.tasks[0][1].spec
    what: dict[str, str | None] = {"subset": first.subset, "mask": first.mask}
    # Other rows of a comparison replace each other; weights of two trainings in one folder would be mixed up.
    check_folder(folder, plan.data.fingerprint, plan.recipe, plan.seed, plan.split, **what)
    files = [folder / f"weights-{run}.safetensors" for run in range(len(plan.tasks))]
    if not (folder / "comparison.json").exists():  # which is written before them
        others = [file for run, file in enumerate(files) if not _is_ours(file, {**_about(plan, run), **what})]
        refuse_in_the_way(others, "training")
    new = sum(not file.exists() for file in files)  # one that is written again stands there twice for a moment
    writable_folder(folder, need_bytes=plan.network.state_bytes * max(1, new))
    result = execute_compare(plan, on_progress=on_progress)
    result = replace(result, provenance={**result.provenance, **what})
    write_json(folder / "comparison.json", result.to_json())  # first: it says whose weights these are
    for run, (file, (_, task)) in enumerate(zip(files, plan.tasks, strict=True)):
        point = folder_of(task).load_checkpoint(plan.until)
        if point is None:
            raise DatadietError("the last checkpoint is gone", where=folder_of(task).path, fix="run the command again")
        meta = {"what": "weights", "step": plan.until, "name": task.spec.name, **_about(plan, run), **what}
        write_tensors(file, part(point.tensors, "model/"), meta)
    return result, files


def _about(plan: ComparePlan, run: int) -> dict[str, Any]:
    """What the weights of a run say of themselves."""
    return {"recipe": plan.recipe.to_json(), "fingerprint": plan.data.fingerprint, "seed": plan.seed, "run": run}


def _is_ours(file: Path, about: Mapping[str, Any]) -> bool:
    try:
        return file.exists() and about.items() <= read_tensors(file)[1].items()
    except DatadietError:
        return False


def train(
    data: Any,
    subset: Any = None,
    *,
    out: str | Path,
    runs: int = 1,
    mask: Mask | str | Path | None = None,
    on_progress: OnProgress | None = None,
    **plan: Any,
) -> tuple[Comparison, list[Path]]:
    """Train `runs` networks on all of `data` or a subset of it.

    Args:
        data: a Dataset, or anything that `datadiet.load` takes.
        subset: Subset, row indices, mask or file; None for all.
        out: the folder for weights and accuracies.
        mask: a weight mask, or its file, that is held from initialisation to the end.
        plan: `recipe`, `preset`, `model`, `steps`, `seed`, `setup`.

    Returns:
        The accuracies, and the files of the weights.
    """
    refuse_unknown(plan, plan_compare, where="train")
    return execute_train(plan_train(data, subset, runs=runs, mask=mask, **plan), out, on_progress)


__all__ = ["FULL", "execute_train", "plan_train", "train"]
