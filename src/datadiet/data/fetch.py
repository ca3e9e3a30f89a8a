"""Published files: looked for in the user's folders, then in the cache, else downloaded there, resumably.

A download grows a `.part` file that is kept between attempts and continued with an HTTP range; it takes its
final name only when its published MD5 is right. A reader verifies what it finds by the same table.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from datadiet.data.buffers import cache_dir, writing
from datadiet.errors import DatadietError
from datadiet.machine import expanded

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int | None], None]  # file name, bytes so far, bytes in all where known
ATTEMPTS = 4
TIMEOUT = 30.0  # seconds without a byte
BLOCK = 1 << 18


@dataclass(frozen=True)
class Published:
    """A file as its publisher offers it.

    Args:
        name: its file name.
        md5: the published checksum.
        urls: where to get it, tried in turn.
        aliases: other names under which people keep it.
    """

    name: str
    md5: str
    urls: tuple[str, ...]
    aliases: tuple[str, ...] = ()


def places(name: str, data_dir: str | os.PathLike[str] | None, subfolders: Sequence[str] = ()) -> list[Path]:
    """The folders a named dataset may lie in, most specific first: in `data_dir`, then in the cache.

    A data_dir that does not exist is an error: a mistyped path must not start a download.
    """
    roots = []
    if data_dir is not None:
        roots.append(given_folder(data_dir))
    roots.append(cache_dir())
    return [
        folder for root in roots for folder in (*(root / sub for sub in (name, *subfolders)), root) if folder.is_dir()
    ]


def given_folder(data_dir: str | os.PathLike[str]) -> Path:
    """The folder that a user named, which must be there."""
    root = expanded(data_dir)
    if not os.path.exists(root):
        raise DatadietError("no such folder", where=root, fix="check data_dir (--data-dir)")
    if not root.is_dir():
        raise DatadietError("not a folder", where=root, fix=f"load {str(root)!r} itself, without a name")
    return root


def find(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """The first of `names` in the first of `folders` that has one."""
    for folder in folders:
        for name in names:
            if (folder / name).exists():
                return folder / name
    return None


def find_or_fetch(
    name: str,
    files: Sequence[Published],
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
    *,
    subfolders: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[Path]:
    """The paths of a dataset's files, downloaded to the cache where they are not at hand.

    Args:
        name: the dataset; also its folder in the cache.
        files: what is needed.
        data_dir: the user's folder, looked at first; nothing is ever written into it.
        download: False to look only.
        subfolders: further usual names of the dataset's folder.
        progress: called with (file name, bytes so far, bytes in all or None).
    """
    folders = places(name, data_dir, subfolders)
    paths = {file.name: find(folders, (file.name, *file.aliases)) for file in files}
    for file in files:
        lacking = [one for one in files if paths[one.name] is None]
        if lacking and not download:
            raise missing(name, lacking, data_dir)
        if file in lacking:
            try:
                paths[file.name] = fetch(file, cache_dir() / name, progress=progress)
            except OSError as error:
                raise missing(name, lacking, data_dir, error) from error
    return [path for path in paths.values() if path is not None]


def missing(
    name: str,
    files: Sequence[Published],
    data_dir: str | os.PathLike[str] | None,
    error: Exception | None = None,
) -> DatadietError:
    """The one line that says which files to put where."""
    reason = getattr(error, "reason", error)
    names = ", ".join(file.name for file in files)
    what = "not there" if error is None else f"not there, and cannot be downloaded ({reason})"
    folder = cache_dir() / name if data_dir is None else expanded(data_dir)
    return DatadietError(
        f"{names} {what}",
        where=name,
        fix=f"get {' and '.join(file.urls[0] for file in files)}, put into {folder}, "
        "or name another folder with data_dir (--data-dir)",
    )


def fetch(file: Published, folder: Path, *, progress: Progress | None = None) -> Path:
    """Download one file into `folder`, continuing what an earlier attempt left.

    Raises:
        DatadietError: the checksum is wrong although the file was downloaded from its first byte, or the
            folder is not writable or full.
        OSError: the network failed ATTEMPTS times at every address.
    """
    final, part = folder / file.name, folder / f"{file.name}.part"
    with writing(folder), _alone(folder):
        if final.exists():  # another process was faster
            return final
        return _attempt(file, part, final, progress)


def _attempt(file: Published, part: Path, final: Path, progress: Progress | None) -> Path:
    failure: OSError = OSError("no address is known")
    with part.open("ab") as stream:
        for url in file.urls:
            for attempt in range(ATTEMPTS):
                resumed = stream.seek(0, os.SEEK_END) > 0
                try:
                    _receive(url, stream, file.name, progress)
                except urllib.error.HTTPError as error:
                    failure = error
                    if error.code == 416 and resumed:  # the part is as long as the file, or longer
                        pass
                    elif error.code < 500 and error.code != 429:
                        break
                    else:
                        time.sleep(0.2 * attempt)
                        continue
                except (
                    urllib.error.URLError,
                    ConnectionError,
                    TimeoutError,
                    http.client.HTTPException,
                ) as error:
                    failure = error if isinstance(error, OSError) else OSError(f"{type(error).__name__}: {error}")
                    log.info("%s: %s; attempt %d of %d", file.name, failure, attempt + 1, ATTEMPTS)
                    time.sleep(0.2 * attempt)
                    continue
                if md5(part) == file.md5:
                    os.replace(part, final)
                    return final
                stream.truncate(0)
                failure = OSError("wrong checksum")
                if not resumed:
                    raise DatadietError(
                        f"wrong checksum: not the published file (MD5 {file.md5})",
                        where=url,
                        fix="try again later, or get the file by another way",
                    )
                log.info("%s: the continued download has a wrong checksum, once more from its start", file.name)
    raise failure


def md5(path: Path) -> str:
    state = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def check_md5(content: bytes, expected: str, *, where: object) -> None:
    """Refuse content that is not the published one."""
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != expected:
        raise DatadietError(
            f"wrong checksum: this is not the published file (MD5 {expected})",
            where=where,
            fix="delete it and download again",
        )


def _receive(url: str, stream: IO[bytes], name: str, progress: Progress | None) -> None:
    """Append what is missing of `url` to `stream`; ConnectionError where the connection ends early."""
    done = stream.seek(0, os.SEEK_END)
    request = urllib.request.Request(url, headers={"User-Agent": "datadiet"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        continued = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {done}-")
        if done and not continued:
            stream.truncate(0)
            done = stream.seek(0)
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length is not None and length.isdigit() else None
        log.info("%s %s%s", "continuing" if done else "downloading", url, f" ({total >> 20} MiB)" if total else "")
        said = time.monotonic()
        while block := answer.read(BLOCK):
            stream.write(block)
            done += len(block)
            if progress is not None:
                progress(name, done, total)
            if time.monotonic() - said > 10:
                said = time.monotonic()
                log.info("%s: %d of %s MiB", name, done >> 20, "?" if total is None else total >> 20)
        stream.flush()
        if total is not None and done < total:
            raise ConnectionError(f"the connection ended after {done} of {total} bytes")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one process at a time downloads into a folder; the others wait, then find the file there."""
    try:
        import fcntl
    except ImportError:  # Windows; there two processes may download the same file twice
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems lock no folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
