"""Run folders: everything that is known of one run, under the name that says what the run is.

    <root>/store.json                          the version of this layout
    <root>/<na>/<name>/run.json                what the name stands for
    <root>/<na>/<name>/checkpoints/<step>.safetensors
    <root>/<na>/<name>/resume.safetensors      the newest state of an unfinished run
    <root>/<na>/<name>/shards/<score>@<step>.safetensors
    <root>/<na>/<name>/evaluations/<what>@<step>.json
    <root>/<na>/<name>/results/<what>@<step>.safetensors

Every file appears whole or not at all and carries a checksum; one that does not match it is removed with a
line in the log, and counts as not there. This room knows names, arrays and dicts; what they mean is others'
business.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import numpy as np

from datadiet.errors import DatadietError
from datadiet.store.files import Damaged, NotOurs, read_json, read_tensors, remove_strays, write_json, write_tensors
from datadiet.store.lock import FolderLock

log = logging.getLogger(__name__)
T = TypeVar("T")

SCHEMA = 1
_NAME = re.compile(r"[0-9a-f]{8,128}")
_WHOLE: set[tuple[str, int, int]] = set()  # checkpoints that were found whole: file, time of change, size


@dataclass(frozen=True)
class Point:
    """A state of a run: the step it was taken at, torch tensors by name, and what was written with them."""

    step: int
    tensors: dict[str, Any]
    meta: dict[str, Any]


class Store:
    """A folder of run folders.

    Args:
        root: the folder; made at the first write. One that a newer datadiet wrote is refused here.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        try:
            read_json(self._layout, schema=SCHEMA)
        except (Damaged, NotOurs) as error:
            if not self.runs():  # someone else's, which is neither to be removed nor written beside
                raise DatadietError(
                    "is no store.json of datadiet", where=self._layout, fix="give another folder as the store"
                ) from None
            log.warning("%s %s, redoing it", self._layout, error.what)
            with suppress(OSError):
                self._layout.unlink(missing_ok=True)
        except DatadietError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise

    @property
    def _layout(self) -> Path:
        return self.root / "store.json"

    def run(self, name: str, spec: Mapping[str, Any] | None = None) -> RunFolder:
        """The folder of a run, which need not exist yet.

        Args:
            name: the hash of what defines the run, in hexadecimal digits.
            spec: what the hash was made of, as JSON values. It is written with the first result, and compared
                with what is there: a folder that holds another run is an error.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a hash in hexadecimal digits")
        folder = RunFolder(self, name, spec)
        folder.verify()
        return folder

    def runs(self) -> list[str]:
        """The names of the runs that are there, sorted."""
        return sorted(path.parent.name for path in self.root.glob("??/*/run.json"))

    def bytes(self) -> int:
        """Bytes of all files in the store."""
        return _bytes(self.root)

    def prepare(self) -> None:
        """Make the root and `store.json` where they are missing."""
        if not self._layout.exists():
            write_json(self._layout, {"what": "runs of datadiet"}, schema=SCHEMA)

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"


class RunFolder:
    """What is kept of one run; made by `Store.run`. Hold `lock()` while writing."""

    def __init__(self, store: Store, name: str, spec: Mapping[str, Any] | None = None) -> None:
        self.store, self.name = store, name
        self.path = store.root / name[:2] / name
        self._spec = None if spec is None else dict(spec)

    # -- what the run is

    def verify(self) -> None:
        """Refuse a folder whose `run.json` tells of another run than its name, or than the spec given."""
        found = self._read_spec()
        if found is None:
            return
        if found["name"] != self.name:
            raise DatadietError(
                f"holds the run {found['name']}, not the one its folder is named for",
                where=self.path,
                fix="move it back, or remove this folder",
            )
        if self._spec is not None and found["spec"] != _as_json(self._spec):
            raise DatadietError(
                "tells of another run under the same name",
                where=self.path / "run.json",
                fix="remove this folder, or use another store",
            )

    def spec(self) -> dict[str, Any] | None:
        """What defines the run, as given or as its `run.json` says; None where neither is there."""
        if self._spec is not None:
            return self._spec
        found = self._read_spec()
        return None if found is None else dict(found["spec"])

    def prepare(self) -> None:
        """Make the folder and `run.json`; every method that writes calls it."""
        self.store.prepare()
        file = self.path / "run.json"
        if self._spec is not None and not file.exists():
            write_json(file, {"name": self.name, "spec": self._spec}, schema=SCHEMA)

    def lock(self) -> FolderLock:
        """The lock of this folder; taking it clears away what killed processes left unfinished."""
        return FolderLock(self.path, acquired=lambda: remove_strays(self.path))

    # -- states

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, ascending (by name; `has_checkpoint` verifies)."""
        stems = (file.stem for file in self.path.glob("checkpoints/*.safetensors"))
        return sorted(int(stem) for stem in stems if stem.isdigit())

    def save_checkpoint(self, step: int, tensors: Mapping[str, Any], meta: Mapping[str, Any] | None = None) -> None:
        """Keep a state of the run (numpy arrays or torch tensors) for good."""
        self._save(self._checkpoint(step), tensors, {"step": step, "meta": dict(meta or {})})

    def load_checkpoint(self, step: int) -> Point | None:
        """The state at a step; None where there is none or it is damaged (which removes it)."""
        return self._point(self._checkpoint(step), step)

    def has_checkpoint(self, step: int) -> bool:
        """Whether the state is there and whole; a file is read through once a process, while it does not change."""
        try:
            status = self._checkpoint(step).stat()
        except OSError:
            return False
        key = (str(self._checkpoint(step)), status.st_mtime_ns, status.st_size)
        if key not in _WHOLE and self.load_checkpoint(step) is not None:
            _WHOLE.add(key)
        return key in _WHOLE

    def drop_checkpoint(self, step: int) -> None:
        """Remove the checkpoint of a step, where there is one."""
        self._checkpoint(step).unlink(missing_ok=True)

    def save_resume(self, step: int, tensors: Mapping[str, Any], meta: Mapping[str, Any] | None = None) -> None:
        """Replace the state that an interrupted run goes on from."""
        self._save(self.path / "resume.safetensors", tensors, {"step": step, "meta": dict(meta or {})})

    def load_resume(self) -> Point | None:
        """The last `save_resume`; None where there is none or it is damaged (which removes it)."""
        return self._point(self.path / "resume.safetensors", None)

    def drop_resume(self) -> None:
        """Remove the resume point, where there is one."""
        (self.path / "resume.safetensors").unlink(missing_ok=True)

    def latest(self, at_most: int | None = None, serves: Callable[[Point], bool] = lambda point: True) -> Point | None:
        """The good state with the largest step up to `at_most` that serves, be it a checkpoint or the resume point."""

        def fits(step: int) -> bool:
            return at_most is None or step <= at_most

        resume = self.load_resume()
        best = resume if resume is not None and fits(resume.step) and serves(resume) else None
        for step in reversed([step for step in self.steps() if fits(step)]):
            if best is not None and step < best.step:
                break
            checkpoint = self.load_checkpoint(step)
            if checkpoint is not None and serves(checkpoint):
                return checkpoint
        return best

    # -- results

    def save_shard(self, score: str, step: int, values: Any, meta: Mapping[str, Any] | None = None) -> None:
        """Keep one value an example, `(N,)`, as float32; `meta` is what they were computed under."""
        array = np.asarray(values, dtype=np.float32)
        if array.ndim != 1:
            raise ValueError(f"a shard holds one value an example, not an array of shape {array.shape}")
        own = {"run": self.name, "score": score, "step": step, "meta": dict(meta or {})}
        self._save(self._shard(score, step), {"values": array}, own)

    def load_shard(self, score: str, step: int) -> tuple[np.ndarray, dict[str, Any]] | None:
        """The values `(N,)` float32 and their `meta`; None where there are none or they are damaged."""
        found = self._load(self._shard(score, step), {"run": self.name, "score": score, "step": step})
        return None if found is None else (found[0]["values"], found[1]["meta"])

    def has_shard(self, score: str, step: int) -> bool:
        """Whether the values are there and whole: reads and verifies them, so that a plan can count on it."""
        return self.load_shard(score, step) is not None

    def shards(self) -> list[tuple[str, int]]:
        """`(score, step)` of the shards that are there, sorted (by name; `has_shard` verifies)."""
        return sorted(_named(self.path / "shards", ".safetensors"))

    def save_evaluation(self, what: str, step: int, content: Mapping[str, Any]) -> None:
        """Keep a dict of JSON values, such as losses and accuracies, under a name and a step."""
        self.prepare()
        own = {"run": self.name, "what": what, "step": step, "content": dict(content)}
        write_json(self._evaluation(what, step), own, schema=SCHEMA)

    def load_evaluation(self, what: str, step: int) -> dict[str, Any] | None:
        """What `save_evaluation` kept; None where there is nothing or it is damaged (which removes it)."""
        file = self._evaluation(what, step)

        def read() -> dict[str, Any]:
            found = read_json(file, schema=SCHEMA)
            _belongs(file, found, {"run": self.name, "what": what, "step": step})
            return dict(found["content"])

        return _unless_damaged(file, read)

    def evaluations(self) -> list[tuple[str, int]]:
        """`(what, step)` of the evaluations that are there, sorted (by name; `load_evaluation` verifies)."""
        return sorted(_named(self.path / "evaluations", ".json"))

    def save_result(
        self, what: str, step: int, arrays: Mapping[str, Any], meta: Mapping[str, Any] | None = None
    ) -> None:
        """Keep named arrays of any shape under a name and a step, such as a kernel or the losses along a path."""
        own = {"run": self.name, "what": what, "step": step, "meta": dict(meta or {})}
        self._save(self._result(what, step), arrays, own)

    def load_result(self, what: str, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The arrays and their `meta`; None where there is nothing or it is damaged (which removes it)."""
        found = self._load(self._result(what, step), {"run": self.name, "what": what, "step": step})
        return None if found is None else (found[0], found[1]["meta"])

    def bytes(self) -> int:
        """Bytes of all files in the folder."""
        return _bytes(self.path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    # -- places and checks

    def _checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"{_step(step)}.safetensors"

    def _shard(self, score: str, step: int) -> Path:
        return self.path / "shards" / f"{quote(score, safe='')}@{_step(step)}.safetensors"

    def _evaluation(self, what: str, step: int) -> Path:
        return self.path / "evaluations" / f"{quote(what, safe='')}@{_step(step)}.json"

    def _result(self, what: str, step: int) -> Path:
        return self.path / "results" / f"{quote(what, safe='')}@{_step(step)}.safetensors"

    def _save(self, file: Path, tensors: Mapping[str, Any], own: dict[str, Any]) -> None:
        self.prepare()
        write_tensors(file, tensors, {"run": self.name, **own})

    def _load(
        self, file: Path, expected: dict[str, Any], *, as_torch: bool = False
    ) -> tuple[dict[str, Any], dict[str, Any]] | None:
        def read() -> tuple[dict[str, Any], dict[str, Any]]:
            tensors, own = read_tensors(file, as_torch=as_torch)
            _belongs(file, own, expected)
            return tensors, own

        return _unless_damaged(file, read)

    def _point(self, file: Path, step: int | None) -> Point | None:
        expected = {"run": self.name} if step is None else {"run": self.name, "step": step}
        found = self._load(file, expected, as_torch=True)
        return None if found is None else Point(found[1]["step"], found[0], found[1]["meta"])

    def _read_spec(self) -> dict[str, Any] | None:
        file = self.path / "run.json"
        return _unless_damaged(file, lambda: read_json(file, schema=SCHEMA))


def _unless_damaged(file: Path, read: Callable[[], T]) -> T | None:
    """What `read` gives; None where the file is missing, or damaged, which removes it and says so."""
    try:
        return read()
    except (Damaged, NotOurs) as error:  # in a run's own folder every file is ours
        log.warning("%s %s, redoing it", file, error.what)
        with suppress(OSError):  # someone else's store, or one to read only: writing will say so, reading need not
            file.unlink(missing_ok=True)
        return None
    except DatadietError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def _belongs(file: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    # A whole file in the wrong place, copied from another run or renamed.
    for key, value in expected.items():
        if found.get(key) != value:
            raise Damaged(f"is out of place (it says {key} {found.get(key)}, not {value})", where=file)


def _named(folder: Path, ending: str) -> Iterator[tuple[str, int]]:
    for file in folder.glob(f"*@*{ending}"):
        name, _, step = file.name.removesuffix(ending).rpartition("@")
        if step.isdigit():
            yield unquote(name), int(step)


def _step(step: int) -> str:
    if step < 0:
        raise ValueError(f"the step {step} is negative")
    return f"{step:08d}"


def _as_json(content: Any) -> Any:
    # As it reads back: a tuple is a list, a key is a string.
    return json.loads(json.dumps(content))


def _bytes(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):  # another process may just have finished or removed it
            total += file.stat().st_size if file.is_file() else 0
    return total
