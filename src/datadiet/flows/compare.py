"""`compare`: retrain on kept examples with fresh seeds, beside full data and a random subset of the same size."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import datadiet.data as data_room
from datadiet.data.dataset import Dataset
from datadiet.errors import DatadietError, unknown
from datadiet.flows.arguments import RUNS, refuse_unknown, several, whole
from datadiet.flows.environments import environments_of, warn_if_mixed
from datadiet.flows.execute import OnProgress, run_tasks
from datadiet.flows.plan import Network, Setup, check_code, check_seed, environment, inspect, recipe_for
from datadiet.flows.score_folder import own_record
from datadiet.flows.select import as_subset
from datadiet.flows.shared import DataCard
from datadiet.flows.tasks import RunTask, accuracy_of, functions_of
from datadiet.machine import expanded
from datadiet.numerics import Numerics
from datadiet.selection import Subset
from datadiet.selection import select as select_rows
from datadiet.steps import counted, describe
from datadiet.store import Store
from datadiet.store.files import writable_folder, write_json
from datadiet.training.recipe import Recipe, RunSpec

log = logging.getLogger(__name__)

FULL = "full data"
BASELINES = ("full", "random", "balanced-random")


@dataclass(frozen=True)
class Row:
    """Retraining on one subset: the accuracy of the last step of each run."""

    name: str
    keep: float
    examples: int
    accuracies: tuple[float, ...]

    @property
    def runs(self) -> int:
        return len(self.accuracies)

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def low(self) -> float:
        """16th percentile over runs."""
        return float(np.percentile(self.accuracies, 16))

    @property
    def high(self) -> float:
        """84th percentile over runs."""
        return float(np.percentile(self.accuracies, 84))


@dataclass(frozen=True)
class Comparison:
    """What retraining came to.

    Args:
        rows: full data first, then random subsets, then what was asked about.
        split: whose accuracy it is.
        steps: of every run, whatever it was trained on.
        steps_per_epoch: of the full training set.
    """

    rows: tuple[Row, ...]
    split: str
    steps: int
    steps_per_epoch: int
    dataset: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def difference(self, first: str, second: str) -> float:
        """Mean accuracy of `first` above that of `second`, in points."""
        return 100 * (self[first].mean - self[second].mean)

    def to_json(self) -> dict[str, Any]:
        """The content of `comparison.json`: accuracies and `keep` as fractions, with the provenance."""
        rows = [
            asdict(row) | {"mean": row.mean, "p16": row.low, "p84": row.high, "runs": row.runs} for row in self.rows
        ]
        return {
            "what": "comparison",
            "dataset": self.dataset,
            "split": self.split,
            "steps": self.steps,
            "epochs": self.steps / self.steps_per_epoch,
            "rows": rows,
            **self.provenance,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Comparison:
        """What `to_json` made, without its provenance."""
        rows = tuple(Row(r["name"], r["keep"], r["examples"], tuple(r["accuracies"])) for r in content["rows"])
        per_epoch = max(1, round(content["steps"] / content["epochs"]))
        return cls(rows, content["split"], content["steps"], per_epoch, content["dataset"])

    def __str__(self) -> str:
        width = max(len(row.name) for row in self.rows)
        lines = [f"{self.dataset}: {self.split} accuracy after {describe(self.steps, self.steps_per_epoch)}"]
        for row in self.rows:
            lines.append(
                f"{row.name:<{width}}  {row.examples:>7,}  {100 * row.mean:6.2f} %"
                f"  [{100 * row.low:.2f}, {100 * row.high:.2f}]  {counted(row.runs, 'run')}"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class ComparePlan:
    """Everything a comparison is, before a step of it is taken: for each name its subset and the tasks of its runs."""

    data: Dataset
    recipe: Recipe
    split: str
    until: int
    seed: int
    setup: Setup
    network: Network
    numerics: Numerics
    groups: list[tuple[str, float, int, list[tuple[str, RunTask]]]]

    @property
    def tasks(self) -> list[tuple[str, RunTask]]:
        """Each run once: two names may stand for the same rows."""
        by_name = {task.spec.name: (label, task) for _, _, _, tasks in self.groups for label, task in tasks}
        return list(by_name.values())


def plan_compare(
    data: Any,
    subsets: Mapping[str, Any],
    *,
    runs: int = 4,
    recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
    preset: str | None = None,
    model: str | None = None,
    steps: str | None = None,
    seed: int = 0,
    baselines: Sequence[str] = ("full", "random"),
    split: str = "test",
    purpose: str = "retrain",
    setup: Setup | Mapping[str, Any] | None = None,
    keep_last: bool = False,
) -> ComparePlan:
    """Resolve and check all that `compare` was asked, and train nothing. Arguments as of `compare`."""
    data, setup = data_room.load(data), Setup.of(setup)
    runs = whole(runs, "runs", "--runs", most=RUNS)
    seed = check_seed(seed)
    if split not in ("test", "validation"):
        raise unknown("split", split, ("test", "validation"), where="--split")
    baselines = several(baselines, "baselines", "--baseline")
    if not isinstance(subsets, Mapping):
        raise DatadietError("subsets without names", where="compare", fix='give a mapping: {"mine": subset}')
    for baseline in baselines:
        if baseline not in BASELINES:
            raise unknown("baseline", baseline, BASELINES, where="--baseline")
    if (data.test if split == "test" else data.validation) is None:
        raise DatadietError(f"no {split} split to compare on", where=data.name, fix="load it with one")
    checked = {name: as_subset(given, data, where=name) for name, given in subsets.items()}
    for name, subset in checked.items():
        if subset.fingerprint is not None and subset.fingerprint != data.fingerprint:
            log.warning("%s was chosen under other labels (with other label noise?) than are trained on now", name)
    for name in checked:
        if name == FULL:
            raise DatadietError(f"the name {name!r} is taken", where="subsets")
    if recipe is None and preset is None:
        recipe = _recipe_of(checked)
    chosen = recipe_for(data, recipe=recipe, preset=preset, model=model, steps=steps)
    network = inspect(chosen, data, min(map(len, checked.values()), default=None))
    numerics = environment(chosen, data, network, setup)
    until = chosen.horizon(len(data))
    plan = ComparePlan(data, chosen, split, until, seed, setup, network, numerics, [])

    def group(name: str, per_run: Sequence[Subset | None]) -> None:
        if name in [known for known, _, _, _ in plan.groups]:
            raise DatadietError(f"two rows are called {name!r}", where="subsets", fix="give the subset another name")
        tasks = [_task(plan, name, run, subset, purpose, keep_last) for run, subset in enumerate(per_run)]
        size = len(data) if per_run[0] is None else len(per_run[0])
        plan.groups.append((name, size / len(data), size, tasks))

    if "full" in baselines:
        group(FULL, [None] * runs)
    for baseline in [name for name in BASELINES[1:] if name in baselines]:
        balanced, name = baseline == "balanced-random", baseline.replace("-", " ")
        sizes = sorted({len(subset) for subset in checked.values() if len(subset) < len(data)}, reverse=True)
        shares = [percent(size / len(data)) for size in sizes]
        for size, share in zip(sizes, shares, strict=True):
            keep = f"{size}/{len(data)}"
            drawn = [
                select_rows(
                    np.zeros(len(data)), keep, "random", labels=data.labels if balanced else None, balanced=balanced,
                    class_names=data.classes, fingerprint=data.fingerprint, seed=seed, run=run,
                )
                for run in range(runs)
            ]  # fmt: skip
            group(f"{name} {share if shares.count(share) == 1 else size}", drawn)
    for name, subset in checked.items():
        group(name, [None if len(subset) == len(data) else subset] * runs)
    if not plan.groups:
        raise DatadietError("nothing to compare", fix="give a subset with --subset")
    return plan


def compare(
    data: Any,
    subsets: Mapping[str, Any],
    runs: int = 4,
    *,
    out: str | Path | None = None,
    on_progress: OnProgress | None = None,
    **plan: Any,
) -> Comparison:
    """Train on each subset and report the accuracy of the last step.

    Every run takes as many steps as on full data. Full data and, for each size, random subsets (a new draw for every
    run) stand beside.

    Args:
        data: a Dataset, or anything that `datadiet.load` takes.
        subsets: name to Subset, row indices, mask, or file.
        runs: retraining runs of each, with seeds that no scoring run has.
        out: a folder for `comparison.json`.
        on_progress: called with the progress of jobs.
        plan: `recipe` (default that of the scores the subsets came from), `preset`, `model`, `steps`, `seed`,
            `baselines` (of "full", "random", "balanced-random": the same number from each class), `split` ("test" or
            "validation"), `setup`.

    Returns:
        A Comparison: mean and 16th–84th percentile over runs, a row each.
    """
    refuse_unknown(plan, plan_compare, where="compare")
    return execute_compare(plan_compare(data, subsets, runs=runs, **plan), out, on_progress)


def execute_compare(
    plan: ComparePlan, out: str | Path | None = None, on_progress: OnProgress | None = None
) -> Comparison:
    """Do what a plan says."""
    folder = None if out is None else expanded(out)
    if folder is not None:
        check_folder(folder, plan.data.fingerprint, plan.recipe, plan.seed, plan.split)
        writable_folder(folder)
    store = Store(plan.setup.store)
    check_code(plan.recipe, plan.network, store)
    run_tasks(plan.tasks, plan.data, plan.setup, on_progress)
    result = results(plan)
    if folder is not None:
        write_json(folder / "comparison.json", result.to_json())
    return result


def check_folder(folder: Path, fingerprint: str, recipe: Recipe, seed: int, split: str = "test", **more: Any) -> None:
    """Refuse a folder with the comparison of other data, another recipe or seed; other subsets replace its rows.

    Args:
        more: what else its comparison must say, by key.
    """
    found = own_record(folder / "comparison.json", "comparison")
    if not found:
        return
    mine = {"fingerprint": fingerprint, "recipe": recipe.to_json(), "seed": seed, "split": split, **more}
    trained = "subset" in found or (folder / "weights-0.safetensors").exists()  # which older ones did not say
    if trained != ("subset" in mine):
        kind = "training" if trained else "comparison"
        raise DatadietError(f"holds a {kind}", where=folder, fix="choose another --out, or move that folder away")
    if recipe.is_told_by(found.get("recipe")):
        found = {**found, "recipe": mine["recipe"]}
    differ = [key for key, value in mine.items() if found.get(key) != value]
    if differ:
        raise DatadietError(
            f"holds another comparison (other {', '.join(differ)})",
            where=folder,
            fix="choose another --out, or move that folder away",
        )


def results(plan: ComparePlan) -> Comparison:
    """Read the accuracies of a plan that was executed."""
    data = plan.data
    rows = tuple(
        Row(name, keep, size, tuple(accuracy_of(task, plan.split, data) for _, task in tasks))
        for name, keep, size, tasks in plan.groups
    )
    environments = environments_of((task for _, task in plan.tasks), data)
    warn_if_mixed(environments)
    provenance = {
        "recipe": plan.recipe.to_json(),
        "seed": plan.seed,
        "fingerprint": data.fingerprint,
        "noise": None if data.noise is None else data.noise.describe(),
        "numerics": environments,
    }
    per_epoch = plan.recipe.steps_per_epoch(len(data))
    return Comparison(rows, plan.split, plan.until, per_epoch, data.name, provenance)


def percent(keep: float) -> str:
    """A fraction for people: 50%, 12.5%."""
    return f"{100 * keep:.3g}%"


def _task(
    plan: ComparePlan, name: str, run: int, subset: Subset | None, purpose: str, keep_last: bool
) -> tuple[str, RunTask]:
    data = plan.data
    spec = RunSpec(
        recipe=plan.recipe,
        dataset=data.fingerprint,
        seed=plan.seed,
        run=run,
        purpose=purpose,
        classes=len(data.classes),
        noise=None if data.noise is None else data.noise.describe(),
        subset=None if subset is None else subset.digest,
        weights=plan.network.weights,
    )
    task = RunTask(
        spec,
        str(plan.setup.store),
        DataCard.of(data),
        plan.numerics,
        until=plan.until,
        rows=None if subset is None else np.asarray(subset.indices),
        evaluate=(plan.split,),
        keep=(plan.until,) if keep_last else (),
        resume_every=plan.setup.resume_every,
        needs=functions_of(plan.recipe.model),
    )
    return f"{name}, run {run}", task


def _recipe_of(subsets: Mapping[str, Subset]) -> Recipe | None:
    """The recipe of the scores that the subsets came from; two different ones must be settled by the user."""
    found = {str(s.policy["recipe"]): s.policy["recipe"] for s in subsets.values() if s.policy.get("recipe")}
    if len(found) > 1:
        raise DatadietError(
            "the subsets come from scores of different recipes",
            where="subsets",
            fix="say --preset or --recipe",
        )
    return Recipe.from_json(next(iter(found.values()))) if found else None
