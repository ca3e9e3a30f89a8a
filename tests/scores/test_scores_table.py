"""ScoreTable against numpy, scipy and scikit-learn, its export, and the folder it is read from."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from datadiet.errors import DatadietError
from datadiet.flows.select import save_subset
from datadiet.scores import ScoreTable, load_table
from datadiet.scores.export import SCHEMA, packed_ids, shard_path
from datadiet.scores.table import area_under_roc, rank_correlation
from datadiet.selection import Subset
from datadiet.store.files import Damaged, read_tensors, write_json, write_tensors

N = 12


def _table(values, **more):
    """A table of {(score, step): (runs, N)}."""
    shards = {
        key: [lambda row=row: np.asarray(row, np.float32) for row in np.atleast_2d(rows)]
        for key, rows in values.items()
    }
    count = len(np.atleast_2d(next(iter(values.values())))[0])
    more = {"labels": np.arange(count) % 3, "fingerprint": "aa-bb", "steps_per_epoch": 10, **more}
    return ScoreTable(shards=shards, **more)


def _values(seed=0, runs=5, count=N, holes=0.0):
    rng = np.random.default_rng(seed)
    values = rng.normal(2, 1, (runs, count)).astype(np.float32)
    values[rng.random(values.shape) < holes] = np.nan
    return values


# ---------------------------------------------------------------------------------------------- numbers


@settings(max_examples=60)
@given(st.integers(0, 999), st.integers(2, 9), st.sampled_from([0.0, 0.3]))
def test_mean_and_standard_error_are_over_the_runs_that_have_a_value(seed, runs, holes):
    values = _values(seed, runs, holes=holes)
    table = _table({("el2n", 5): values})
    mean, error = table.mean("el2n"), table.sem("el2n")
    assert mean.dtype == error.dtype == np.float64
    for column in range(N):
        there = values[:, column][np.isfinite(values[:, column])].astype(np.float64)
        np.testing.assert_allclose(mean[column], there.mean() if len(there) else np.nan, rtol=1e-12)
        np.testing.assert_allclose(error[column], stats.sem(there) if len(there) > 1 else np.nan, rtol=1e-9, atol=1e-15)


def test_one_run_has_a_mean_and_no_standard_error():
    table = _table({("el2n", 5): _values(runs=1)})
    np.testing.assert_array_equal(table.mean("el2n"), _values(runs=1)[0].astype(np.float64))
    assert np.isnan(table.sem("el2n")).all()
    assert np.isnan(table.reliability("el2n"))


@settings(max_examples=60)
@given(st.integers(0, 999), st.booleans())
def test_rank_correlation_is_scipys_over_what_both_have(seed, tied):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 30))
    if tied:
        a, b = np.round(a), np.round(b)
    a[rng.random(30) < 0.2] = np.nan
    both = np.isfinite(a)
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a[both], b[both]).statistic)


def test_rank_correlation_with_a_constant_or_with_nothing_is_undefined_and_quiet():
    assert np.isnan(rank_correlation(np.ones(5), np.arange(5.0)))
    assert np.isnan(rank_correlation(np.full(5, np.nan), np.arange(5.0)))
    assert np.isnan(rank_correlation(np.arange(1.0), np.arange(1.0)))


def test_spearman_compares_scores_and_steps():
    a, b, c = (_values(seed) for seed in range(3))
    table = _table({("el2n", 5): a, ("el2n", 20): b, ("forgetting", 20): c})
    means = [values.astype(np.float64).mean(0) for values in (a, b, c)]
    wanted = [stats.spearmanr(*pair).statistic for pair in ((means[1], means[2]), (means[0], means[1]))]
    assert table.spearman("el2n", "forgetting") == pytest.approx(wanted[0])
    assert table.spearman("el2n", at="5it", second_at="2ep") == pytest.approx(wanted[1])


@settings(max_examples=60)
@given(st.integers(0, 999), st.booleans(), st.integers(1, 29))
def test_the_area_under_the_curve_is_scikit_learns(seed, tied, positives):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=30)
    if tied:
        values = np.round(values)
    positive = np.arange(30) < positives
    assert area_under_roc(values, positive) == pytest.approx(roc_auc_score(positive, values))
    with_holes, marks = np.append(values, [np.nan, np.nan]), np.append(positive, [True, False])
    assert area_under_roc(with_holes, marks) == pytest.approx(area_under_roc(values, positive))
    infinite = np.where(values > np.sort(values)[-4], np.inf, values)
    assert area_under_roc(infinite, positive) == pytest.approx(area_under_roc(np.minimum(infinite, 99), positive))


def test_auroc_asks_whether_corrupted_labels_are_harder_also_where_lower_is_harder():
    corrupted = np.arange(N) < 3
    values = np.where(corrupted, 2.0, 1.0)[None] + np.zeros((2, 1))
    assert _table({("el2n", 5): values}, corrupted=corrupted).auroc("el2n") == 1.0
    assert _table({("el2n", 5): -values}, corrupted=corrupted).auroc("el2n") == 0.0
    assert np.isnan(_table({("el2n", 5): values}).auroc("el2n"))
    assert np.isnan(_table({("el2n", 5): values}, corrupted=np.zeros(N, bool)).auroc("el2n"))


def test_difficulty_turns_a_score_so_that_higher_is_harder():
    from datadiet.scores import SCORES

    assert SCORES.get("confidence").harder == "lower"
    values = _values()
    table = _table({("confidence", 5): values, ("el2n", 5): values, ("never_learned", 5): values})
    np.testing.assert_array_equal(table.difficulty("confidence"), -table.mean("confidence"))
    np.testing.assert_array_equal(table.difficulty("el2n"), table.mean("el2n"))
    np.testing.assert_array_equal(table.difficulty("never_learned"), table.mean("never_learned"))


@pytest.mark.parametrize("runs", [2, 5, 10])
def test_reliability_is_the_split_half_correlation_stepped_up(runs):
    values = _values(3, runs, 40) + np.linspace(0, 5, 40, dtype=np.float32)
    wide = values.astype(np.float64)
    r = stats.spearmanr(wide[0::2].mean(0), wide[1::2].mean(0)).statistic
    assert _table({("el2n", 5): values}).reliability("el2n") == pytest.approx(2 * r / (1 + r))


def test_reliability_of_identical_runs_is_one_and_of_noise_is_near_zero():
    assert _table({("el2n", 5): np.tile(np.arange(9.0), (4, 1))}).reliability("el2n") == pytest.approx(1.0)
    assert abs(_table({("el2n", 5): _values(1, 10, 4000)}).reliability("el2n")) < 0.1


# ----------------------------------------------------------------------------------------------- looking up


def test_values_come_in_run_order_and_are_read_once():
    read = []

    def shard(run):
        return lambda: read.append(run) or np.full(4, run, np.float32)

    table = ScoreTable({("el2n", 0): [shard(run) for run in range(3)]}, np.zeros(4, np.int64), "f")
    assert read == [], "nothing is read before it is asked for"
    assert table.values("el2n").tolist() == [[0.0] * 4, [1.0] * 4, [2.0] * 4]
    table.mean("el2n"), table.sem("el2n")
    assert read == [0, 1, 2]


def test_a_tables_values_cannot_be_written_to_by_mistake():
    table = _table({("el2n", 5): _values()})
    with pytest.raises(ValueError, match="read-only"):
        table.values("el2n")[:] *= -1
    np.testing.assert_array_equal(table.values("el2n"), _values())


def test_a_score_is_found_by_name_and_step_and_the_last_step_is_the_default():
    table = _table({("el2n", 5): _values(0), ("el2n", 20): _values(1), ("forgetting", 20): _values(2)})
    assert (table.names, table.runs, len(table)) == (["el2n", "forgetting"], 5, N)
    assert table.steps() == table.steps("el2n") == [5, 20]
    assert table.step("el2n") == table.step("el2n", "2ep") == table.step("el2n", 20) == 20
    assert table.step("el2n", np.int64(5)) == table.step("el2n", "5it") == 5
    np.testing.assert_array_equal(table.values("el2n", "0.5ep"), _values(0))


@pytest.mark.parametrize(
    ("name", "at", "message"),
    [
        ("el2", None, "unknown score 'el2'; did you mean el2n"),
        ("el2n", "3ep", r"no el2n at step 30 \(3ep\); there is: 5it"),
        ("el2n", "soon", "at: 'soon' is not a step"),
    ],
)
def test_what_is_not_there_is_said_in_words(name, at, message):
    with pytest.raises(DatadietError, match=message):
        _table({("el2n", 5): _values()}).mean(name, at)


def test_scores_of_another_dataset_are_refused():
    table = _table({("el2n", 5): _values()})
    table.check("aa-bb")
    with pytest.raises(DatadietError, match=r"another dataset \(fingerprint aa-bb, this one has cc\)"):
        table.check("cc")


# --------------------------------------------------------------------------------------------------- export


def test_the_exported_table_holds_a_row_an_example_with_means_errors_and_runs(tmp_path):
    values, later = _values(0, 3, holes=0.2), _values(1, 3)
    table = _table(
        {("el2n", 20): later, ("el2n", 5): values},
        ids=[f"img{k}.png" for k in range(N)],
        rows=np.arange(N) * 2,
        corrupted=np.arange(N) % 4 == 0,
        chosen=np.arange(N) % 2 == 0,
        provenance={"seed": 3},
    )
    table.to_parquet(tmp_path / "scores.parquet")
    arrow = pq.read_table(tmp_path / "scores.parquet")
    assert arrow.column_names == [
        "index", "row", "id", "label", "corrupted", "chosen",
        "el2n@5it.mean", "el2n@5it.sem", "el2n@5it.run0", "el2n@5it.run1", "el2n@5it.run2",
        "el2n@20it.mean", "el2n@20it.sem", "el2n@20it.run0", "el2n@20it.run1", "el2n@20it.run2",
    ]  # fmt: skip
    columns = {name: np.array(arrow[name].to_pylist()) for name in arrow.column_names}
    assert columns["index"].tolist() == list(range(N))
    assert columns["row"].tolist() == list(range(0, 2 * N, 2))
    assert columns["id"][7] == "img7.png"
    assert columns["label"].tolist() == table.labels.tolist()
    np.testing.assert_array_equal(columns["el2n@5it.mean"], table.mean("el2n", 5))
    np.testing.assert_array_equal(columns["el2n@20it.sem"], table.sem("el2n", 20))
    np.testing.assert_array_equal(arrow["el2n@5it.run1"].to_numpy(), values[1])
    meta = json.loads(arrow.schema.metadata[b"datadiet"])
    assert meta == {"schema": SCHEMA, "fingerprint": "aa-bb", "seed": 3}


def test_the_same_table_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        _table({("el2n", 5): _values()}).to_parquet(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_single_runs_are_left_out_of_a_large_export(monkeypatch):
    table = _table({("el2n", 5): _values()})
    assert "el2n@5it.run0" in table.columns()
    assert "el2n@5it.run0" not in table.columns(single_runs=False)
    monkeypatch.setattr("datadiet.scores.table.SINGLE_RUNS_UP_TO", 5 * N - 1)
    assert list(table.columns()) == ["index", "label", "el2n@5it.mean", "el2n@5it.sem"]
    assert "el2n@5it.run0" in table.columns(single_runs=True)


# --------------------------------------------------------------------------------------------------- folders


@pytest.fixture
def folder(tmp_path):
    """A scoring folder made by hand: two runs of EL2N at two steps, with label noise and ids."""
    path = tmp_path / "out"
    columns = [["el2n", 5, 2], ["el2n", 20, 2]]
    for name, step, runs in columns:
        for run in range(runs):
            write_tensors(shard_path(path, run, name, step), {"values": _values(step + run, 1)[0]}, {"run": "x"})
    write_tensors(
        path / "examples.safetensors",
        {
            "labels": np.arange(N) % 3,
            "corrupted": np.arange(N) < 2,
            "chosen": np.arange(N) < 4,
            "rows": np.arange(N) + 7,
            "ids": packed_ids([f"img{k}" for k in range(N)]),
        },
        {"fingerprint": "aa-bb"},
    )
    manifest = {
        "what": "scores", "fingerprint": "aa-bb", "steps_per_epoch": 10, "columns": columns, "ids": True,
        "classes": ["a", "b", "c"], "seed": 4,
    }  # fmt: skip
    write_json(path / "manifest.json", manifest, schema=SCHEMA)
    _table({("el2n", 5): _values()}).to_parquet(path / "scores.parquet")
    return path


def test_a_folder_reads_back_as_its_table(folder):
    table = load_table(folder)
    assert (len(table), table.runs, table.names, table.steps()) == (N, 2, ["el2n"], [5, 20])
    np.testing.assert_array_equal(table.values("el2n", "2ep"), np.stack([_values(20, 1)[0], _values(21, 1)[0]]))
    assert table.labels.tolist() == [0, 1, 2] * 4
    assert table.corrupted.tolist() == [True] * 2 + [False] * 10
    assert table.chosen.dtype == bool
    assert table.rows.tolist() == list(range(7, N + 7))
    assert list(table.ids)[3] == "img3"
    assert table.classes == ("a", "b", "c")
    assert (table.fingerprint, table.provenance["seed"], table.path) == ("aa-bb", 4, folder)


def test_identities_are_read_from_what_has_a_checksum_not_from_the_export(folder, caplog):
    (folder / "scores.parquet").write_bytes(b"anything")
    assert list(load_table(folder).ids)[3] == "img3"
    arrays, meta = read_tensors(folder / "examples.safetensors")
    write_tensors(folder / "examples.safetensors", {k: v for k, v in arrays.items() if k != "ids"}, meta)
    assert load_table(folder).ids is None
    assert "kept no identities" in caplog.text


def test_a_subset_in_the_place_of_the_examples_is_no_part_of_a_folder(folder):
    save_subset(Subset(np.arange(3), N, "aa-bb"), folder / "examples.safetensors")
    with pytest.raises(DatadietError, match="is of something else than the scores"):
        load_table(folder)


def test_shards_are_named_by_run_score_and_step(tmp_path):
    assert shard_path(tmp_path, 7, "el2n", 780) == tmp_path / "shards/run-007/el2n@00000780.safetensors"


def test_a_damaged_shard_is_named_when_it_is_read_and_spoils_no_other_step(folder):
    file = shard_path(folder, 1, "el2n", 20)
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    table = load_table(folder)
    assert table.mean("el2n", 5).shape == (N,)
    with pytest.raises(Damaged, match=r"run-001/el2n@00000020.safetensors: is damaged \(its checksum"):
        table.mean("el2n", 20)


def test_a_missing_shard_is_named(folder):
    shard_path(folder, 0, "el2n", 5).unlink()
    with pytest.raises(DatadietError, match=r"run-000/el2n@00000005.safetensors"):
        load_table(folder).mean("el2n", 5)


@pytest.mark.parametrize("part", ["manifest.json", "examples.safetensors"])
def test_a_cut_off_file_of_the_folder_is_detected(folder, part):
    content = (folder / part).read_bytes()
    (folder / part).write_bytes(content[: len(content) // 2])
    with pytest.raises(Damaged, match=part):
        load_table(folder)


def test_a_folder_that_holds_no_scores_is_refused_in_words(tmp_path):
    with pytest.raises(DatadietError, match=r"none: no such folder; make it with `datadiet score`"):
        load_table(tmp_path / "none")
    with pytest.raises(DatadietError, match="holds no scores"):
        load_table(tmp_path)
    write_json(tmp_path / "manifest.json", {"what": "compare"}, schema=SCHEMA)
    with pytest.raises(DatadietError, match="is no scoring folder"):
        load_table(tmp_path)


def test_a_folder_of_a_newer_version_is_refused_in_words(folder):
    write_json(folder / "manifest.json", {"what": "scores"}, schema=SCHEMA + 1)
    with pytest.raises(DatadietError, match="newer datadiet"):
        load_table(folder)
