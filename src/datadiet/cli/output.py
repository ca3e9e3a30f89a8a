"""What the user sees: tables, the plan, progress bars. Quiet when piped."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from datadiet.engines import Progress as Report
from datadiet.errors import DatadietError
from datadiet.flows.compare import Comparison
from datadiet.flows.estimate import estimates
from datadiet.flows.execute import OnProgress
from datadiet.flows.plan import Plan
from datadiet.selection import Subset
from datadiet.steps import describe
from datadiet.training.recipe import Recipe


class _Unbroken:
    """Standard error for logs and bars: where it is full, or nobody reads it any more, no job stops for that."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.stream.flush()


def console(stderr: bool = False) -> Console:
    """A console that does not fold lines into a narrow default when there is no terminal."""
    file: Any = _Unbroken(sys.stderr) if stderr else None
    return Console(file=file, highlight=False, markup=False, soft_wrap=True)  # names may hold brackets


def print_json(content: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(content, indent=2, default=str) + "\n")


class _Lines(logging.Handler):
    """Log records as plain lines on standard error, above the progress bar where there is one."""

    def __init__(self, to: Console) -> None:
        super().__init__()
        self.to = to

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        self.to.print(Text(f"{prefix}{record.getMessage()}"))


class _Rate(ProgressColumn):
    """Training steps a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} steps/s" if speed >= 10 else f"{speed:.2f} steps/s")


@contextmanager
def progress(quiet: bool = False) -> Iterator[OnProgress | None]:
    """A bar over all jobs of each stage, with rate and time left; None where nobody is looking.

    Log lines go to standard error in either case.
    """
    err = console(stderr=True)
    logger = logging.getLogger("datadiet")
    handler = _Lines(err)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    try:
        if quiet or not err.is_terminal:
            yield None
            return
        bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f} %"),
            _Rate(),
            TimeRemainingColumn(),
            console=err,
            transient=True,
        )
        with bars:
            yield _Stages(bars)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Stages:
    """Job reports to one bar a stage; a stage is what is called the same up to its run number."""

    def __init__(self, bars: Progress) -> None:
        self.bars = bars
        self.jobs: dict[str, tuple[Any, int]] = {}
        self.stages: dict[str, Any] = {}

    def __call__(self, report: Report) -> None:
        stage = "scoring" if report.label.startswith("scoring") else "training"
        bar = self.stages.get(stage)
        if bar is None:
            bar = self.stages[stage] = self.bars.add_task(stage, total=0)
        if report.key not in self.jobs:
            self.jobs[report.key] = (bar, 0)
            self.bars.update(bar, total=(self.bars.tasks[bar].total or 0) + report.total)
        _, done = self.jobs[report.key]
        if report.info.get("waiting"):
            self.bars.update(bar, description=f"{stage}: {report.label} waits for {report.info['waiting']}")
            return
        if report.info.get("resumed"):  # done in another life, and no part of the rate
            self.jobs[report.key] = (bar, report.done)
            self.bars.update(bar, total=(self.bars.tasks[bar].total or 0) - (report.done - done))
            return
        if report.done > done:
            self.jobs[report.key] = (bar, report.done)
            self.bars.update(bar, advance=report.done - done, description=f"{report.label:<24.24}")


def whole_names(table: Table) -> Table:
    """The table, with a first column in which names lose no letter: in a narrow terminal they take several lines.

    They are to be read, or typed. Numbers keep their digits before that, and other texts their words.
    """
    out = console()
    names, *others = table.columns
    kept = 0
    for column in others:
        words = [word for text in (str(column.header), *map(str, column.cells)) for word in text.split()]
        numbers = [str(cell) for cell in column.cells] if column.justify == "right" else []
        column.min_width = max([1, *map(len, words), *map(len, numbers)])
        kept += column.min_width
    texts = [str(names.header), *map(str, names.cells)]
    longest = max(map(len, texts))
    room = out.width - kept - 3 * len(table.columns) - 1  # each has a space on either side, and a line between
    missing = out.measure(table, options=out.options.update(width=100_000)).maximum - out.width
    if missing > 0:
        word = max(len(word) for text in texts for word in text.split())
        names.width = min(max(min(word, 30), longest - missing), max(room - 2, 8))
    names.overflow = "fold"
    return table


def comparison_table(result: Comparison) -> Table:
    """Accuracies as a table: mean, 16th–84th percentile, runs."""
    table = Table(
        title=f"{result.dataset}: {result.split} accuracy after {result.steps:,} steps "
        f"({result.steps / result.steps_per_epoch:g} epochs of all data)",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("trained on")
    for name in ("examples", "mean %", "16th–84th percentile", "runs"):
        table.add_column(name, justify="right")
    for row in result.rows:
        table.add_row(
            row.name,
            f"{row.examples:,}",
            f"{100 * row.mean:.2f}",
            f"{100 * row.low:.2f} – {100 * row.high:.2f}",
            str(row.runs),
        )
    return whole_names(table)


def print_subset(subset: Subset) -> None:
    """How a subset was chosen, and the balance of its classes, by name where the names are known."""
    out = console()
    made = subset.policy
    of = f" of {made['dataset']}" if made.get("dataset") else ""
    out.print(f"{len(subset):,} of {subset.size:,} examples{of}: {', '.join(_chosen(subset))}")
    if subset.balance is None:
        return
    view = Table(title="Class balance", title_justify="left", title_style="bold")
    named = made.get("class_names")
    classes = [str(name) for name in named] if isinstance(named, list) else []
    shown = [classes[k] if k < len(classes) else str(k) for k in range(len(subset.balance["before"]))]
    view.add_column("class")
    for name in ("before", "after", "kept"):
        view.add_column(name, justify="right")
    for name, before, after in zip(shown, subset.balance["before"], subset.balance["after"], strict=True):
        view.add_row(name, f"{before:,}", f"{after:,}", f"{100 * after / before:.1f} %" if before else "")
    out.print(whole_names(view))


# Of a policy: what the line says in words of its own, and what is for the machine.
_SAID = {"name", "keep", "by", "at", "offset", "balanced", "seed", "dataset"}
_UNSAID = {"run", "runs", "recipe", "source", "noise", "tuned", "scored_seed", "class_names"}
_DRAWS_NOTHING = ("hardest", "easiest", "window", "quota")  # no seed changes what they choose


def _chosen(subset: Subset) -> Iterator[str]:
    """The policy, in the order in which one would tell it."""
    made = {key: value for key, value in subset.policy.items() if value is not None}
    if "keep" in made:
        yield f"keep {made['keep']}"
    yield f"policy {made.get('name', 'unknown')}"
    if "by" in made:
        yield f"by {made['by']}" + (f" after {_time(made, subset.size)}" if "at" in made else "")
    if "offset" in made:
        yield f"offset {made['offset']}"
    if made.get("balanced"):
        yield "balanced"
    yield from (f"{key} {value}" for key, value in made.items() if key not in _SAID | _UNSAID)
    if "seed" in made and made.get("name") not in _DRAWS_NOTHING:
        yield f"seed {made['seed']}"


def _time(made: Mapping[str, Any], examples: int) -> str:
    try:
        return describe(made["at"], Recipe.from_json(made["recipe"]).steps_per_epoch(examples))
    except (KeyError, TypeError, ValueError, DatadietError):  # of another version, or of somebody's own making
        return f"{made['at']} steps" if isinstance(made["at"], int) else str(made["at"])


def print_plan(title: str, stages: Sequence[tuple[str, Plan]], notes: Sequence[tuple[str, str]], as_json: bool) -> None:
    """The plan of a --dry-run, with what it will cost."""
    costs = estimates(stages)
    if as_json:
        every: dict[str, list[str]] = {}
        for key, value in notes:
            every.setdefault(key, []).append(value)
        told = {key: values[0] if len(values) == 1 else values for key, values in every.items()}
        print_json({"what": "plan", "title": title, **told, "stages": {n: e.to_json() for n, e in costs}})
        return
    out = console()
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in ("stage", "runs", "in\nstore", "steps", "ms/step", "workers", "disk", "time"):
        table.add_column(name, justify="left" if name == "stage" else "right", overflow="fold")
    for name, e in costs:
        table.add_row(
            name,
            str(e.planned),
            str(e.planned - e.jobs),
            f"{e.steps:,}",
            f"{1000 * e.step_seconds:.1f}" if e.jobs else "",
            str(e.workers) if e.jobs else "",
            size(e.disk_bytes),
            duration(e.seconds),
        )
    if len(costs) > 1:
        total = [e for _, e in costs]
        table.add_section()
        table.add_row(
            "together",
            str(sum(e.planned for e in total)),
            str(sum(e.planned - e.jobs for e in total)),
            f"{sum(e.steps for e in total):,}",
            "",
            "",
            size(sum(e.disk_bytes for e in total)),
            duration(sum(e.seconds for e in total)),
        )
    for key, value in notes:
        out.print(Text(f"{key:<12} {value}"))
    out.print(table)


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds for people: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
