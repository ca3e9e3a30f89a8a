"""`datadiet show`: what is in a folder or file of ours."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from datadiet.cli import options as o
from datadiet.cli import output
from datadiet.cli.lottery import print_lottery
from datadiet.cli.score import print_summary, summary
from datadiet.cli.select import describe, print_tuned
from datadiet.cli.study import verdicts_table
from datadiet.errors import DatadietError
from datadiet.flows.compare import Comparison
from datadiet.flows.sanity import Sanity
from datadiet.flows.select import load_subset
from datadiet.scores import SCORES, load_table
from datadiet.selection.order import ascending
from datadiet.steps import counted
from datadiet.store import Store
from datadiet.store.files import Damaged, NotOurs, read_json
from datadiet.studies.verdict import Verdict

log = logging.getLogger(__name__)
FILES = ("comparison.json", "lottery.json", "verdicts.json")


def command(
    path: Annotated[Path, typer.Argument(help="A folder that a command wrote, a subset, or a store.")],
    top: Annotated[int, typer.Option("--top", min=0, help="How many of the lowest and highest examples to list.")] = 5,
    by: Annotated[str | None, typer.Option("--by", help="The score to list them by.")] = None,
    json: o.Json = False,
) -> None:
    """Show scores, subsets, comparisons, lotteries, verdicts, or what a store holds."""
    if not path.exists():
        raise DatadietError("no such file or folder", where=path)
    with output.progress(quiet=json):
        if path.is_file():
            _file(path, json)
        elif (path / "manifest.json").exists():
            _scores(path, top, by, json)
            if not json and (compared := path / "comparison.json").exists():
                _result(compared, json, whole=True)
        elif found := [path / name for name in FILES if (path / name).exists()]:
            _result(found[0], json, whole=True)
        elif (path / "store.json").exists():
            _store(path, json)
        elif (page := path / "studies" / "verdicts.json").exists():
            _result(page, json)
        elif studies := _studies_in(path):
            _studies(studies, json)
        else:
            raise DatadietError("nothing of datadiet is in this folder", where=path)


def _file(path: Path, json: bool) -> None:
    if path.suffix == ".safetensors":
        subset = load_subset(path)
        if json:
            output.print_json({"what": "subset", "file": str(path), **describe(subset)})
        else:
            output.print_subset(subset)
    elif path.suffix == ".json":
        _result(path, json)
    else:
        raise DatadietError(
            "is nothing that can be shown", where=path, fix="give a folder, a subset or a .json of datadiet"
        )


def _scores(path: Path, top: int, by: str | None, json: bool) -> None:
    table = load_table(path)
    name = by or next((score for score in table.names if score in SCORES), table.names[0])
    values = table.difficulty(name)
    order = ascending(values, table.fingerprint)
    order = order[values[order] == values[order]]  # undefined scores rank nowhere
    ends = {"easiest": order[:top].tolist(), "hardest": order[::-1][:top].tolist()}
    file = path / "sanity.json"
    page = Sanity.from_json(read_json(file)) if file.exists() else None  # scorings of older versions have none
    if json:
        output.print_json(
            {
                "what": "scores",
                "provenance": dict(table.provenance),
                "summary": summary(table),
                "sanity": None if page is None else page.to_json(),
                "by": name,
                **ends,
            }
        )
        return
    out = output.console()
    about = table.provenance
    out.print(f"{about['dataset']}: {about['recipe']['model']}, {counted(table.runs, 'run')}, seed {about['seed']}")
    print_summary(table)
    for end, rows in ends.items():
        out.print(f"{end} by {name} at step {table.step(name)}:")
        for row in rows:
            label = table.classes[table.labels[row]] if table.classes else table.labels[row]
            identity = f"  {table.ids[row]}" if table.ids is not None else ""
            flag = "  corrupted" if table.corrupted is not None and table.corrupted[row] else ""
            out.print(f"  row {row:>7}  {label:<12}  {table.mean(name)[row]:.4f}{identity}{flag}")
    if page is not None:
        out.print(Text(page.text()))


def _content(path: Path) -> dict[str, Any]:
    """A JSON file of ours."""
    try:
        return read_json(path)
    except Damaged as error:  # or never ours, so that it must not be told to be removed
        raise DatadietError(error.what, where=path, fix="if datadiet wrote it, run that command again") from None
    except NotOurs as error:
        raise DatadietError(error.what, where=path, fix="give a file or folder of datadiet") from None


def _result(path: Path, json: bool, whole: bool = False) -> None:
    """A file of results; where the whole folder is asked for, also what `run` puts beside a comparison."""
    content = _content(path)
    show = RESULTS.get(content.get("what", ""))
    if show is None:
        raise DatadietError("is no comparison, tuned window, lottery or page of verdicts", where=path)
    whole = whole and content["what"] == "comparison"
    tuned = _readable(path.with_name("tuned.json")) if whole else None
    if json:
        output.print_json(content if tuned is None else {**content, "tuned": tuned})
        return
    show(content, path)
    if tuned is not None:
        print_tuned(tuned)
    if whole:
        _rest(path.parent)


def _readable(file: Path) -> dict[str, Any] | None:
    """A file beside the one that is asked for; of one that cannot be read a line says so."""
    try:
        return _content(file) if file.exists() else None
    except DatadietError as error:
        log.warning("%s", error)
        return None


def _rest(folder: Path) -> None:
    """Where the scores, subsets and figures are, in a folder of `run`."""
    if not (folder / "scores" / "manifest.json").exists():
        return
    out = output.console()
    out.print(f"Also in {folder}:")
    for one in (folder / "scores", *sorted(folder.glob("subsets/*.safetensors")), *sorted(folder.glob("*.png"))):
        out.print(f"  {one}")


def _comparison(content: Mapping[str, Any], path: Path) -> None:
    output.console().print(output.comparison_table(Comparison.from_json(content)))


def _verdicts(content: Mapping[str, Any], path: Path) -> None:
    title = f"{content['study']} at scale {content['scale']}, seed {content['seed']}"
    output.console().print(verdicts_table(title, map(Verdict.from_json, content["verdicts"])))


def _studies_in(folder: Path) -> dict[Path, dict[str, Any]]:
    """The verdicts of each study in a folder that was given as --out, or in its `studies`."""
    files = sorted((*folder.glob("*/verdicts.json"), *folder.glob("studies/*/verdicts.json")))
    found = {file.parent: _readable(file) for file in files}
    return {place: content for place, content in found.items() if content and content.get("what") == "verdicts"}


def _studies(found: Mapping[Path, Mapping[str, Any]], json: bool) -> None:
    if json:
        studies = {place.name: content for place, content in found.items()}
        output.print_json({"what": "verdicts of studies", "studies": studies, "failed": {}})
        return
    for place, content in found.items():
        output.console().print(f"{place}:")
        _verdicts(content, place)


def _page(content: Mapping[str, Any], path: Path) -> None:
    for one in content["studies"].values():
        title = f"{one['study']} ({one['answers']})"
        output.console().print(verdicts_table(title, map(Verdict.from_json, one["verdicts"])))
    for name, error in content["failed"].items():
        output.console().print(Text(f"{name} failed: {error}"))


RESULTS: dict[str, Callable[[Mapping[str, Any], Path], None]] = {
    "comparison": _comparison,
    "tuned window": lambda content, path: print_tuned(content),
    "lottery": lambda content, path: print_lottery(content, path.parent),
    "verdicts": _verdicts,
    "verdicts of studies": _page,
}


def _store(path: Path, json: bool) -> None:
    store = Store(path)
    runs: list[dict[str, Any]] = []
    for name in store.runs():
        folder = store.run(name)
        spec = folder.spec() or {}
        runs.append(
            {
                "name": name,
                "purpose": spec.get("purpose", "score"),
                "run": spec.get("run", 0),
                "model": spec.get("recipe", {}).get("model", "small-cnn"),
                "checkpoints": folder.steps(),
                "shards": len(folder.shards()),
                "bytes": folder.bytes(),
            }
        )
    if json:
        output.print_json({"what": "store", "runs": runs, "bytes": store.bytes()})
        return
    from rich.table import Table

    view = Table(title=f"{path}: {counted(len(runs), 'run')}, {output.size(store.bytes())}", title_justify="left")
    for column in ("run", "purpose", "number", "model", "checkpoints", "shards", "size"):
        view.add_column(column)
    for run in runs:
        view.add_row(
            run["name"][:12], run["purpose"], str(run["run"]), run["model"],
            ", ".join(map(str, run["checkpoints"])), str(run["shards"]), output.size(run["bytes"]),
        )  # fmt: skip
    output.console().print(view)
