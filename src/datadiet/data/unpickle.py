"""An unpickler that admits numbers, texts, containers and numpy arrays, and calls nothing else.

CIFAR's official files are pickles. A pickle is a program: it may name any function and have it called. Here
every name it asks for is answered by a stand-in of ours that only notes shape, type and bytes; the arrays are
made from these notes once they are checked, so that not even numpy's own constructors see the file unchecked.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from typing import Any

import numpy as np

from datadiet.errors import DatadietError

_ALLOWED = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    ("__builtin__", "bytes"): "bytes",
    **{(f"numpy.{core}.multiarray", "_reconstruct"): "reconstruct" for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): "frombuffer" for core in ("core", "_core")},
}
_PLAIN = re.compile(r"[|<>=]?[biuf](1|2|4|8)")
_FIX = "do not trust this file; get it again from its publisher"


def unpickle(content: bytes, *, where: object) -> dict[str, Any]:
    """The dictionary in a pickle; its arrays are plain numbers. All else it asks for is an error.

    Args:
        content: the file's bytes.
        where: the file, for errors.

    Returns:
        Keys as text; values are arrays, lists, texts, numbers. Python 2 strings stay bytes.
    """
    try:
        _check_memo(content)
        loaded = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except DatadietError as error:
        raise DatadietError(error.what, where=where, fix=error.fix) from None
    except Exception as error:  # a broken pickle raises whatever its bytes happen to mean
        raise DatadietError(
            "truncated, or not a pickle of arrays", where=where, fix="delete it and download again"
        ) from error
    if not isinstance(loaded, dict):
        raise DatadietError(f"holds a {type(loaded).__name__}, not a dictionary", where=where, fix=_FIX)
    try:
        return {_key(key): _finish(value) for key, value in loaded.items()}
    except DatadietError as error:
        raise DatadietError(error.what, where=where, fix=error.fix) from None


def _check_memo(content: bytes) -> None:
    """Refuse huge memo numbers: the unpickler makes room for any, so four bytes could take all memory."""
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(content):
            raise ValueError(f"memo number {argument} in a file of {len(content)} bytes")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        meaning = _ALLOWED.get((module, name))
        if meaning is None:
            raise DatadietError(
                f"this pickle asks for {f'{module}.{name}'!r}, which is not an array; nothing was executed",
                fix=_FIX,
            )
        return _Name(meaning)

    def persistent_load(self, key: Any) -> Any:
        raise DatadietError("this pickle refers to objects outside itself", fix=_FIX)


class _Name:
    """What a name in a pickle becomes: callable with the arguments numpy writes, and with no others."""

    __slots__ = ("meaning",)

    def __init__(self, meaning: str) -> None:
        self.meaning = meaning

    def __setstate__(self, state: Any) -> None:
        raise _hostile("sets the state of a name")

    def __call__(self, *args: Any) -> Any:
        if self.meaning == "dtype":
            return _Type(*args[:1])
        if self.meaning == "reconstruct":
            if len(args) != 3 or not (isinstance(args[0], _Name) and args[0].meaning == "ndarray"):
                raise _hostile("reconstructs something that is no array")
            return _Array()
        if self.meaning == "frombuffer":
            if len(args) != 4:
                raise _hostile("makes an array in an unknown way")
            content, kind, shape, order = args
            array = _Array()
            array.fill(shape, kind, order in ("F", b"F"), content)
            return array
        if self.meaning == "encode":
            # Python 3 writes the bytes of an array this way for protocols below 3.
            if len(args) != 2 or not isinstance(args[0], str) or args[1] not in ("latin1", b"latin1"):
                raise _hostile("encodes something that is no text")
            return args[0].encode("latin1")
        if self.meaning == "bytes" and not args:  # and this way, when there are none
            return b""
        raise _hostile(f"calls {self.meaning} itself")


class _Type:
    """A dtype as noted by the pickle: a plain number type and its byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any = None) -> None:
        text = code.decode("ascii", "replace") if isinstance(code, bytes) else code
        if not isinstance(text, str) or not _PLAIN.fullmatch(text):
            raise _hostile(f"asks for an array of type {str(text)[:40]!r}; only plain numbers are read")
        self.code, self.order = text.lstrip("|<>="), "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise _hostile("asks for an array of records; only plain numbers are read")
        order = state[1].decode("ascii", "replace") if isinstance(state[1], bytes) else state[1]
        if order not in ("|", "<", ">", "="):
            raise _hostile("names an unknown byte order")
        self.order = order

    def dtype(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class _Array:
    """An array as noted by the pickle: shape, type, order and bytes."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _hostile("describes an array in an unknown way")
        _, shape, kind, fortran, content = state
        self.fill(shape, kind, bool(fortran), content)

    def fill(self, shape: Any, kind: Any, fortran: bool, content: Any) -> None:
        if not isinstance(kind, _Type):
            raise _hostile("describes an array without a type")
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise _hostile("describes an array without a shape")
        if not isinstance(content, (bytes, bytearray)):
            raise _hostile("fills an array with objects")
        dtype = kind.dtype()
        if len(content) != math.prod(shape) * dtype.itemsize:
            raise DatadietError(
                f"an array of shape {shape} has {len(content)} bytes", fix="delete it and download again"
            )
        self.value = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _key(key: Any) -> str:
    if not isinstance(key, (str, bytes)):
        raise DatadietError("its keys are not texts", fix=_FIX)
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else key


def _finish(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.value is None:
            raise _hostile("holds an array without content")
        return value.value
    if isinstance(value, list) and any(isinstance(item, _Array) for item in value):
        return [_finish(item) for item in value]
    if isinstance(value, (_Name, _Type)):
        raise _hostile("holds a name where data is expected")
    return value


def _hostile(what: str) -> DatadietError:
    return DatadietError(f"this pickle {what}; nothing was executed", fix=_FIX)
