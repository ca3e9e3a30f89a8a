"""No verdict is hard-coded: numbers for which each claim must hold, and numbers for which it must not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_studies import OURS, rehearsed, world

from datadiet.studies import STUDIES

Row = dict[str, Any]
World = Callable[[Row], Row]


def by_series(**accuracy: float) -> World:
    return lambda row: {"accuracy": accuracy[row["series"].replace(" ", "_")]} if "accuracy" in row else {}


def score_time(row: Row, good: bool) -> Row:
    series, at = row["series"], row.get("at")
    if series == "full data":
        return {"accuracy": 0.95}
    if series == "random":
        return {"accuracy": 0.80 if good else 0.90}
    if series == "forgetting":
        return {"accuracy": 0.90 if good else 0.95}
    if at == 0:
        return {"accuracy": 0.85 if good else 0.89}
    return {"accuracy": 0.90 if good else 0.80}


def pruning_curve(row: Row, good: bool) -> Row:
    half, series = row["keep"] == 0.5, row["series"]
    if good:
        table = {"full data": 0.95, "random": 0.90, "el2n": 0.95, "ccs": 0.92}
        low = {"random": 0.80, "el2n": 0.60, "ccs": 0.85}
    else:
        table = {"full data": 0.95, "random": 0.94, "el2n": 0.90, "ccs": 0.92}
        low = {"random": 0.80, "el2n": 0.90, "ccs": 0.75}
    return {"accuracy": table.get(series, 0.5) if half or series == "full data" else low.get(series, 0.5)}


def sliding_window(row: Row, good: bool) -> Row:
    series, labels, keep, offset = row["series"], row["labels"], row["keep"], row.get("offset", 0.0)
    if series == "full data":
        return {"accuracy": 0.9}
    if series == "random":
        return {"accuracy": 0.85}
    if series == "tuned":
        return {"accuracy": 0.95 if good else 0.5}
    if series == "grand":
        return {"accuracy": 0.7 if good else 0.9}
    top = 1 - keep - offset  # what is left out above
    if keep == 0.5:
        return {"accuracy": (0.9 if top < 0.05 else 0.85) if good else (0.85 if top < 0.05 else 0.9)}
    best = {True: {"clean": 0.01, "noisy": 0.1}, False: {"clean": 0.3, "noisy": 0.0}}[good][labels]
    if not good and top < 0.005:
        return {"accuracy": 0.92 if labels == "noisy" else 0.775}
    return {"accuracy": 0.92 - abs(top - best) / 2 if good else 0.8 - abs(top - best) / 10}


def noise(row: Row, good: bool) -> Row:
    if row["what"] == "rise":
        return {"corrupted": 0.5 if good else -0.5, "clean": 0.0}
    return {"auroc": 0.9 if good else 0.2, "precision": 0.5}


def averaging(row: Row, good: bool) -> Row:
    if row["what"] == "correlation":
        return {"with_all": 0.75 if good else 0.2, "with_others": 0.5}
    if row["what"] == "reliability":
        return {"reliability": 0.8}
    if "k" not in row:
        return {"accuracy": 0.9}
    return {"accuracy": {1: 0.8, 2: 0.9, 4: 0.9}[row["k"]] if good else {1: 0.95, 2: 0.8, 4: 0.9}[row["k"]]}


def transfer(row: Row, good: bool) -> Row:
    if row["what"] == "correlation":
        return {"spearman": 0.8 if good else 0.1}
    if row["series"] == "random":
        return {"accuracy": 0.8}
    if row["series"] == "full data":
        return {"accuracy": 0.95}
    if row["score"] == "grand":
        return {"accuracy": 0.85 if (row["role"] == "own") == good else 0.75}
    return {"accuracy": 0.9 if good or row["of"] == row["network"] else 0.7}


def agreement(row: Row, good: bool) -> Row:
    if row["what"] == "time":
        return {"spearman": (0.95 if row["early"] else 0.3) if good else (0.2 if row["early"] else 0.4)}
    pair = {row["first"], row["second"]}
    if pair == {"el2n", "forgetting"}:
        return {"spearman": 0.9 if good else 0.2}
    return {"spearman": 0.8 if good else 0.3}


def memorization(row: Row, good: bool) -> Row:
    return {"spearman": 0.1 if good else 0.6} if row["what"] == "correlation" else {}


def gallery(row: Row, good: bool) -> Row:
    if row["what"] != "distance":
        return {}
    return {"lowest": 1.0 if good else 2.0, "highest": 2.0 if good else 1.0}


WORLDS: dict[str, Callable[[Row, bool], Row]] = {
    "score-time": score_time,
    "pruning-curve": pruning_curve,
    "sliding-window": sliding_window,
    "noise": noise,
    "averaging": averaging,
    "transfer": transfer,
    "agreement": agreement,
    "memorization": memorization,
    "gallery": gallery,
}


@pytest.mark.parametrize("name", OURS)
def test_every_claim_can_hold_and_can_fail(name: str, tmp_path: Path) -> None:
    _, numbers = rehearsed(name, tmp_path)
    study = STUDIES.get(name)
    for good, outcome in ((True, "holds"), (False, "does not hold")):
        verdicts = study.judge(world(numbers, lambda row, good=good: WORLDS[name](row, good)))
        assert verdicts
        assert {one.claim: one.outcome for one in verdicts} == {one.claim: outcome for one in verdicts}
        assert {one.number for one in verdicts} <= set(study.claims)
        assert len({one.claim for one in verdicts}) == len(verdicts), "each claim is named once"


@pytest.mark.parametrize("name", OURS)
def test_a_single_run_decides_nothing(name: str, tmp_path: Path) -> None:
    _, numbers = rehearsed(name, tmp_path)
    one = [row for row in numbers if row.get("run", row.get("group", 0)) == 0]
    assert {verdict.outcome for verdict in STUDIES.get(name).judge(one)} == {"undecided"}
