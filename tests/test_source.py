"""Whose code a function is, and that any change of it is seen, wherever it is written."""

from __future__ import annotations

import functools
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from datadiet.scores import SCORES
from datadiet.source import code_of, is_ours

FILES = {
    "mine/__init__.py": "",
    "mine/nets.py": "import os\nfrom .parts import block\nfrom other import helper\ndef make():\n    return block()\n",
    "mine/parts.py": "def block():\n    import mine.deep.layers\n\n    return mine.deep.layers.F\n",
    "mine/deep/__init__.py": "",
    "mine/deep/layers.py": "F = 1\n",
    "mine/unused.py": "G = 1\n",
    "other.py": "def helper():\n    return 2\n",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [one for one in sys.modules if one.partition(".")[0] in ("mine", "other")]:
        del sys.modules[name]


def test_every_file_of_ones_own_that_a_function_draws_on_counts_and_no_other(place: Path) -> None:
    nets = importlib.import_module("mine.nets")
    nets.make()  # imports the deepest
    before = code_of([nets.make])
    assert before == code_of([nets.make]) == code_of([functools.partial(nets.make)])
    for name, text in FILES.items():
        (place / name).write_text(text + "\n# changed\n")
        assert (code_of([nets.make]) != before) == (name != "mine/unused.py"), name
        (place / name).write_text(text)
    assert code_of([nets.make]) == before


def test_of_a_script_only_the_functions_own_lines_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def of(text: str) -> str | None:
        file = tmp_path / f"script_{abs(hash(text))}.py"
        file.write_text(text)
        space: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(text, str(file), "exec"), space)
        return code_of([space["make"]])

    script = "KEEP = 0.5\ndef make(x):\n    return x + 1\nprint(end='')\n"
    before = of(script)
    assert before is not None
    assert of(script.replace("0.5", "0.7") + "\n# more\n") == before
    assert of(script.replace("x + 1", "x + 2")) != before


def test_what_has_no_source_has_no_fingerprint() -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec("def make(): return 1", space)
    assert code_of([space["make"]]) is None
    assert code_of([]) is None


def test_ours_is_ours_and_nothing_else() -> None:
    assert all(is_ours(entry.compute) for _, entry in SCORES.items())
    for other in (len, Path, lambda: 0, functools.partial(len), code_of.__class__):
        assert not is_ours(other)
    assert is_ours(functools.partial(code_of, []))


def test_an_instance_stands_for_its_class(place: Path) -> None:
    (place / "other.py").write_text("class Score:\n    def __call__(self):\n        return 1\n")
    score = importlib.import_module("other").Score()
    before = code_of([score])
    (place / "other.py").write_text("class Score:\n    def __call__(self):\n        return 2\n")
    assert before is not None
    assert code_of([score]) != before
