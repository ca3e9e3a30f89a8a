"""Whose code a function is, and what identifies it: the results of one version of it are not those of the next."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

LIBRARY = __name__.partition(".")[0]
SCRIPTS = ("__main__", "__mp_main__")  # a script or a notebook, and a script again in a worker


def is_ours(function: Any) -> bool:
    """Whether a function or class is this library's own."""
    return _module_name(function).partition(".")[0] == LIBRARY


def code_of(functions: Iterable[Any]) -> str | None:
    """BLAKE2b of the code behind somebody's functions and classes, 32 hexadecimal digits; None where none is found.

    Of one in a module: the module's file, and every file that it imports, directly or not, of the same package or
    outside of the installed ones. Of one in a script or a notebook, whose other lines are no part of it: its own lines.
    """
    texts: set[bytes] = set()
    for function in functions:
        function = _plain(function)
        module = sys.modules.get(_module_name(function))
        if module is None or module.__name__ in SCRIPTS or _file(module) is None:
            try:
                texts.add(inspect.getsource(function).encode())
            except (OSError, TypeError):
                continue
        else:
            texts |= {file.read_bytes() for file in _files(module)}
    if not texts:
        return None
    state = hashlib.blake2b(digest_size=16)
    for digest in sorted(hashlib.blake2b(text, digest_size=16).digest() for text in texts):
        state.update(digest)
    return state.hexdigest()


def _plain(function: Any) -> Any:
    """The function or class that a partial, a wrapper or an instance that can be called stands for."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    return function if inspect.isroutine(function) or inspect.isclass(function) else type(function)


def _module_name(function: Any) -> str:
    return str(getattr(_plain(function), "__module__", None) or "")


def _files(module: ModuleType) -> set[Path]:
    """The files of a module and of what it imports, as far as they are somebody's own."""
    package = module.__name__.partition(".")[0]
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        one = waiting.pop()
        file = _file(one)
        if file is None or file in found:
            continue
        top = one.__name__.partition(".")[0]
        if top == LIBRARY or (top != package and _installed(file)):
            continue
        found.add(file)
        waiting += [sys.modules[name] for name in _imported(file, one) if name in sys.modules]
    return found


def _file(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file) if file and file.endswith(".py") and Path(file).is_file() else None


def _imported(file: Path, module: ModuleType) -> Iterator[str]:
    """The names of the modules that a file may import, wherever in it."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    parts = module.__name__.split(".")
    if file.name != "__init__.py":
        parts = parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from _with_parents(base)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[: length + 1]) for length in range(len(parts)))


def _installed(file: Path) -> bool:
    """Whether a file is of the standard library or of an installed package."""
    return any(file.resolve().is_relative_to(place) for place in _places())


@functools.cache
def _places() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    places = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    places |= {*site.getsitepackages(), site.getusersitepackages()}
    return tuple(Path(place).resolve() for place in places)
