"""The folder of a scoring: what is in it already, whose it is, and the writing of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datadiet.errors import DatadietError
from datadiet.flows.environments import warn_if_mixed
from datadiet.flows.sanity import sanity
from datadiet.flows.tasks import columns, folder_of, gone
from datadiet.scores import ScoreTable, load_table
from datadiet.scores.export import EXAMPLES, SCHEMA, packed_ids, read_shard, shard_path
from datadiet.store.files import Damaged, NotOurs, bears_our_mark, read_json, read_tensors, write_json, write_tensors
from datadiet.store.parquet import parquet_meta

if TYPE_CHECKING:
    from datadiet.flows.score import ScorePlan

log = logging.getLogger(__name__)

IDENTITY = ("fingerprint", "recipe", "seed", "weights", "code")  # what two scorings must share to be one


def refuse_in_the_way(files: Iterable[Path], job: str) -> None:
    """Of files that a job would write over, where nothing says that they are its own."""
    for file in files:
        if file.exists():
            raise DatadietError(
                f"is in the way: nothing says that it is of this {job}",
                where=file,
                fix="choose another --out, or move it away",
            )


def own_record(file: Path, job: str, schema: int = 1) -> dict[str, Any] | None:
    """What a job's own file in its folder says; None where there is none, {} where ours is damaged, which is said."""
    if not file.exists():
        return None
    try:
        return read_json(file, schema=schema)
    except Damaged as error:
        if not bears_our_mark(file):
            refuse_in_the_way([file], job)
        log.warning("%s %s, redoing it", file, error.what)
        return {}


def refuse_unless_begun(table: Path, files: Iterable[Path], job: str) -> None:
    """Of files without a job's own record, which is written last: ours where the table says so, written first."""
    if parquet_meta(table) is None:
        refuse_in_the_way([table, *files], job)


def check_folder(folder: Path, plan: ScorePlan) -> dict[str, Any]:
    """The manifest that is in a scoring folder, if it is of this very scoring; {} where there is none.

    Without one, what has the names of our files must be what an interrupted scoring of these data left.
    """
    file = folder / "manifest.json"
    manifest = own_record(file, "scoring", SCHEMA)
    if manifest is None and (folder / "comparison.json").exists() and (folder / "scores").is_dir():
        raise DatadietError("holds a run, whose scores are in scores/", where=folder, fix="choose another --out")
    if not manifest:
        ours = (file.name, EXAMPLES, "scores.parquet", "sanity.json")
        if not _begun(folder, plan.data.fingerprint):
            refuse_in_the_way([folder / name for name in ours], "scoring")
        return {}
    mine = identity(plan)
    # A folder of before the code was noted says nothing of it.
    differ = [key for key in IDENTITY if manifest.get(key) != mine[key] and (key in manifest or key != "code")]
    if manifest.get("what") != "scores" or differ:
        raise DatadietError(
            f"holds another job's results (other {', '.join(differ) or 'kind'})",
            where=folder,
            fix="choose another --out, or move that folder away",
        )
    return manifest


def _begun(folder: Path, fingerprint: str) -> bool:
    """Whether an interrupted scoring of these data left its examples, which are written before any export."""
    try:
        return bool(read_tensors(folder / EXAMPLES)[1].get("fingerprint") == fingerprint)
    except DatadietError:
        return False


def identity(plan: ScorePlan) -> dict[str, Any]:
    """What a scoring is, as its manifest says it."""
    return {
        "fingerprint": plan.data.fingerprint,
        "recipe": plan.recipe.to_json(),
        "seed": plan.seed,
        "weights": plan.network.weights,
        "code": plan.network.code,
    }


def _whole(file: Path, meta: Mapping[str, Any], ours: bool) -> bool:
    """Whether a shard is there, matches its checksum, and is the one that belongs there.

    Args:
        ours: the folder is of this scoring, so what is not readable as ours was damaged.
    """
    if not file.exists():
        return False
    try:
        return read_tensors(file)[1] == meta
    except NotOurs as error:
        if not ours:
            raise
        log.warning("%s %s, redoing it", file, error.what)
        return False
    except Damaged as error:
        log.warning("%s %s, redoing it", file, error.what)
        return False


def _there(folder: Path, name: str, step: int, runs: int, fingerprint: str) -> bool:
    """Whether the shards of an earlier scoring, whose store may be gone, can still be read."""
    try:
        for run in range(runs):
            read_shard(shard_path(folder, run, name, step), name, step, fingerprint)
    except DatadietError as error:
        log.warning("%s; %s at step %d is left out of the table: ask for it again to have it", error, name, step)
        return False
    return True


def write_folder(folder: Path, plan: ScorePlan, table: ScoreTable, before: Mapping[str, Any]) -> None:
    """The scoring folder: shards first, the manifest that names them after, then the export."""
    data = plan.data
    for run, (_, task) in enumerate(plan.tasks):
        source = folder_of(task)
        for name, step in plan.asked:
            target = shard_path(folder, run, name, step)
            found = source.load_shard(name, step)
            if found is None:
                raise gone(source)
            meta = {"run": source.name, "score": name, "step": step, **found[1]}
            if not _whole(target, meta, bool(before)):
                write_tensors(target, {"values": found[0]}, meta)
    arrays = {"labels": data.labels}
    if data.noise is not None:
        arrays |= {"corrupted": data.corrupted, "chosen": data.chosen, "original": data.original_labels}
    if data.rows is not None:
        arrays["rows"] = data.rows
    if data.train.ids is not None:
        arrays["ids"] = packed_ids(data.train.ids)
    write_tensors(folder / EXAMPLES, arrays, {"fingerprint": data.fingerprint})
    manifest = dict(table.provenance)
    # Runs and steps that were taken by another version of a score's code do not stand beside those of this one.
    codes = {column: code for name, code in plan.tasks[0][1].codes.items() for column in columns([name])}
    taken, asked = before.get("codes", {}), {name for name, _ in plan.asked}
    known = {
        (name, step): runs
        for name, step, runs in before.get("columns", [])
        if (name not in asked or taken.get(name) == codes.get(name))
        and _there(folder, name, step, runs, data.fingerprint)
    }
    manifest["codes"] = {**taken, **{name: codes[name] for name in asked if name in codes}}
    for name, step, runs in manifest["columns"]:
        known[(name, step)] = max(runs, known.get((name, step), 0))
    manifest["columns"] = [[name, step, runs] for (name, step), runs in sorted(known.items())]
    manifest["runs"] = max(known.values())
    earlier = [one for one in before.get("numerics", []) if one not in manifest["numerics"]]
    if earlier:
        manifest["numerics"] = [*earlier, *manifest["numerics"]]
        warn_if_mixed(manifest["numerics"])
    if len(before.get("run_names", [])) > len(manifest["run_names"]):
        manifest["run_names"] = before["run_names"]
    whole = table
    if len(known) > len(plan.asked) or manifest["runs"] > plan.runs:
        write_json(folder / "manifest.json", manifest, schema=SCHEMA)
        whole = load_table(folder)
        object.__setattr__(whole, "ids", data.train.ids)
    whole.to_parquet(folder / "scores.parquet")
    write_json(folder / "sanity.json", sanity(whole, data).to_json())
    write_json(folder / "manifest.json", manifest, schema=SCHEMA)
    object.__setattr__(table, "path", folder)
