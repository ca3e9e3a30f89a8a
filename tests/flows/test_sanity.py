"""The sanity page: its figures against plain computations, and a sentence for every way a score can be worthless."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from tiny_flows import RECIPE, setup, tiny

import datadiet as dd
from datadiet.data.dataset import from_arrays
from datadiet.errors import DatadietError
from datadiet.flows.sanity import Sanity, input_norms, sanity
from datadiet.scores import SCORES, random
from datadiet.store.files import read_json, write_json

ROWS = 300
DATA = tiny(rows=ROWS, sort=True)


def _norms() -> np.ndarray:
    """Of the inputs, normalised by the mean and deviation of all pixels, in float64."""
    pixels = np.asarray(DATA.gather(np.arange(ROWS)), np.float64).reshape(ROWS, -1)
    return np.sqrt((((pixels - pixels.mean()) / pixels.std()) ** 2).sum(1))


def _table(columns: dict[tuple[str, int], Any], data: Any = DATA) -> dd.ScoreTable:
    """Values by (score, step): (runs, N)."""
    shards = {
        key: [lambda run=run: np.asarray(run, np.float32) for run in np.atleast_2d(values)]
        for key, values in columns.items()
    }
    return dd.ScoreTable(shards, data.labels, data.fingerprint, 10, classes=data.classes)


def _runs(truth: np.ndarray, noise: float, runs: int = 4, seed: int = 0) -> np.ndarray:
    return truth + noise * np.random.default_rng(seed).normal(size=(runs, len(truth)))


TRUTH = np.random.default_rng(9).normal(size=ROWS)


def test_the_figures_are_those_of_plain_computations() -> None:
    early, late = _runs(TRUTH, 1.0, seed=1), _runs(TRUTH + 0.3 * _norms(), 0.5, seed=2)
    page = sanity(_table({("el2n", 10): early, ("el2n", 25): late}), DATA)
    assert [(check.score, check.step, check.epochs, check.runs) for check in page.checks] == [
        ("el2n", 10, 1.0, 4),
        ("el2n", 25, 2.5, 4),
    ]
    for step, values in ((10, early), (25, late)):
        check = page["el2n", step]
        mean = values.astype(np.float32).astype(np.float64).mean(0)
        assert check.input_norm == pytest.approx(scipy.stats.spearmanr(mean, _norms())[0], abs=1e-4)
        r = scipy.stats.spearmanr(values[::2].mean(0), values[1::2].mean(0))[0]
        assert check.reliability == pytest.approx(2 * r / (1 + r), abs=1e-6)
        half = np.argsort(mean)[ROWS // 2 :]
        for label, drift in enumerate(check.drift):
            share = np.mean(DATA.labels[half] == label) - np.mean(DATA.labels == label)
            assert drift == pytest.approx(share, abs=1e-12)
        assert abs(check.drift[check.most or 0]) == max(map(abs, check.drift))
    settled = scipy.stats.spearmanr(early.mean(0), late.mean(0))[0]
    assert page["el2n", 10].settled == pytest.approx(settled, abs=1e-6)
    assert page["el2n", 25].settled is None
    assert page.norms_of == page.examples == ROWS


def test_lower_is_harder_turns_the_drift_but_not_the_correlation() -> None:
    values = _runs(TRUTH + DATA.labels, 0.1)
    page = sanity(_table({("el2n", 10): values, ("aum", 10): values}), DATA)
    np.testing.assert_allclose(page["aum", 10].drift, -np.array(page["el2n", 10].drift), atol=1e-12)
    assert page["aum", 10].input_norm == page["el2n", 10].input_norm


def test_good_scores_are_not_warned_about() -> None:
    page = sanity(_table({("el2n", 10): _runs(TRUTH, 0.3, seed=1), ("el2n", 20): _runs(TRUTH, 0.3, seed=2)}), DATA)
    assert page.warnings == []
    assert "Nothing here speaks against" in page.text()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (_runs(_norms(), 0.01), "follows the norm of the input (rank correlation 1.00)"),
        (_runs(-_norms(), 0.01), "follows the norm of the input (rank correlation -1.00)"),
        (_runs(TRUTH * 0, 1.0), "would rank otherwise with other seeds (split-half reliability"),
        (_runs(TRUTH, 0.3, runs=1), "comes from one run"),
        (np.stack([TRUTH, np.zeros(ROWS)]), "has two halves of runs that do not compare: nothing says"),
        (np.full((4, ROWS), 0.25), "is the same for all examples: it ranks nothing"),
        (_runs(TRUTH + 9 * (DATA.labels == 1), 0.1), "ranks classes as much as examples: class"),
        (np.tile(np.maximum(TRUTH, 0.5), (4, 1)), "examples: among them the order is chance"),
        (np.full((4, ROWS), np.nan), "has no value for any example yet"),
        (np.where(np.arange(ROWS) < 7, np.nan, _runs(TRUTH, 0.1)), "has no value for 7 of 300 examples yet"),
    ],
)
def test_every_way_to_be_worthless_has_its_sentence(values: np.ndarray, words: str) -> None:
    page = sanity(_table({("grand", 0): values}), DATA)
    (line,) = (line for line in page.warnings if words in line)
    assert line.startswith("grand at step 0 ")
    assert line in page.text()
    # The norm itself tells this data's classes apart, which is another sentence.
    assert len(page.warnings) == 1 or "norm" in words


def test_a_score_that_forgets_what_it_said_early_is_warned_about_at_the_early_step() -> None:
    other = np.random.default_rng(5).normal(size=ROWS)
    page = sanity(_table({("el2n", 0): _runs(other, 0.1), ("el2n", 40): _runs(TRUTH, 0.1)}), DATA)
    assert len(page.warnings) == 1
    assert page.warnings[0].startswith("el2n at step 0 ranks unlike itself at step 40")


def test_the_vanished_class_is_named_with_its_shares() -> None:
    values = _runs(TRUTH - 9 * (DATA.labels == 2), 0.1)
    check = sanity(_table({("el2n", 10): values}), DATA)["el2n", 10]
    assert check.most == 2
    assert check.drift[2] == pytest.approx(-1 / 3)
    assert "class 2 is 33.3% of the data and 0.0% of the hardest half" in check.warnings[0]


def test_small_classes_may_be_missing_by_chance() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(100), 4)
    data = from_arrays("many", (rng.normal(size=(400, 5)).astype(np.float32), labels))
    page = sanity(_table({("el2n", 10): _runs(rng.normal(size=400), 0.1)}, data), data)
    assert min(page["el2n", 10].drift) == pytest.approx(-0.01), "a class is missing, or the test shows nothing"
    assert page.warnings == []


def test_the_number_never_learned_is_of_examples_that_no_run_learned() -> None:
    never = np.zeros((3, ROWS))
    never[:, :90] = 1
    never[:2, 90:120] = 1  # learned by the third run
    values = _runs(TRUTH, 0.1, runs=3)
    page = sanity(_table({("forgetting", 10): values, ("never_learned", 10): never, ("el2n", 10): values}), DATA)
    assert page["forgetting", 10].never_learned == 90
    assert page["el2n", 10].never_learned is None
    assert [check.score for check in page.checks] == ["forgetting", "el2n"], "a column is no score"
    assert page.warnings == [
        "forgetting at step 10 puts 90 of 300 examples on top that no run has learned yet, and does not tell them apart"
    ]


def test_controls_are_shown_and_not_warned_about() -> None:
    page = sanity(_table({("input_norm", 0): _norms(), ("random", 0): _runs(TRUTH * 0, 1.0)}), DATA)
    assert page["input_norm", 0].input_norm == pytest.approx(1.0)
    assert abs(page["random", 0].reliability or 1) < 0.5
    assert page.warnings == []


def test_tokens_have_no_norm_and_equal_norms_no_correlation() -> None:
    rng = np.random.default_rng(0)
    tokens = from_arrays("words", ({"input_ids": rng.integers(0, 50, (60, 7))}, np.arange(60) % 3))
    assert input_norms(tokens, np.arange(60)) is None
    page = sanity(_table({("el2n", 10): rng.normal(size=(2, 60))}, tokens), tokens)
    assert (page["el2n", 10].input_norm, page.norms_of) == (None, 0)
    same = from_arrays("same", (np.tile([[1.0, -1.0], [-1.0, 1.0]], (30, 1)), np.arange(60) % 3))
    assert sanity(_table({("el2n", 10): rng.normal(size=(2, 60))}, same), same)["el2n", 10].input_norm is None


def test_many_inputs_are_sampled_over_the_whole_range(monkeypatch: pytest.MonkeyPatch) -> None:
    from datadiet.flows import sanity as room

    monkeypatch.setattr(room, "NORMS_OF", 100)
    page = sanity(_table({("el2n", 10): np.stack([_norms(), _norms()])}), DATA)
    assert page.norms_of == 100
    assert page["el2n", 10].input_norm == pytest.approx(1.0)


def test_the_page_comes_back_from_its_file(tmp_path: Path) -> None:
    values = np.where(np.arange(ROWS) < 3, np.nan, _runs(TRUTH, 0.5))
    page = sanity(_table({("el2n", 0): np.ones(ROWS), ("el2n", 10): values, ("dyn_unc", 10): values * np.nan}), DATA)
    write_json(tmp_path / "sanity.json", page.to_json())
    content = read_json(tmp_path / "sanity.json")
    assert Sanity.from_json(content) == page
    assert str(Sanity.from_json(content)) == page.text()
    assert content["what"] == "sanity"
    assert content["warnings"] == page.warnings
    assert len(page.warnings) == 3  # one value for all; three without value; none with any
    json.dumps(content, allow_nan=False)


def test_the_page_of_a_scoring_with_every_score(tmp_path: Path) -> None:
    names = [name for name, entry in SCORES.items() if entry.needs != "children"]
    data = tiny()
    table = dd.score(data, scores=names, runs=2, at=["0", "2ep"], recipe=RECIPE, setup=setup(tmp_path), seed=3)
    page = sanity(table, data)
    assert {check.score for check in page.checks} == set(names)
    trained = {name for name, entry in SCORES.items() if entry.needs == "trajectory"}
    assert {check.score for check in page.checks if check.step == 0} == set(names) - trained
    assert page["input_norm", 0].input_norm == pytest.approx(1.0)
    norms = input_norms(data, np.arange(len(data)))
    assert norms is not None
    np.testing.assert_allclose(table.values("input_norm", "0"), [norms, norms], rtol=1e-6)
    for step in (0, 14):
        drawn = [random(len(data), (3, "score", run), step).numpy() for run in range(2)]
        np.testing.assert_array_equal(table.values("random", f"{step}it"), drawn)
        np.testing.assert_allclose(
            table.mean("margin_sum", f"{step}it"), 1.5 * table.mean("el1n", f"{step}it"), rtol=1e-6
        )
    for name in ("aum", "confidence", "variability", "correctness", "dyn_unc"):
        assert np.isfinite(table.mean(name)).sum() > 90, name
    assert table.spearman("aum", "confidence") > 0.9
    assert Sanity.from_json(page.to_json()) == page


def test_scores_of_another_dataset_are_refused() -> None:
    table = _table({("el2n", 10): _runs(TRUTH, 0.5)})
    with pytest.raises(DatadietError, match="another dataset"):
        sanity(table, DATA.with_noise("permute", 0.2, seed=1))
