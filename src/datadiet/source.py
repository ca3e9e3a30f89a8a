"""Whose code a function is, and what identifies it: the results of one version of it are not those of the next.

What identifies code must not depend on the process that looks: imports are followed by looking for their files,
whatever is imported so far, so that a worker, a script and the command line come to the same.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

LIBRARY = __name__.partition(".")[0]
SCRIPTS = ("__main__", "__mp_main__")  # a script or a notebook, and a script again in a worker
PLAIN = (bool, int, float, complex, str, bytes, type(None))


def is_ours(function: Any) -> bool:
    """Whether a function or class is this library's own; with arguments bound to it, it is somebody's."""
    if isinstance(function, functools.partial):
        return False
    return _top(_module_of(function)) == LIBRARY


def code_of(functions: Iterable[Any]) -> str | None:
    """BLAKE2b of the code behind somebody's functions and classes, 32 hexadecimal digits; None where none is found.

    Of one in a module: the module's file and every file that it imports, directly or not; of an installed package the
    file alone and the package's version. Of one in a script (a module that runs when it is the main one, too) or in a
    notebook, whose other lines are no part of it: its own lines, and those of what it names there.
    """
    looked = _Looked()
    for function in functions:
        looked.root(function)
    if not looked.digests:
        return None
    state = hashlib.blake2b(digest_size=16)
    for digest in sorted(looked.digests):
        state.update(digest)
    return state.hexdigest()


class _Looked:
    """What a search came upon, each file and each object once."""

    def __init__(self) -> None:
        self.digests: set[bytes] = set()
        self.files: set[Path] = set()
        self.objects: dict[int, Any] = {}  # kept, so that no id is given twice

    def add(self, text: bytes) -> None:
        self.digests.add(hashlib.blake2b(text, digest_size=16).digest())

    def root(self, function: Any) -> None:
        """A function or class from anywhere."""
        while isinstance(function, functools.partial):
            for value in (*function.args, *function.keywords.values()):
                self.value(value)
            function = function.func
        function = _plain(function)
        module = sys.modules.get(_module_of(function))
        if _top(_module_of(function)) in (LIBRARY, "builtins"):
            return
        file = None if module is None else _file(module)
        if module is None or file is None or module.__name__ in SCRIPTS or _read(file).guarded:
            self.object(function)
        else:
            self.module(file, module.__name__)

    def module(self, file: Path, name: str) -> None:
        """A file, and the files of one's own that it imports."""
        if _installed(file):
            version = getattr(sys.modules.get(_top(name)), "__version__", "")
            self.add(f"{_top(name)} {version}".encode())
        base = file.parent
        for _ in range(name.count(".") + (file.name == "__init__.py")):
            base = base.parent  # where the top package lies
        waiting = [(file, name)]
        while waiting:
            one, title = waiting.pop()
            if one in self.files:
                continue
            self.files.add(one)
            read = _read(one)
            self.digests.add(read.digest)
            if not _installed(one):
                package = title if one.name == "__init__.py" else title.rpartition(".")[0]
                waiting += _found(read.imports, package, str(base))

    def object(self, thing: Any) -> None:
        """A function or class of a script, and what it names there."""
        thing = _plain(thing)
        if id(thing) in self.objects:
            return
        self.objects[id(thing)] = thing
        if inspect.isclass(thing):
            for base in thing.__bases__:
                self.near(base, thing.__module__)
            for name, value in sorted(vars(thing).items()):
                if _is_written(value) and not name.startswith("__"):
                    self.add(f"{thing.__name__}.{name} = {value!r}".encode())
                for function in _functions(value):
                    self.object(function)
        elif isinstance(thing, FunctionType):
            try:
                self.add(inspect.getsource(thing).encode())
            except (OSError, TypeError):
                self.add(thing.__code__.co_code + repr(_constants(thing.__code__)).encode())
            for name in sorted(_names(thing.__code__)):
                if name in thing.__globals__:
                    self.near(thing.__globals__[name], thing.__module__, name)

    def near(self, value: Any, home: str, name: str = "") -> None:
        """Something that a script's function names: of the script itself, or from a module."""
        if isinstance(value, ModuleType):
            file = _file(value)
            if file is not None and _top(value.__name__) != LIBRARY and not _installed(file):
                self.module(file, value.__name__)
        elif _is_written(value):
            self.add(f"{name} = {value!r}".encode())
        elif inspect.isclass(value) or isinstance(_plain(value), FunctionType):
            if _module_of(value) == home:
                self.object(value)
            elif _is_own(value):
                self.root(value)
        else:
            self.value(value)

    def value(self, value: Any) -> None:
        """A bound or global value: what it is, as far as a name says it, and its class where that is somebody's."""
        if _is_written(value):
            self.add(repr(value).encode())
        elif inspect.isclass(value) or inspect.isroutine(value) or isinstance(value, functools.partial):
            self.root(value)
        elif _is_own(type(value)):
            self.root(type(value))


def _is_written(value: Any) -> bool:
    """Whether a value is what it looks like: a number, a text, or a list, tuple or dict of such."""
    if isinstance(value, dict):
        return all(_is_written(one) for pair in value.items() for one in pair)
    if isinstance(value, (list, tuple)):
        return all(_is_written(one) for one in value)
    return isinstance(value, PLAIN)


def _is_own(thing: Any) -> bool:
    """Whether a class or function is neither this library's nor that of an installed package."""
    module = sys.modules.get(_module_of(thing))
    if module is None or _top(module.__name__) in (LIBRARY, "builtins"):
        return False
    file = _file(module)
    return module.__name__ in SCRIPTS or (file is not None and not _installed(file))


def _plain(function: Any) -> Any:
    """The function or class that a wrapper, a method or an instance that can be called stands for."""
    function = inspect.unwrap(getattr(function, "__func__", function))
    return function if inspect.isroutine(function) or inspect.isclass(function) else type(function)


def _module_of(function: Any) -> str:
    return str(getattr(_plain(function), "__module__", None) or "")


def _top(name: str) -> str:
    return name.partition(".")[0]


def _functions(value: Any) -> Iterator[FunctionType]:
    """The functions behind an entry of a class."""
    if isinstance(value, property):
        value = [value.fget, value.fset, value.fdel]
    elif isinstance(value, (staticmethod, classmethod)):
        value = [value.__func__]
    else:
        value = [value]
    yield from (one for one in value if isinstance(one, FunctionType))


def _names(code: CodeType) -> set[str]:
    """Every name that a function looks up, and those within it."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _names(constant)
    return found


def _constants(code: CodeType) -> list[Any]:
    return [_constants(c) if isinstance(c, CodeType) else c for c in code.co_consts]


# ------------------------------------------------------------------------------------------------------ files


class _Read:
    """A source file: its digest, what it imports, and whether it does something when it is the main one."""

    def __init__(self, text: bytes) -> None:
        self.digest = hashlib.blake2b(text, digest_size=16).digest()
        self.guarded = False
        self.imports: list[tuple[int, str, tuple[str, ...]]] = []
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            return
        self.guarded = any(_asks(node, "__name__") for node in tree.body)
        self.imports = list(_imports(tree.body))


_files: dict[Path, tuple[tuple[int, int], _Read]] = {}


def _read(file: Path) -> _Read:
    """A file as it is now, parsed once while it does not change."""
    status = file.stat()
    stamp = (status.st_mtime_ns, status.st_size)
    if file not in _files or _files[file][0] != stamp:
        _files[file] = (stamp, _Read(file.read_bytes()))
    return _files[file][1]


def _asks(node: ast.stmt, name: str) -> bool:
    """Whether a statement is an `if` on a name, such as TYPE_CHECKING."""
    return isinstance(node, ast.If) and any(
        (isinstance(part, ast.Name) and part.id == name) or (isinstance(part, ast.Attribute) and part.attr == name)
        for part in ast.walk(node.test)
    )


def _imports(body: Sequence[ast.stmt]) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """(level, module, names) of every import, wherever it stands, but for those that only a type checker makes."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", tuple(alias.name for alias in node.names)
        elif not _asks(node, "TYPE_CHECKING"):
            for part in ("body", "orelse", "finalbody"):
                yield from _imports(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from _imports(handler.body)
        else:
            yield from _imports(getattr(node, "orelse", []))


def _found(imports: Iterable[tuple[int, str, tuple[str, ...]]], package: str, base: str) -> Iterator[tuple[Path, str]]:
    """The files of imported modules, with their names; installed ones are left out."""
    for level, name, names in imports:
        above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
        full = ".".join([*above, name] if name else above)
        for one in (full, *(f"{full}.{part}" for part in names)):
            yield from _modules(one, base)


def _modules(name: str, base: str) -> Iterator[tuple[Path, str]]:
    """The file of a module and of each package that it lies in."""
    places: Sequence[str] = [base, *(place or "." for place in sys.path)]
    parts = name.split(".")
    if not all(parts) or parts[0] == LIBRARY:
        return
    for length in range(1, len(parts) + 1):
        title = ".".join(parts[:length])
        try:
            spec = PathFinder.find_spec(title, list(places))
        except (ImportError, ValueError):
            return
        if spec is None:
            return
        if spec.origin and spec.origin.endswith(".py"):
            file = Path(spec.origin)
            if _installed(file):
                return
            yield file, title
        places = list(spec.submodule_search_locations or [])


def _file(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file) if file and file.endswith(".py") and Path(file).is_file() else None


def _installed(file: Path) -> bool:
    """Whether a file is of the standard library or of an installed package."""
    resolved = file.resolve()
    return any(resolved.is_relative_to(place) for place in _libraries()) or any(
        part in ("site-packages", "dist-packages") for part in resolved.parts
    ) or any(_holds_packages(parent) for parent in resolved.parents)  # fmt: skip


@functools.cache
def _libraries() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    return tuple(Path(paths[key]).resolve() for key in ("stdlib", "platstdlib"))


@functools.cache
def _holds_packages(folder: Path) -> bool:
    """Whether an installer put packages into a folder, as `pip install --target` does."""
    try:
        return any(entry.suffix == ".dist-info" for entry in folder.iterdir())
    except OSError:
        return False
