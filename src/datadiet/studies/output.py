"""A study on disk: study.json, numbers.parquet, verdicts.json and the figures; and the page of all verdicts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datadiet.store.files import atomic, write_bytes, write_json

if TYPE_CHECKING:
    from datadiet.errors import DatadietError
    from datadiet.studies.execute import StudyResult
    from datadiet.studies.job import StudyJob
    from datadiet.studies.study import Findings, Numbers, Study

SCHEMA = 1


def write_numbers(numbers: Numbers, file: Path, meta: Mapping[str, Any]) -> Path:
    """Rows as Parquet; the same rows give the same bytes. A key that a row lacks is null there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for row in numbers for name in row))
    table = pa.table({name: [row.get(name) for row in numbers] for name in names})
    text = json.dumps({"schema": SCHEMA, **meta}, sort_keys=True)
    with atomic(file) as temporary:
        pq.write_table(table.replace_schema_metadata({"datadiet": text}), temporary, compression="zstd")
    return file


def read_numbers(file: str | Path) -> Numbers:
    """What `write_numbers` wrote; nulls are left out again."""
    import pyarrow.parquet as pq

    rows = pq.read_table(file).to_pylist()
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def write(study: Study, job: StudyJob, findings: Findings, folder: Path, seconds: float, runs: int) -> tuple[Path, ...]:
    """All of a study's files; study.json, which says that the rest is whole, last."""
    from datadiet.figures import save

    about = {"study": study.name, "fingerprint": job.data.fingerprint, "scale": job.scale.name, "seed": job.seed}
    files = [write_numbers(findings.numbers, folder / "numbers.parquet", about)]
    for name, figure in findings.figures.items():
        files += save(figure, folder / file_name(name))
    verdicts = [one.to_json() for one in findings.verdicts]
    write_json(folder / "verdicts.json", {"what": "verdicts", **about, "verdicts": verdicts}, schema=SCHEMA)
    write_json(folder / "study.json", _record(study, job, seconds, runs), schema=SCHEMA)
    return (*files, folder / "verdicts.json", folder / "study.json")


def file_name(name: str) -> str:
    """The name of a figure as that of a file in its folder; a network of one's own is named by its path."""
    return re.sub(r'[\s/\\:*?"<>|-]+', "-", name)


def _record(study: Study, job: StudyJob, seconds: float, runs: int) -> dict[str, Any]:
    """Everything needed to make it again."""
    from dataclasses import asdict

    stages = []
    for stage, plan in job.plans:
        per = plan.recipe.steps_per_epoch(len(plan.data))
        until = max(task.until for _, task in plan.tasks)
        stages.append(
            {
                "stage": stage,
                "fingerprint": plan.data.fingerprint,
                "noise": None if plan.data.noise is None else plan.data.noise.describe(),
                "recipe": plan.recipe.to_json(),
                "runs": len(plan.tasks),
                "run_names": sorted({task.spec.name for _, task in plan.tasks}),
                "steps": until,
                "epochs": until / per,
                "scores": sorted({name for _, task in plan.tasks for name in task.scores}),
                "at": sorted({mark for _, task in plan.tasks for mark in task.marks}),
                "numerics": plan.numerics.to_json(),
            }
        )
    data = job.data
    return {
        "what": "study",
        "study": study.name,
        "answers": study.answers,
        "claims": list(study.claims),
        "scale": asdict(job.scale),
        "dataset": data.name,
        "source": dict(data.source),
        "examples": len(data),
        "classes": len(data.classes),
        "fingerprint": data.fingerprint,
        "noise": None if data.noise is None else data.noise.describe(),
        "noisy_half": None if job.noisy is None or job.noisy.noise is None else job.noisy.noise.describe(),
        "recipe": job.recipe.to_json(),
        "seed": job.seed,
        "early": job.early,
        "scores": list(job.scores),
        "runs": runs,
        "seconds_of_the_last_call": round(seconds, 1),
        "stages": stages,
    }


def page(results: Sequence[StudyResult], failed: Mapping[str, DatadietError], folder: Path) -> list[Path]:
    """`verdicts.md` and `verdicts.json`: every verdict of several studies, and which of them failed."""
    content = {
        "what": "verdicts of studies",
        "studies": {one.study.name: one.to_json() for one in results},
        "failed": {name: str(error) for name, error in failed.items()},
    }
    write_json(folder / "verdicts.json", content, schema=SCHEMA)
    write_bytes(folder / "verdicts.md", markdown(results, failed).encode())
    return [folder / "verdicts.md", folder / "verdicts.json"]


def markdown(results: Sequence[StudyResult], failed: Mapping[str, DatadietError]) -> str:
    """The page of verdicts as a table for people."""
    lines = ["# Verdicts", ""]
    lines += [
        "One rule for all: the 95 % interval of the difference over runs lies on the claimed side (holds), on the"
    ]
    lines += ["other side (does not hold), or across (undecided).", ""]
    lines += ["| claim | study | says | outcome | measured |", "|---|---|---|---|---|"]
    rows = [(one.number, result, one) for result in results for one in result.findings.verdicts]
    for number, result, one in sorted(rows, key=lambda row: row[0]):
        note = f" ({one.note})" if one.note else ""
        cells = (str(number), result.study.name, one.claim, one.outcome, one.measured() + note)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    for name, error in failed.items():
        lines += ["", f"**{name}** failed: {error}"]
    places = [f"- {result.study.name}: `{result.folder}`, {result.seconds:.0f} s" for result in results]
    return "\n".join([*lines, "", *places]) + "\n"
