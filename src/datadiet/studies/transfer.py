"""Scores of one network or hyperparameter setting, used for another (DD Figure 11 and section 3)."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np

from datadiet.flows.compare import FULL, percent
from datadiet.flows.select import select
from datadiet.models.mlp import mlp
from datadiet.scores import ScoreTable
from datadiet.scores.table import rank_correlation
from datadiet.steps import Step
from datadiet.studies.job import StudyJob
from datadiet.studies.series import RANDOM, curve, names_of, points, rows_of
from datadiet.studies.study import STUDIES, Numbers, Study, column
from datadiet.studies.verdict import Verdict, verdict
from datadiet.training.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOLERANCE = 1.0  # points of accuracy: "serves"
ALIKE = 0.5  # Spearman's, from which two networks' scores are said to rank alike
SLOWER = 0.25  # the other setting: this part of the learning rate, and
SMALLER = 0.5  # this part of the batch
HIDDEN = inspect.signature(mlp).parameters["hidden"].default
OTHER = {"resnet18": "resnet50", "small-cnn": "mlp", "resnet8": "small-cnn", "mlp": "small-cnn"}


def others(job: StudyJob) -> dict[str, Recipe]:
    """The recipes whose scores are carried over: another network, and the same one trained in another way."""
    own = job.recipe
    other = OTHER.get(own.model, "small-cnn")
    if job.data.kind != "image":
        other = "mlp"
    network, name = own.with_(model=other, model_args={}), other
    if other == own.model:  # an mlp, of tables
        hidden = list(own.model_args.get("hidden", HIDDEN))
        smaller = [max(1, units // 2) for units in hidden]
        args = {"hidden": smaller if smaller != hidden else [64]}  # without hidden layers, or of one unit each
        network = own.with_(model_args={**own.model_args, **args})
        name = f"{'smaller' if smaller != hidden else 'larger'} {other}"
    batch = max(1, round(SMALLER * own.batch_size))
    return {
        name: network,
        "other setting": own.with_(lr=SLOWER * own.lr, batch_size=batch),
    }


def measure(job: StudyJob) -> Numbers:
    own, epochs = job.recipe, Step.parse(job.early)
    keeps = [keep for keep in job.scale.keeps if keep >= 0.2] if job.scale.name == "paper" else [0.5]
    job.need_keeps(keeps)
    recipes = {own.model: own, **others(job)}
    tables: dict[str, ScoreTable] = {}
    for name, recipe in recipes.items():
        early = epochs.resolve(recipe.steps_per_epoch(len(job.data)))
        tables[name] = job.score(["el2n", "grand"], [0, early], recipe=recipe)
    out: Numbers = []
    first = tables[own.model].values("el2n").astype(np.float64)
    for name, table in tables.items():
        if name != own.model:
            for run, values in enumerate(table.values("el2n").astype(np.float64)):
                out.append(
                    {"what": "correlation", "of": name, "run": run, "spearman": rank_correlation(first[run], values)}
                )
    trained = [name for name in recipes if name != "other setting"]
    for network in trained:
        subsets: dict[str, Any] = {}
        about: dict[str, dict[str, Any]] = {}
        for keep in keeps:
            for name, table in tables.items():
                if network != own.model and name == "other setting":
                    continue
                label = f"el2n of {name} {percent(keep)}"
                subsets[label] = select(table, "el2n", keep, seed=job.seed)
                about[label] = {"series": f"el2n of {name}", "score": "el2n", "of": name, "keep": keep}
            label = f"grand at 0 {percent(keep)}"
            subsets[label] = select(tables[network], "grand", keep, at=0, seed=job.seed)
            about[label] = {"series": "grand at 0", "score": "grand", "of": network, "keep": keep}
        rows = rows_of(job.compare(subsets, recipe=recipes[network]), about, network=network)
        out += [{"what": "accuracy", "role": "own" if network == own.model else "other", **row} for row in rows]
    return out


def judge(numbers: Numbers) -> list[Verdict]:
    """Claim 8: networks behave alike; scores of one network or setting serve another."""
    networks = names_of(numbers, "network", what="accuracy")
    keep = min(names_of(numbers, "keep", what="accuracy", score="el2n"), key=lambda one: abs(one - 0.5))
    out = []

    def accuracy(network: str, of: str) -> np.ndarray:
        return points(numbers, what="accuracy", network=network, score="el2n", of=of, keep=keep)

    def drawn(network: str) -> np.ndarray:
        return points(numbers, what="accuracy", network=network, series=RANDOM, keep=keep)

    for of in names_of(numbers, "of", what="correlation"):
        rho = column(numbers, "spearman", what="correlation", of=of)
        said = f"EL2N of {networks[0]} and of {'its other setting' if of == 'other setting' else of}"
        out.append(verdict(8, f"{said} rank alike (Spearman above {ALIKE})", rho, margin=ALIKE, unit="Spearman"))
    for network in networks:
        for of in names_of(numbers, "of", what="accuracy", network=network, score="el2n"):
            if of == network:
                continue
            said = f"EL2N of {'another setting' if of == 'other setting' else of} serves {network}"
            out += [
                verdict(
                    8,
                    f"{said} as its own does (within {TOLERANCE:g} point)",
                    accuracy(network, of),
                    accuracy(network, network),
                    margin=-TOLERANCE,
                    unit="points",
                ),
                verdict(8, f"{said} better than random", accuracy(network, of), drawn(network), unit="points"),
            ]

    def gain(network: str) -> np.ndarray:
        init = points(numbers, what="accuracy", network=network, score="grand", of=network, keep=keep)
        return init - drawn(network)

    one, two = networks[0], networks[-1]
    out.append(
        verdict(
            8,
            f"GraNd at initialisation works better, against random, for {one} than for {two}",
            gain(one),
            gain(two),
            unit="points",
            note="DD says so of ResNet18 and ResNet50" if (one, two) != ("resnet18", "resnet50") else "",
        )
    )
    return out


def draw(job: StudyJob, numbers: Numbers) -> dict[str, Figure]:
    from datadiet import figures

    out = {}
    for network in names_of(numbers, "network", what="accuracy"):
        series = names_of(numbers, "series", what="accuracy", network=network)
        curves = {
            name: curve(numbers, "keep", what="accuracy", network=network, series=name)
            for name in series
            if name != FULL
        }
        full = points(numbers, what="accuracy", network=network, series=FULL) / 100
        title = f"{job.data.name}, {network}: kept by whose scores"
        out[f"transfer-{network.replace(' ', '-')}"] = figures.accuracy_against_keep(curves, full=full, title=title)
    return out


STUDIES.register(
    "transfer",
    Study(
        "transfer",
        "Whether scores of one network or setting serve another",
        "DD Fig. 11",
        (8,),
        measure,
        judge,
        draw,
    ),
)
