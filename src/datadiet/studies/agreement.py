"""How far the scores rank alike: Spearman's matrix, scatters, and GraNd with EL2N against time (DD Figure 12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datadiet.scores import SCORES, ScoreTable
from datadiet.scores.table import rank_correlation
from datadiet.studies.job import StudyJob
from datadiet.studies.scored import every_score
from datadiet.studies.study import STUDIES, Numbers, Study
from datadiet.studies.verdict import Verdict, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALIKE = 0.5  # Spearman's, from which two scores are said to rank alike
CLOSE = 0.9  # from which they are said to be close


def measure(job: StudyJob) -> Numbers:
    names, table = _scored(job)
    early, end = job.curve_step, job.horizon
    out: Numbers = []
    where = _places(names, early, end)
    for i, (first, first_at) in enumerate(where):
        for second, second_at in where[:i]:
            pair = {"first": first, "first_at": first_at, "second": second, "second_at": second_at}
            for run, rho in enumerate(_by_run(table, first, first_at, second, second_at)):
                out.append({"what": "pair", "of": "run", "run": run, **pair, "spearman": rho})
            rho = rank_correlation(table.difficulty(first, first_at), table.difficulty(second, second_at))
            out.append({"what": "pair", "of": "mean", **pair, "spearman": rho})
    for step in table.steps("grand"):
        for run, rho in enumerate(_by_run(table, "grand", step, "el2n", step)):
            about = {"step": step, "epoch": step / job.steps_per_epoch, "early": step == early}
            out.append({"what": "time", "run": run, **about, "spearman": rho})
    return out


def _scored(job: StudyJob) -> tuple[list[str], ScoreTable]:
    """Every score at the step of DD's figure and at the end, and EL2N and GraNd at each of the scale's steps."""
    names = every_score(job)
    marks = sorted({*job.marks, job.curve_step})
    job.score(["el2n", "grand"], marks)
    job.score(names, [job.curve_step])
    return names, _joined(
        job.score(["el2n", "grand"], marks),
        job.score(names, [job.curve_step]),
        job.score(["forgetting"], [job.horizon]),
    )


def _joined(*tables: ScoreTable) -> ScoreTable:
    """Tables of the same runs as one."""
    from dataclasses import replace

    shards = {key: parts for table in tables for key, parts in table.shards.items()}
    return replace(tables[0], shards=shards, _cache={})


def _places(names: list[str], early: int, end: int) -> list[tuple[str, int]]:
    """The scores of the matrix and when each is taken: forgetting at the end, as the paper does, all others early."""
    others = [name for name in names if name not in ("el2n", "grand", "forgetting")]
    papers = [("forgetting", end), ("el2n", early), ("grand", early), ("grand", 0)]
    return [*papers, *((name, early) for name in others)]


def _by_run(table: ScoreTable, first: str, first_at: int, second: str, second_at: int) -> list[float]:
    """Spearman's of each run, both scores turned so that higher is harder."""
    a, b = table.values(first, first_at).astype(np.float64), table.values(second, second_at).astype(np.float64)
    sign = SCORES.get(first).sign * SCORES.get(second).sign
    return [sign * rank_correlation(x, y) for x, y in zip(a, b, strict=True)]


def judge(numbers: Numbers) -> list[Verdict]:
    """Claim 9, of single runs: each run's scores against the same run's others."""

    def rho(first: str, second: str, init: bool = False) -> np.ndarray:
        found = [
            (row["run"], row["spearman"])
            for row in numbers
            if row.get("what") == "pair"
            and row["of"] == "run"
            and {row["first"], row["second"]} == {first, second}
            and (0 in (row["first_at"], row["second_at"])) == init
        ]
        return np.array([value for _, value in sorted(found)])

    def over_time(**where: object) -> np.ndarray:
        rows = [r for r in numbers if r.get("what") == "time" and all(r[k] == v for k, v in where.items())]
        return np.array([row["spearman"] for row in sorted(rows, key=lambda row: row["run"])])

    def means(first: str, second: str, init: bool = False) -> str:
        """What the means over runs have, which are what the paper's figure shows."""
        found = [
            row["spearman"]
            for row in numbers
            if row.get("what") == "pair"
            and row["of"] == "mean"
            and {row["first"], row["second"]} == {first, second}
            and (0 in (row["first_at"], row["second_at"])) == init
        ]
        return f"of the means over runs {found[0]:.2f}" if found else ""

    pairs = {
        "EL2N and forgetting": ("el2n", "forgetting"),
        "GraNd and forgetting": ("grand", "forgetting"),
        "EL2N and GraNd": ("el2n", "grand"),
    }
    out = [
        verdict(
            9,
            f"{said} of a run rank alike (Spearman above {ALIKE})",
            rho(*pair),
            margin=ALIKE,
            unit="Spearman",
            note=means(*pair),
        )
        for said, pair in pairs.items()
    ]
    init = rho("grand", "forgetting", init=True)
    return [
        *out,
        verdict(
            9,
            f"GraNd at initialisation and forgetting of a run rank alike (Spearman above {ALIKE})",
            init,
            margin=ALIKE,
            unit="Spearman",
            note=means("grand", "forgetting", init=True),
        ),
        verdict(
            9,
            "EL2N ranks more like forgetting than GraNd does",
            rho("el2n", "forgetting"),
            rho("grand", "forgetting"),
            unit="Spearman",
        ),
        verdict(
            9,
            f"GraNd is close to EL2N after a few epochs (Spearman above {CLOSE})",
            over_time(early=True),
            margin=CLOSE,
            unit="Spearman",
        ),
        verdict(
            9,
            "GraNd is closer to EL2N after a few epochs than at initialisation",
            over_time(early=True),
            over_time(step=0),
            unit="Spearman",
        ),
    ]


def draw(job: StudyJob, numbers: Numbers) -> dict[str, Figure]:
    from datadiet.figures.lines import lines
    from datadiet.figures.matrix import matrix, scatters

    names, table = _scored(job)
    early, end = job.curve_step, job.horizon
    where = _places(names, early, end)
    labels = [f"{name}, epoch {job.epochs(step)}" if step != early else name for name, step in where]
    square = np.eye(len(where))
    for row in numbers:
        if row.get("what") == "pair" and row["of"] == "mean":
            i = where.index((row["first"], row["first_at"]))
            j = where.index((row["second"], row["second_at"]))
            square[i, j] = square[j, i] = row["spearman"]
    time: dict[float, list[float]] = {}
    for row in numbers:
        if row.get("what") == "time":
            time.setdefault(row["epoch"], []).append(row["spearman"])

    def pair(first: str, first_at: int, second: str, second_at: int) -> tuple[np.ndarray, np.ndarray, str, str]:
        said = (f"{first}, epoch {job.epochs(first_at)}", f"{second}, epoch {job.epochs(second_at)}")
        return table.mean(first, first_at), table.mean(second, second_at), *said

    def titled(first: str, first_at: int, second: str, second_at: int) -> str:
        return f"Spearman {table.spearman(first, second, first_at, second_at):.2f}"

    shown = [
        ("el2n", early, "forgetting", end),
        ("grand", early, "el2n", early),
        ("grand", early, "forgetting", end),
        ("grand", 0, "el2n", early),
        ("grand", 0, "forgetting", end),
        *([("grand", 0, "input_norm", early)] if "input_norm" in names else []),
    ]
    return {
        "agreement-matrix": matrix(
            square,
            labels,
            title=f"{job.data.name}: rank correlation of mean scores",
            note=f"means of {table.runs} runs at epoch {job.epochs(early)}, where no other is named; higher is harder",
        ),
        "agreement-scatter": scatters(
            {f"{place + 1}. {titled(*one)}": pair(*one) for place, one in enumerate(shown)},
            marked=table.corrupted,
            title=f"{job.data.name}: mean scores against each other",
        ),
        "agreement-time": lines(
            {"grand with el2n": time},
            xlabel="epoch",
            ylabel="Spearman correlation within a run",
            title=f"{job.data.name}: GraNd and EL2N of the same run",
            log=True,
        ),
    }


STUDIES.register(
    "agreement",
    Study(
        "agreement",
        "Whether the scores rank the examples alike, and the input norm as a control",
        "DD Fig. 12",
        (9,),
        measure,
        judge,
        draw,
        takes=frozenset({"score"}),
    ),
)
