"""JSON and safetensors files with a schema version and a checksum; written whole or not at all.

A safetensors file of ours carries one metadata entry, `datadiet`, a JSON string with `schema`, `checksum`
and `meta`. One entry, because the format does not order several, and the same input shall give the same
bytes. The checksum (BLAKE2b) covers every byte of the file, header included, with its own digits read as
zeros: no name, shape, metadata or value can change unseen. Any safetensors reader opens these files.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap as memory
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datadiet.errors import DatadietError
from datadiet.store.atomic import atomic, explain, remove_strays, size, writable_folder, write_bytes

__all__ = [
    "Damaged", "NotOurs", "atomic", "bears_our_mark", "explain", "read_json", "read_tensors", "remove_strays", "size",
    "writable_folder", "write_bytes", "write_json", "write_tensors",
]  # fmt: skip

TENSOR_SCHEMA = 1
_KEY = "datadiet"
_DIGEST = 32
_BLANK = "0" * (2 * _DIGEST)
_CHUNK = 1 << 24
FOREIGN = "give another path, or where datadiet made it, make it again"  # nothing tells whose file it is
_LONGEST_HEADER = 100_000_000  # the limit of the safetensors library

# safetensors name -> little-endian numpy type; bfloat16 and the 8-bit floats exist in torch only.
_NUMPY = {
    "BOOL": "|b1", "U8": "|u1", "I8": "|i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8",
}  # fmt: skip
_TORCH_ONLY = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
_FROM_NUMPY = {np.dtype(code): name for name, code in _NUMPY.items()}
_FROM_TORCH = {name: code for code, name in _TORCH_ONLY.items()}


class Damaged(DatadietError):
    """A file that is truncated or whose content does not match its checksum."""


class NotOurs(DatadietError):
    """A whole file that another program wrote: nobody may be told to remove it."""


# ------------------------------------------------------------------------------------------------ JSON


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any], *, schema: int = 1) -> None:
    """Write a dict as JSON, keys sorted, and add its version and checksum as `schema` and `checksum`."""
    if "schema" in content or "checksum" in content:
        raise ValueError("the keys 'schema' and 'checksum' are the file's own")
    body = json.loads(_canonical({**content, "schema": schema}))
    body["checksum"] = _digest(body)
    text = json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    # Bytes of a file's name that are no UTF-8 are written as JSON escapes them.
    write_bytes(path, (text + "\n").encode(errors="backslashreplace"))


def read_json(path: str | os.PathLike[str], *, schema: int = 1) -> dict[str, Any]:
    """Read what `write_json` wrote, without `schema` and `checksum`.

    Raises:
        Damaged: the file is truncated or altered.
        NotOurs: it is whole and another program's.
        DatadietError: it cannot be read, or was written by a newer version (a schema above `schema`).
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise explain(error, path) from error
    try:
        body = json.loads(data.decode())
        if not (isinstance(body, dict) and ("schema" in body or "checksum" in body)):
            raise _not_ours(path)
        found = body["schema"]
        if not isinstance(found, int):
            raise TypeError("schema")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, "not a whole JSON file of datadiet", FOREIGN) from error
    _refuse_newer(path, found, schema)
    checksum = body.pop("checksum", None)
    try:
        whole = checksum == _digest(body)
    except ValueError:  # a number that one changed letter made infinite
        whole = False
    if not whole:
        raise _damaged(path, "its checksum does not match")
    del body["schema"]
    return dict(body)


def bears_our_mark(path: str | os.PathLike[str]) -> bool:
    """Whether a file that cannot be read was ours, as far as one can see; an empty one is nobody's loss."""
    with open(path, "rb") as file:
        beginning = file.read(1 << 20)
    return not beginning.strip(b"\0 \n") or any(
        mark in beginning for mark in (b'"checksum"', b'"schema"', f'"{_KEY}"'.encode())
    )


# --------------------------------------------------------------------------------------------- tensors


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Any], meta: Mapping[str, Any] | None = None
) -> None:
    """Write named arrays (numpy, memory maps, torch tensors of any device) and a dict of JSON values.

    The same arrays and `meta` give the same bytes, in whatever order they come. Arrays are written one after
    another without a copy where their memory is contiguous.
    """
    described: dict[str, tuple[str, list[int], Callable[[], np.ndarray]]] = {
        name: _describe(name, value) for name, value in tensors.items()
    }
    # Widest type first keeps every array aligned to its element size.
    order = sorted(described, key=lambda name: (-_width(described[name][0]), name))
    entries: dict[str, Any] = {}
    offset = 0
    for name in order:
        code, shape, _ = described[name]
        end = offset + _width(code) * math.prod(shape)
        entries[name] = {"dtype": code, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    own = json.loads(_canonical(dict(meta or {})))
    blank = _header(entries, own, _BLANK)
    state = hashlib.blake2b(blank, digest_size=_DIGEST)
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(blank)
        for name in order:
            data = described[name][2]().data
            for start in range(0, len(data), _CHUNK):
                state.update(data[start : start + _CHUNK])
                file.write(data[start : start + _CHUNK])
        file.seek(0)
        file.write(_header(entries, own, state.hexdigest()))


def read_tensors(
    path: str | os.PathLike[str], *, mmap: bool = False, as_torch: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what `write_tensors` wrote: the arrays by name, and `meta`. The checksum is always verified.

    Args:
        mmap: map the file instead of reading it into memory; changes to the arrays stay in this process.
        as_torch: give torch tensors instead of numpy arrays. Types that numpy does not have (bfloat16) come
            as torch tensors either way.

    Raises:
        Damaged: the file is truncated or altered.
        NotOurs: it is whole and another program's.
        DatadietError: it cannot be read, is no such file, or was written by a newer version.
    """
    try:
        with open(path, "rb") as file:
            length = os.fstat(file.fileno()).st_size
            if length < 8:
                raise _damaged(path, "it is truncated", FOREIGN)
            buffer: Any
            if mmap:
                buffer = memory.mmap(file.fileno(), 0, access=memory.ACCESS_COPY)
            else:
                buffer = bytearray(length)
                length = file.readinto(buffer)
    except OSError as error:
        raise explain(error, path) from error
    view = memoryview(buffer)[:length]
    start = 8 + int.from_bytes(view[:8], "little")
    if start > length or start > _LONGEST_HEADER:
        raise _damaged(path, "it is truncated or no safetensors file", FOREIGN)
    try:
        entries = json.loads(bytes(view[8:start]).decode())
        metadata = entries.pop("__metadata__", {})
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, "its header is not readable", FOREIGN) from error
    if not (isinstance(metadata, dict) and _KEY in metadata):
        raise _not_ours(path)
    try:
        own = json.loads(metadata[_KEY])
        found, checksum, meta = own["schema"], own["checksum"], own["meta"]
        if not (isinstance(found, int) and isinstance(checksum, str) and len(checksum) == len(_BLANK)):
            raise TypeError("schema or checksum")
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, "it carries no checksum of datadiet") from error
    _refuse_newer(path, found, TENSOR_SCHEMA)
    blank = bytes(view[:start]).replace(checksum.encode(), _BLANK.encode(), 1)
    state = hashlib.blake2b(blank, digest_size=_DIGEST)
    for position in range(start, length, _CHUNK):
        state.update(view[position : position + _CHUNK])
    if state.hexdigest() != checksum:
        raise _damaged(path, "its checksum does not match")
    # From here on the bytes are those that write_tensors made, so the offsets can be trusted.
    return {name: _array(view[start:], entry, as_torch) for name, entry in sorted(entries.items())}, meta


def _describe(name: str, value: Any) -> tuple[str, list[int], Callable[[], np.ndarray]]:
    """safetensors type, shape, and a function that gives the bytes; nothing is copied before it is called."""
    if name == "__metadata__":
        raise ValueError("a tensor cannot be called '__metadata__'")
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        little = array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype
        if little not in _FROM_NUMPY:
            raise TypeError(f"tensor {name!r}: arrays of type {array.dtype} cannot be stored")
        return (
            _FROM_NUMPY[little],
            list(array.shape),
            lambda: np.ascontiguousarray(array, dtype=little).reshape(-1).view(np.uint8),
        )
    import torch  # late: files of plain arrays are read and written without it

    if not isinstance(value, torch.Tensor):
        raise TypeError(f"tensor {name!r} is a {type(value).__name__}, not a numpy array or torch tensor")
    label = str(value.dtype).removeprefix("torch.")
    code = _FROM_TORCH.get(label) or _FROM_NUMPY.get(_numpy_type(label))
    if code is None:
        raise TypeError(f"tensor {name!r}: tensors of type {value.dtype} cannot be stored")

    def data() -> np.ndarray:
        flat = value.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
        return np.asarray(flat.view(torch.uint8).numpy())

    return code, list(value.shape), data


def _numpy_type(label: str) -> Any:
    try:
        return np.dtype(label)
    except TypeError:  # torch has types that numpy has not
        return None


def _array(data: memoryview, entry: dict[str, Any], as_torch: bool) -> Any:
    begin, end = entry["data_offsets"]
    code, shape = entry["dtype"], entry["shape"]
    if code in _NUMPY:
        array = np.frombuffer(data[begin:end], dtype=_NUMPY[code]).reshape(shape)
        if not as_torch:
            return array
        import torch

        return torch.from_numpy(array)
    import torch

    raw = torch.from_numpy(np.frombuffer(data[begin:end], dtype=np.uint8))
    return raw.view(getattr(torch, _TORCH_ONLY[code])).reshape(shape)


def _header(entries: dict[str, Any], meta: Any, checksum: str) -> bytes:
    own = _canonical({"schema": TENSOR_SCHEMA, "checksum": checksum, "meta": meta})
    text = json.dumps({"__metadata__": {_KEY: own}, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _width(code: str) -> int:
    if code in _NUMPY:
        return np.dtype(_NUMPY[code]).itemsize
    return 2 if code == "BF16" else 1


# ---------------------------------------------------------------------------------------------- shared


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, (np.bool_, np.integer, np.floating)):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _digest(body: Any) -> str:
    return hashlib.blake2b(_canonical(body).encode(), digest_size=16).hexdigest()


def _damaged(path: str | os.PathLike[str], how: str, fix: str = "remove it; it can be made again") -> Damaged:
    return Damaged(f"is damaged ({how})", where=os.fspath(path), fix=fix)


def _not_ours(path: str | os.PathLike[str]) -> NotOurs:
    return NotOurs("was not written by datadiet", where=os.fspath(path), fix="give another path")


def _refuse_newer(path: str | os.PathLike[str], found: int, known: int) -> None:
    if found > known:
        raise DatadietError(
            f"was written by a newer datadiet, or is damaged (format {found}, this one reads up to {known})",
            where=os.fspath(path),
            fix="update datadiet, or use another folder",
        )
