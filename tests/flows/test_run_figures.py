"""The figures of `run` say what they are of: the dataset with its noise, the score, the step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_flows import RECIPE, setup, tiny

from datadiet import figures
from datadiet.flows import run
from datadiet.flows.compare import Row
from datadiet.flows.rehearsal import made_up_comparison, made_up_scores
from datadiet.flows.tune import Tuned


def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Any) -> dict[str, Any]:
    """The figures of a run of made-up values, by name."""
    plan = run.plan_run(
        data, recipe=RECIPE, scores=["el2n"], runs=1, at=["1ep", "2ep"], keeps=[0.5], out=tmp_path / "out",
        setup=setup(tmp_path / "store"),
    )  # fmt: skip
    table = made_up_scores(plan.scoring)
    subsets = run.subsets_of(plan, table)
    found: dict[str, Any] = {}

    def keep(figure: Any, path: Path) -> list[Path]:
        found[path.name] = figure
        return []

    monkeypatch.setattr(figures, "save", keep)
    tuned = Tuned(0.5, 0.1, ((0.5, 0.1, Row("a window", 0.5, 60, (0.8,))),), 12, next(iter(subsets.values())), None)
    run._figures(plan, table, made_up_comparison(run.comparing(plan, subsets)), tuned)
    assert set(found) == set(run.FIGURES)
    return found


def words_of(figure: Any) -> str:
    heads = [figure._suptitle] if figure._suptitle else []
    for axes in figure.axes:
        heads += [axes._left_title, *(text for text in axes.texts if text.get_gid() == "title")]
    return " ".join(" ".join(text.get_text() for text in heads).split())


@pytest.mark.parametrize(
    ("noise", "name"),
    [
        (None, "tiny:"),
        ("permute", "tiny, 10% of labels permuted:"),
        ("redraw", "tiny, 10% of labels redrawn:"),
        ("given", "tiny, 10% of labels changed:"),
    ],
)
def test_every_figure_names_the_dataset_its_noise_and_the_score(
    noise: str | None, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny()
    if noise == "given":
        data = data.with_labels((data.labels + (np.arange(len(data)) < len(data) // 10)) % 3)
    elif noise:
        data = data.with_noise(noise, 0.1)
    for kind, figure in drawn(tmp_path, monkeypatch, data).items():
        words = words_of(figure)
        assert words.startswith(name), kind
        assert "el2n" in words, kind
        assert "step 14" in words, kind


def test_the_axes_of_the_histograms_name_the_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = drawn(tmp_path, monkeypatch, tiny())["scores"].axes
    assert [one.get_xlabel() for one in axes] == ["el2n", "el2n"]
    assert [one.get_title(loc="left").split("\n")[0] for one in axes] == ["step 7", "step 14"]
