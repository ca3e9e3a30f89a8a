"""A study on disk: study.json, numbers.parquet, verdicts.json and the figures; and the page of all verdicts."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datadiet.errors import DatadietError
from datadiet.flows.environments import environments_of
from datadiet.flows.plan import Runs
from datadiet.flows.score import ScorePlan
from datadiet.flows.score_folder import own_record, refuse_unless_begun
from datadiet.store.files import read_json, write_bytes, write_json
from datadiet.store.parquet import parquet_rows, write_parquet

if TYPE_CHECKING:
    from datadiet.studies.execute import StudyResult
    from datadiet.studies.job import StudyJob
    from datadiet.studies.study import Findings, Numbers, Study

log = logging.getLogger(__name__)
SCHEMA = 1


def write_numbers(numbers: Numbers, file: Path, meta: Mapping[str, Any]) -> Path:
    """Rows as Parquet; the same rows give the same bytes. A key that a row lacks is null there."""
    names = list(dict.fromkeys(name for row in numbers for name in row))
    columns = {name: [row.get(name) for row in numbers] for name in names}
    return write_parquet(file, columns, {"schema": SCHEMA, **meta})


def read_numbers(file: str | Path) -> Numbers:
    """What `write_numbers` wrote; nulls are left out again."""
    return [{name: value for name, value in row.items() if value is not None} for row in parquet_rows(Path(file))]


def write(study: Study, job: StudyJob, findings: Findings, folder: Path, seconds: float, runs: int) -> tuple[Path, ...]:
    """All of a study's files; study.json, which says that the rest is whole, last."""
    from datadiet.figures import save

    before = _files_before(folder)
    about = {"study": study.name, "fingerprint": job.data.fingerprint, "scale": job.scale.name, "seed": job.seed}
    files = [write_numbers(findings.numbers, folder / "numbers.parquet", about)]
    for name, figure in findings.figures.items():
        files += save(figure, folder / file_name(name))
    verdicts = [one.to_json() for one in findings.verdicts]
    write_json(folder / "verdicts.json", {"what": "verdicts", **about, "verdicts": verdicts}, schema=SCHEMA)
    record = {**_record(study, job, seconds, runs), "files": [file.name for file in files]}
    write_json(folder / "study.json", record, schema=SCHEMA)
    for name in before - set(record["files"]):  # figures of scores that were asked for then
        (folder / name).unlink(missing_ok=True)
    return (*files, folder / "verdicts.json", folder / "study.json")


def refuse_another(study: Study, job: StudyJob, folder: Path) -> None:
    """Refuse a folder with the same study of other data, noise, recipe or seed; other runs and scores replace it."""
    found = own_record(folder / "study.json", "study", SCHEMA)
    if found is None:
        refuse_unless_begun(folder / "numbers.parquet", [folder / "verdicts.json"], "study")
    mine = _identity(study, job)
    if found and job.recipe.is_told_by(found.get("recipe")):
        found = {**found, "recipe": mine["recipe"]}
    differ = [key.replace("_", " ") for key, value in mine.items() if found and found.get(key) != value]
    if differ:
        raise DatadietError(
            f"holds another study (other {', '.join(differ)})",
            where=folder,
            fix="choose another --out, or move that folder away",
        )


def _identity(study: Study, job: StudyJob) -> dict[str, Any]:
    return {
        "study": study.name,
        "fingerprint": job.data.fingerprint,
        "noise": None if job.data.noise is None else job.data.noise.describe(),
        "noisy_half": None if job.noisy is None or job.noisy.noise is None else job.noisy.noise.describe(),
        "recipe": job.recipe.to_json(),
        "seed": job.seed,
    }


def _files_before(folder: Path) -> set[str]:
    """What an earlier call of the study wrote, by its own record."""
    try:
        return set(read_json(folder / "study.json", schema=SCHEMA).get("files", []))
    except DatadietError:
        return set()


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
        tasks = plan.whole_tasks if isinstance(plan, ScorePlan) else [task for _, task in plan.tasks]
        paths = plan.paths if isinstance(plan, Runs) else ()
        environments = environments_of([*tasks, *(path for _, path in paths)], plan.data)
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
                "numerics": environments,
            }
        )
    data = job.data
    return {
        "what": "study",
        **_identity(study, job),
        "answers": study.answers,
        "claims": list(study.claims),
        "scale": asdict(job.scale),
        "dataset": data.name,
        "source": dict(data.source),
        "examples": len(data),
        "classes": len(data.classes),
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
    write_bytes(folder / "verdicts.md", markdown(results, failed).encode(errors="backslashreplace"))
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
