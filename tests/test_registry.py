"""The registry: names to entries, ours and other packages'."""

from __future__ import annotations

import logging
from importlib import metadata

import pytest

from datadiet.errors import DatadietError
from datadiet.registry import Registry


class _Point:
    def __init__(self, name, load):
        self.name, self.load = name, load


def _points(monkeypatch, *points):
    asked = []

    def entry_points(*, group):
        asked.append(group)
        return list(points)

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    return asked


def test_a_cell_that_is_run_again_takes_its_own_place_and_no_others():
    registry: Registry[object] = Registry("thing")

    notebook = {"__name__": "__main__", "registry": registry}
    for value in (1, 2):
        exec(f"@registry.register('mine')\ndef mine():\n    return {value}\n", notebook)
        assert registry.get("mine")() == value

    def factory(value):
        def made():
            return value

        return made

    registry.register("made", factory(1))
    with pytest.raises(ValueError, match="two things are called 'made'"):
        registry.register("made", factory(2))
    with pytest.raises(ValueError, match="two things are called 'mine'"):
        registry.register("mine", test_a_cell_that_is_run_again_takes_its_own_place_and_no_others)
    registry.register("number", 2)
    registry.register("number", 2)
    with pytest.raises(ValueError, match="two things are called 'number'"):
        registry.register("number", 3)
    registry.register("short", lambda: 1)
    with pytest.raises(ValueError, match="two things are called 'short'"):
        registry.register("short", lambda: 2)


def test_an_entry_is_found_by_its_name_however_it_was_registered():
    registry: Registry[object] = Registry("thing")

    @registry.register("decorated")
    def decorated():
        return 1

    registry.register("given", 2)
    assert registry.get("decorated") is decorated
    assert registry.get("given") == 2
    assert registry.names() == list(registry) == ["decorated", "given"]
    assert "given" in registry
    assert "other" not in registry


def test_an_unknown_name_is_refused_with_the_nearest_known_ones():
    registry: Registry[int] = Registry("score")
    registry.register("el2n", 1)
    registry.register("forgetting", 2)
    with pytest.raises(DatadietError, match=r"--score: unknown score 'el2'; did you mean el2n\?.*forgetting"):
        registry.get("el2", where="--score")
    with pytest.raises(DatadietError, match="known: el2n, forgetting"):
        registry.get("zzz")


def test_two_entries_cannot_share_a_name_but_one_can_be_registered_twice():
    registry: Registry[str] = Registry("thing")
    registry.register("a", "first")
    registry.register("a", "first")
    with pytest.raises(ValueError, match="two things are called 'a'"):
        registry.register("a", "second")


def test_entries_of_other_packages_are_loaded_once_at_the_first_look(monkeypatch):
    asked = _points(monkeypatch, _Point("theirs", lambda: 7), _Point("ours", lambda: 8))
    registry: Registry[int] = Registry("gradient rule")
    registry.register("ours", 1)
    assert asked == []
    assert registry.get("theirs") == 7
    assert registry.get("ours") == 1, "another package does not replace what is ours"
    assert dict(registry.items()) == {"ours": 1, "theirs": 7}
    assert asked == ["datadiet.gradient_rules"]


def test_a_package_that_does_not_load_is_named_and_spoils_nothing_else(monkeypatch, caplog):
    def broken():
        raise ImportError("no such module")

    _points(monkeypatch, _Point("broken", broken), _Point("good", lambda: 3))
    registry: Registry[int] = Registry("score")
    with caplog.at_level(logging.WARNING):
        assert registry.names() == ["good"]
    assert "'broken'" in caplog.text
    assert "no such module" in caplog.text
