"""Whose code a function is, and that any change of it is seen, wherever it is written and whoever looks."""

from __future__ import annotations

import functools
import importlib
import linecache
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datadiet.scores import SCORES
from datadiet.source import code_of, is_ours

NETS = """
import os
from typing import TYPE_CHECKING
from .parts import block
from other import helper
from . import deep

if TYPE_CHECKING:
    from mine.types import T

def make():
    return block()
"""
FILES = {
    "mine/__init__.py": "",
    "mine/nets.py": NETS,
    "mine/parts.py": "def block():\n    import mine.deep.layers\n\n    return mine.deep.layers.F\n",
    "mine/deep/__init__.py": "",
    "mine/deep/layers.py": "import mine.nets\nF = 1\n",
    "mine/types.py": "T = int\n",
    "mine/unused.py": "G = 1\n",
    "other.py": "try:\n    import third\nexcept ImportError:\n    third = None\ndef helper():\n    return 2\n",
    "third/part.py": "H = 1\n",  # a package without an __init__.py, of which nothing is imported
    "fourth.py": "raise RuntimeError('nobody asked for this')\n",
}
NO_PART = {"mine/types.py", "mine/unused.py", "third/part.py", "fourth.py"}


def forget() -> None:
    for name in [one for one in sys.modules if one.partition(".")[0] in ("mine", "other", "third", "train")]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    yield tmp_path
    forget()


def test_every_file_of_ones_own_that_a_function_draws_on_counts_and_no_other(place: Path) -> None:
    nets = importlib.import_module("mine.nets")
    before = code_of([nets.make])
    assert before == code_of([nets.make, nets.make])
    for name, text in FILES.items():
        (place / name).write_text(text + "\n# changed\n")
        assert (code_of([nets.make]) != before) == (name not in NO_PART), name
        (place / name).write_text(text)
    assert code_of([nets.make]) == before


def test_it_does_not_matter_what_else_is_imported(place: Path) -> None:
    nets = importlib.import_module("mine.nets")
    before = code_of([nets.make])
    nets.make()
    for name in ("mine.types", "mine.unused", "mine.deep.layers", "third.part"):
        importlib.import_module(name)
    assert code_of([nets.make]) == before
    script = "import sys; sys.path.insert(0, sys.argv[1]); import mine.nets as n; from datadiet.source import code_of\n"
    ended = subprocess.run(
        [sys.executable, "-c", script + "print(code_of([n.make]))", str(place)], capture_output=True, text=True
    )
    assert ended.stdout.strip() == before, ended.stderr


def test_installed_packages_count_by_their_version_only(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = place / "target"
    (target / "bought-1.0.dist-info").mkdir(parents=True)
    (target / "bought").mkdir()
    (target / "bought" / "__init__.py").write_text("__version__ = '1.0'\n")
    (target / "bought" / "nets.py").write_text("from bought import rest\ndef make():\n    pass\n")
    (target / "bought" / "rest.py").write_text("A = 1\n")
    monkeypatch.syspath_prepend(target)
    bought = importlib.import_module("bought.nets")
    before = code_of([bought.make])
    (target / "bought" / "rest.py").write_text("A = 2\n")
    assert code_of([bought.make]) == before
    sys.modules["bought"].__version__ = "1.1"
    assert code_of([bought.make]) != before
    for name in ("bought", "bought.nets", "bought.rest"):
        sys.modules.pop(name, None)


SCRIPT = """
from functools import partial
KEEP = 0.5
WIDTH = [4, 4]
class Base:
    gain = 3
    def forward(self, x):
        return bend(x) * self.gain
class Net(Base):
    pass
def bend(x):
    return x + 1
def unused(x):
    return x
def make(x):
    return Net(), WIDTH, [bend(y) for y in x]
"""
CHANGES = {
    "KEEP = 0.5": "KEEP = 0.7", "def unused(x):\n    return x": "def unused(x):\n    return 2 * x", "[4, 4]": "[4, 8]",
    "gain = 3": "gain = 4", "bend(x) * self.gain": "bend(x) + self.gain", "return x + 1": "return x + 2",
}  # fmt: skip
OTHER_LINES = {"KEEP = 0.5", "def unused(x):\n    return x"}


@pytest.mark.parametrize("way", ["script", "notebook", "imported"])
def test_of_a_script_the_functions_own_lines_count_and_what_it_names(way: str, place: Path) -> None:
    guard = '\nif __name__ == "__main__":\n    print(make([1]))\n' if way == "imported" else ""
    count = iter(range(100))

    def of(text: str) -> str | None:
        forget()
        if way == "imported":
            (place / "train.py").write_text(text + guard)
            return code_of([importlib.import_module("train").make])
        name = f"<cell {next(count)}>" if way == "notebook" else str(place / f"script_{next(count)}.py")
        if way == "notebook":
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        else:
            Path(name).write_text(text)
        space: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(text, name, "exec"), space)
        return code_of([space["make"]])

    before = of(SCRIPT)
    assert before is not None
    for old, new in CHANGES.items():
        assert SCRIPT.count(old) == 1
        assert (of(SCRIPT.replace(old, new)) == before) == (old in OTHER_LINES), old
    assert of(SCRIPT + "\n# more\n") == before


def test_a_script_and_its_import_are_the_same_code(place: Path) -> None:
    body = (
        SCRIPT + '\nif __name__ == "__main__":\n    from datadiet.source import code_of\n    print(code_of([make]))\n'
    )
    (place / "train.py").write_text(body)
    ended = subprocess.run([sys.executable, str(place / "train.py")], capture_output=True, text=True)
    assert ended.stdout.strip() == code_of([importlib.import_module("train").make]), ended.stderr


def test_without_source_lines_what_they_were_compiled_to_counts() -> None:
    def of(text: str) -> str | None:
        space: dict[str, Any] = {"__name__": "__main__"}
        exec(text, space)
        return code_of([space["make"]])

    assert of("def make(): return 1") == of("def make(): return 1") != of("def make(): return 2")
    assert code_of([]) is None
    assert code_of([len]) is None


def test_ours_is_ours_and_nothing_else() -> None:
    assert all(is_ours(entry.compute) for _, entry in SCORES.items())
    for other in (len, Path, lambda: 0, functools.partial(len), functools.partial(code_of, [])):
        assert not is_ours(other)


def test_an_instance_stands_for_its_class_and_a_partial_for_its_arguments_too(place: Path) -> None:
    text = "class Score:\n    __hash__ = None\n    def __call__(self):\n        return 1\n"
    (place / "other.py").write_text(text)
    score = importlib.import_module("other").Score()
    ours = functools.partial(code_of, [], task=score)
    before = code_of([score]), code_of([ours]), code_of([functools.partial(score, 3)])
    assert None not in before
    assert before[2] != code_of([functools.partial(score, 4)])
    (place / "other.py").write_text(text.replace("return 1", "return 2"))
    after = code_of([score]), code_of([ours]), code_of([functools.partial(score, 3)])
    assert all(one != other for one, other in zip(before, after, strict=True))
