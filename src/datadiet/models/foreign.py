"""A user's own network: "package.module:function" or "path/to/file.py:function", found, called and checked.

The function is called with `input_shape=` and `classes=` as far as its signature takes them, and with the
model's arguments; it returns an `nn.Module`. A class that is a module serves as well.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from datadiet.errors import DatadietError, unknown
from datadiet.machine import expanded
from datadiet.models.options import check_arguments


def is_foreign(name: str) -> bool:
    """Whether a model's name says where to find it."""
    return ":" in name


def build_foreign(name: str, input_shape: Sequence[int], classes: int, arguments: Mapping[str, Any]) -> nn.Module:
    """Import, call, check. Everything that can go wrong is one line that names the model."""
    function, folder = _find(name)
    offered = {"input_shape": tuple(input_shape), "classes": classes}
    check_arguments(function, arguments, name, given=list(offered))
    passed = {key: value for key, value in offered.items() if _takes(function, key)} | dict(arguments)
    with _importing_from(folder):
        try:
            model = function(**passed)
        except DatadietError:
            raise
        except (Exception, SystemExit) as error:  # the user's code may raise anything; its own words say what
            given = ", ".join(f"{key}={value!r}" for key, value in passed.items()) or "nothing"
            raise DatadietError(
                f"{type(error).__name__}: {first_line(error)}",
                where=f"model {name}",
                fix=f"it was called with {given}",
            ) from error
    if not isinstance(model, nn.Module):
        raise DatadietError(f"returned {type(model).__name__}", where=f"model {name}", fix="return a torch.nn.Module")
    return model


def find(name: str) -> Callable[..., Any]:
    """The function that a model's name says where to find."""
    return _find(name)[0]


def _find(name: str) -> tuple[Callable[..., Any], Path]:
    """The function, and the folder that its own imports are looked for in."""
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise DatadietError(f"{name!r} is not a model", fix="write package.module:function or path/to/file.py:function")
    if place.endswith(".py"):
        path = expanded(place)
        module, folder = _load_file(path, name), path.resolve().parent
    else:
        module, folder = _load_module(place, name), Path.cwd()
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [key for key in dir(found) if not key.startswith("_") and callable(getattr(found, key))]
            raise unknown(f"function in {place}", part, public, where=f"model {name}")
        found = getattr(found, part)
    if not callable(found):
        raise DatadietError(f"{attribute} is a {type(found).__name__}", where=f"model {name}", fix="name a function")
    return found, folder


def _load_module(place: str, name: str) -> ModuleType:
    with _importing_from(Path.cwd()):
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            missing = error.name or place
            if place == missing or place.startswith(missing + "."):
                raise DatadietError(
                    f"there is no module {missing}",
                    where=f"model {name}",
                    fix="start where it can be imported, or write path/to/file.py:function",
                ) from error
            raise DatadietError(
                f"{place} imports {missing}, which is not there",
                where=f"model {name}",
                fix=f"install {missing}",
            ) from error
        except (Exception, SystemExit) as error:  # whatever the user's module raises while it is imported
            raise _broken(name, place, error) from error


def _load_file(path: Path, name: str) -> ModuleType:
    if not path.is_file():
        raise DatadietError(f"there is no file {path}", where=f"model {name}", fix="check the path")
    # Named by its content: a file that has changed is another module, its old classes stay what they were.
    digest = hashlib.blake2b(os.fsencode(path.resolve()) + b"\0" + path.read_bytes(), digest_size=8)
    title = f"_datadiet_model_{digest.hexdigest()}"
    if title in sys.modules:
        return sys.modules[title]
    spec = importlib.util.spec_from_file_location(title, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[title] = module
    with _importing_from(path.resolve().parent):
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # whatever the user's file raises while it is read
            del sys.modules[title]
            raise _broken(name, path, error) from error
    return module


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """The folder first on the import path, and off it again."""
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _takes(function: Callable[..., Any], parameter: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    own = parameters.get(parameter)
    if own is not None:
        return own.kind in (own.POSITIONAL_OR_KEYWORD, own.KEYWORD_ONLY)
    return any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _broken(name: str, place: object, error: BaseException) -> DatadietError:
    return DatadietError(
        f"{place} cannot be imported, {type(error).__name__}: {first_line(error)}",
        where=f"model {name}",
        fix="mend it, then start again",
    )


def first_line(error: BaseException) -> str:
    """What an error says of itself, in one line."""
    return (str(error).strip().splitlines() or ["no message"])[0]
