"""The public face: the names that are promised, and the flow that the README shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import datadiet as dd

RECIPE = {"model": "mlp", "model_args": {"hidden": [16]}, "batch_size": 64, "steps": "2ep"}
PROMISED = {
    "Comparison", "DatadietError", "Dataset", "PRESETS", "Recipe", "ScoreTable", "Setup", "Subset", "Watch",
    "compare", "connectivity", "grand", "grand_loader", "kernel_velocity", "linear_path", "load", "load_subset",
    "load_table", "models", "ntk", "run", "save_subset", "score", "scores", "select", "studies", "train",
    "tune_window",
}  # fmt: skip


def test_every_public_name_is_there() -> None:
    assert set(dd.__all__) >= PROMISED, PROMISED - set(dd.__all__)
    for name in dd.__all__:
        assert getattr(dd, name) is not None
        assert name in dir(dd)
    with pytest.raises(AttributeError, match="nosuch"):
        dd.nosuch  # noqa: B018


def test_importing_datadiet_does_not_import_pytorch() -> None:
    code = "import sys, datadiet, datadiet.cli.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> tuple[dd.Dataset, dd.ScoreTable, Path]:
    folder = tmp_path_factory.mktemp("flow")
    data = dd.load("digits").with_noise("permute", 0.1, seed=0)
    given = {"engine": "inline", "threads": 1, "store": folder / "store"}
    table = dd.score(
        data,
        recipe=RECIPE,
        scores=["el2n", "forgetting"],
        runs=2,
        at=["1ep", "2ep"],
        out=folder / "out",
        setup=given,
    )
    return data, table, folder


def test_the_flow_of_the_readme(flow: tuple[dd.Dataset, dd.ScoreTable, Path]) -> None:
    data, table, folder = flow
    mean = table.mean("el2n", at="2ep")
    assert (mean.shape, mean.dtype) == ((len(data),), np.float64)
    assert np.array_equal(table.mean("el2n"), mean), "the last step is meant where none is said"
    assert table.values("el2n").shape == (2, len(data))
    assert table.sem("el2n").shape == (len(data),)
    assert -1 <= table.spearman("el2n", "forgetting") <= 1
    subset = dd.select(table, by="el2n", keep=0.5, policy="hardest")
    assert np.array_equal(np.sort(np.argsort(mean, kind="stable")[-len(subset) :]), np.asarray(subset))
    assert len(dd.select(mean, keep=0.5, labels=data.labels)) == len(subset)
    setup = {"engine": "inline", "threads": 1, "store": folder / "store"}
    result = dd.compare(data, {"el2n 50%": subset}, runs=1, setup=setup)
    assert [row.name for row in result.rows] == ["full data", "random 50%", "el2n 50%"]
    assert result.provenance["recipe"]["batch_size"] == 64, "the recipe of the scores is the default"
    assert isinstance(result.difference("el2n 50%", "full data"), float)


def test_the_parquet_table_has_the_documented_columns(flow: tuple[dd.Dataset, dd.ScoreTable, Path]) -> None:
    data, table, folder = flow
    found = pq.read_table(folder / "out" / "scores.parquet")
    # `row`: digits comes as one set, of which a part was cut off for testing.
    names = ["index", "row", "label", "corrupted", "chosen"]
    for score in ("el2n", "forgetting", "never_learned"):
        for step in table.steps(score):
            names += [f"{score}@{step}it.{part}" for part in ("mean", "sem", "run0", "run1")]
    assert found.column_names == names
    assert found["index"].to_pylist() == list(range(len(data)))
    assert np.array_equal(found["row"].to_numpy(), data.rows)
    assert np.array_equal(found["label"].to_numpy(), data.labels)
    assert np.array_equal(found["corrupted"].to_numpy(), data.corrupted)
    last = table.steps("el2n")[-1]
    assert np.array_equal(found[f"el2n@{last}it.mean"].to_numpy(), table.mean("el2n"))
    assert np.array_equal(found[f"el2n@{last}it.run1"].to_numpy(), table.values("el2n")[1])


def test_a_source_with_names_has_an_id_column(tmp_path: Path) -> None:
    data = dd.load("digits")
    rows = np.arange(100)
    names = [f"scan-{row}.png" for row in rows]
    np.savez(tmp_path / "named.npz", x_train=data.train.inputs[:100], y_train=data.labels[:100], ids=names)
    named = dd.load(tmp_path / "named.npz", test_fraction=None)
    given = {"engine": "inline", "threads": 1, "store": tmp_path / "store"}
    dd.score(named, recipe=RECIPE, scores=["el2n"], runs=1, at="1ep", out=tmp_path / "out", setup=given)
    found = pq.read_table(tmp_path / "out" / "scores.parquet")
    assert found.column_names[:3] == ["index", "id", "label"]
    assert found["id"].to_pylist() == names
    assert list(dd.load_table(tmp_path / "out").ids or ()) == names


def test_a_folder_reads_back_as_the_table_it_was(flow: tuple[dd.Dataset, dd.ScoreTable, Path]) -> None:
    data, table, folder = flow
    again = dd.load_table(folder / "out")
    for key in table.shards:
        assert np.array_equal(again.values(*key), table.values(*key), equal_nan=True)
    assert again.fingerprint == table.fingerprint == data.fingerprint
    assert np.array_equal(again.corrupted, data.corrupted)
    assert again.classes == data.classes
    assert dd.select(folder / "out", by="el2n", keep=0.3) == dd.select(table, by="el2n", keep=0.3)
