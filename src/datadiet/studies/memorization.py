"""EL2N beside memorisation values, given or estimated by training on random subsets (DD Figure 16)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datadiet.flows.plan import Runs, environment, inspect
from datadiet.flows.shared import DataCard
from datadiet.flows.tasks import RunTask, folder_of, gone
from datadiet.scores.table import rank_correlation
from datadiet.seeds import stream
from datadiet.selection import Subset
from datadiet.studies.job import StudyJob
from datadiet.studies.study import STUDIES, Numbers, Study, column
from datadiet.studies.verdict import Verdict, verdict
from datadiet.training.recipe import RunSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PURPOSE = "memorization"
PART = 0.7  # of the data in each random subset, as Feldman and Zhang take it
RUNS = {"quick": 60, "small": 40, "paper": 400}  # networks whose correctness is compared; they took 2 000 to 4 000
FEW = 0.25  # from which a value is called memorised: the published pairs hold none below
NOISE = 0.5  # reliability below which estimated values are mostly noise
LEAST = 20  # examples below which a correlation says nothing
NONE = 0.3  # Spearman's, in size, below which two quantities are said not to correlate


def measure(job: StudyJob) -> Numbers:
    at = job.curve_step
    table = job.score(["el2n"], [at])
    given = job.memorization
    out: Numbers = []
    if given is not None:
        rows, values = given
        order = np.unique(rows, return_index=True)[1]  # an example may be in several pairs, always with one value
        rows, values = rows[order], values[order]
        kind = "given"
    else:
        values, alike = _estimated(job)
        rows = np.flatnonzero(np.isfinite(values))
        values, kind = values[rows], "estimated"
        out.append({"what": "reliability", "reliability": alike, "networks": RUNS[job.scale.name]})
    el2n = table.values("el2n", at).astype(np.float64)
    groups = {"all": np.ones(len(rows), bool), f"at least {FEW}": values >= FEW}
    for group, chosen in groups.items():
        for run, one in enumerate(el2n):
            rho = rank_correlation(one[rows[chosen]], values[chosen])
            about = {"what": "correlation", "group": group, "examples": int(chosen.sum()), "values": kind}
            out.append({**about, "run": run, "spearman": rho})
    mean = table.mean("el2n", at)
    for row, value in zip(rows, values, strict=True):
        out.append(
            {"what": "example", "index": int(row), "memorization": float(value), "el2n": float(mean[row]), "at": at}
        )
    return out


def _estimated(job: StudyJob) -> tuple[np.ndarray, float]:
    """(N,) memorisation values, by networks on random subsets of the data, and their split-half reliability."""
    data, recipe, until = job.data, job.recipe, job.horizon
    network = inspect(recipe, data)
    numerics = environment(recipe, data, network, job.setup)
    card = DataCard.of(data)
    inside = subsets(len(data), RUNS[job.scale.name], job.seed)
    tasks = []
    for run, rows in enumerate(inside):
        spec = RunSpec(
            recipe=recipe,
            dataset=data.fingerprint,
            seed=job.seed,
            run=run,
            purpose=PURPOSE,
            classes=len(data.classes),
            noise=None if data.noise is None else data.noise.describe(),
            subset=Subset(np.flatnonzero(rows), len(data), data.fingerprint).digest,
            weights=network.weights,
        )
        task = RunTask(
            spec,
            str(job.setup.store),
            card,
            numerics,
            until=until,
            marks=(until,),
            scores=("margin_max",),
            rows=np.flatnonzero(rows),
            resume_every=job.setup.resume_every,
        )
        tasks.append((f"memorisation run {run}", task))
    if not job.execute("memorisation", Runs(data, recipe, network, numerics, job.setup, tasks)):
        return job.made_up((len(data),), PURPOSE), 1.0
    correct = np.empty(inside.shape, bool)
    for run, (_, task) in enumerate(tasks):
        found = folder_of(task).load_shard("margin_max", until)
        if found is None:
            raise gone(folder_of(task))
        correct[run] = found[0] < 1
    halves = [memorization(correct[part::2], inside[part::2]) for part in (0, 1)]
    r = rank_correlation(*halves)
    return memorization(correct, inside), 2 * r / (1 + r) if r > 0 else r


def subsets(examples: int, runs: int, seed: int) -> np.ndarray:
    """(runs, N) bool: which examples each network is trained on, floor(0.7·N + ½) of them."""
    count = int(PART * examples + 0.5)
    inside = np.zeros((runs, examples), bool)
    for run in range(runs):
        inside[run, stream(seed, PURPOSE, run, "subset").permutation(examples)[:count]] = True
    return inside


def memorization(correct: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Feldman and Zhang's estimate: how much more often an example is right where it was trained on.

    mem(i) = P[h(x_i) = y_i | i in the subset] − P[h(x_i) = y_i | i not in it], each over the networks h of that kind
    (Feldman and Zhang 2020, their equation 1 and section 2.1).

    Args:
        correct: (T, N) bool, whether network t has example i right.
        inside: (T, N) bool, whether network t was trained on it.

    Returns:
        (N,) float64 in [−1, 1]; NaN where all networks saw the example, or none did.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        seen = (correct & inside).sum(0) / inside.sum(0)
        unseen = (correct & ~inside).sum(0) / (~inside).sum(0)
    return np.asarray(seen - unseen, np.float64)


def judge(numbers: Numbers) -> list[Verdict]:
    """Claim 10: no correlation, that is a size below NONE in every run's interval."""
    out = []
    reliability = next(iter(column(numbers, "reliability", what="reliability")), None)
    told = "" if reliability is None else f" (split-half reliability {reliability:.2f})"
    doubt = ""
    if reliability is not None and not reliability >= NOISE:
        doubt = f"values of reliability {reliability:.2f} correlate with nothing; take more networks, or longer runs"
    for group in dict.fromkeys(column(numbers, "group", what="correlation")):
        found = np.array(column(numbers, "spearman", what="correlation", group=group))
        count = next(iter(column(numbers, "examples", what="correlation", group=group)))
        kind = next(iter(column(numbers, "values", what="correlation", group=group)))
        which = "memorisation values" if group == "all" else f"memorisation values of {group}"
        mean = f"the mean correlation is {np.mean(found):+.2f}; " if len(found) else ""
        out.append(
            verdict(
                10,
                f"EL2N does not correlate with {which} (Spearman below {NONE} in size)",
                NONE - np.abs(found),
                unit="Spearman to spare",
                note=f"{mean}{count:,} examples, values {kind}{told}",
                doubt=doubt or (f"{count} examples are too few" if count < LEAST else ""),
            )
        )
    return out


def draw(job: StudyJob, numbers: Numbers) -> dict[str, Figure]:
    from datadiet.figures.matrix import scatters

    values = np.array(column(numbers, "memorization", what="example"))
    el2n = np.array(column(numbers, "el2n", what="example"))
    kind = "given" if job.memorization is not None else f"estimated by {RUNS[job.scale.name]} networks"
    rho = rank_correlation(el2n, values)
    name = f"Spearman {rho:.2f}, {len(values):,} examples"
    said = (f"memorisation value, {kind}", f"el2n, epoch {job.epochs(job.curve_step)}")
    figure = scatters({name: (values, el2n, *said)}, columns=1, title=f"{job.data.name}: EL2N and memorisation")
    return {"memorization": figure}


STUDIES.register(
    "memorization",
    Study(
        "memorization",
        "EL2N beside how far an example is only right when it was trained on",
        "DD Fig. 16",
        (10,),
        measure,
        judge,
        draw,
        takes=frozenset({"memorization"}),
    ),
)
