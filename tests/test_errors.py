"""Errors: one line that names the fault, the place and the mend, in whatever process it was raised."""

from __future__ import annotations

import copy
import pickle

import pytest

from datadiet.errors import DatadietError, Diverged, Interrupted, unknown


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DatadietError("keep is 1.5"), "keep is 1.5"),
        (DatadietError("keep is 1.5", where="--keep"), "--keep: keep is 1.5"),
        (DatadietError("keep is 1.5", fix="at most 1"), "keep is 1.5; at most 1"),
        (DatadietError("keep is 1.5", where="--keep", fix="at most 1"), "--keep: keep is 1.5; at most 1"),
    ],
)
def test_an_error_reads_as_place_fault_and_mend(error, line):
    assert str(error) == line


@pytest.mark.parametrize("kind", [DatadietError, Interrupted, Diverged])
@pytest.mark.parametrize("cross", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_an_error_crosses_a_process_border_whole(kind, cross):
    error = kind("keep is 1.5", where="--keep", fix="at most 1")
    other = cross(error)
    assert type(other) is kind
    assert str(other) == str(error)
    assert (other.what, other.where, other.fix) == ("keep is 1.5", "--keep", "at most 1")


def test_an_unknown_name_lists_what_is_known():
    assert str(unknown("policy", "hard", ["hardest", "easiest"])).endswith(
        "unknown policy 'hard'; did you mean hardest? Known: easiest, hardest"
    )
    assert str(unknown("policy", "zzz", [])) == "unknown policy 'zzz'; known: none"
    assert str(unknown("policy", 7, ["window"], where="--policy")) == "--policy: unknown policy '7'; known: window"
