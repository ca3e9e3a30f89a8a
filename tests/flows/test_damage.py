"""A truncated or altered file is noticed by its checksum, redone, and the log says so."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from tiny_flows import RECIPE, results, setup, tiny

import datadiet as dd
from datadiet.store import Store

SCORING = {"recipe": RECIPE, "scores": ["el2n", "forgetting"], "runs": 2, "at": ["1ep", "2ep"]}


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def alter(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(bytes(content))


def one(tmp_path: Path, pattern: str) -> Path:
    return sorted((tmp_path / "store").glob(f"??/*/{pattern}"))[0]


@pytest.mark.parametrize("damage", [truncate, alter])
@pytest.mark.parametrize("pattern", ["shards/el2n@00000014.safetensors", "shards/forgetting@00000007.safetensors"])
def test_a_damaged_shard_is_redone_with_a_line(
    tmp_path: Path, damage: object, pattern: str, stretches: list[tuple[int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    dd.score(tiny(), setup=setup(tmp_path / "store"), **SCORING)
    before = results(tmp_path / "store")
    stretches.clear()
    file = one(tmp_path, pattern)
    damage(file)  # type: ignore[operator]
    dd.score(tiny(), setup=setup(tmp_path / "store"), **SCORING)
    assert results(tmp_path / "store") == before
    assert stretches == [], "the checkpoint is whole, nothing need be trained"
    assert f"{file} is damaged" in caplog.text
    assert "redoing it" in caplog.text


@pytest.mark.parametrize("damage", [truncate, alter])
def test_a_damaged_checkpoint_is_trained_again_where_it_is_needed(
    tmp_path: Path, damage: object, stretches: list[tuple[int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    dd.score(tiny(), setup=setup(tmp_path / "store"), **SCORING)
    before = results(tmp_path / "store")
    stretches.clear()
    one(tmp_path, "shards/el2n@00000014.safetensors").unlink()
    file = one(tmp_path, "checkpoints/00000014.safetensors")
    damage(file)  # type: ignore[operator]
    dd.score(tiny(), setup=setup(tmp_path / "store"), **SCORING)
    assert stretches == [(7, 14)], "from the whole checkpoint before it"
    assert results(tmp_path / "store") == before
    assert f"{file} is damaged" in caplog.text


def test_a_damaged_resume_point_falls_back_to_the_checkpoint_before_it(
    tmp_path: Path, stretches: list[tuple[int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    dd.score(tiny(), setup=setup(tmp_path / "straight"), **{**SCORING, "runs": 1, "at": "3ep"})
    dd.score(tiny(), setup=setup(tmp_path / "store"), **{**SCORING, "runs": 1})
    store = Store(tmp_path / "store")
    folder = store.run(store.runs()[0])
    point = folder.load_checkpoint(14)
    assert point is not None
    folder.save_resume(18, point.tensors)
    truncate(folder.path / "resume.safetensors")
    stretches.clear()
    dd.score(tiny(), setup=setup(tmp_path / "store"), **{**SCORING, "runs": 1, "at": "3ep"})
    assert stretches == [(14, 21)]
    assert "resume.safetensors is damaged" in caplog.text
    assert results(tmp_path / "straight").items() <= results(tmp_path / "store").items()


@pytest.mark.parametrize("damage", [truncate, alter])
def test_a_damaged_accuracy_is_taken_again(tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture) -> None:
    options = {"runs": 1, "recipe": RECIPE, "baselines": ("full",), "setup": setup(tmp_path / "store")}
    dd.compare(tiny(), {}, **options)
    before = results(tmp_path / "store")
    file = one(tmp_path, "evaluations/*.json")
    damage(file)  # type: ignore[operator]
    dd.compare(tiny(), {}, **options)
    assert results(tmp_path / "store") == before
    assert f"{file} is damaged" in caplog.text


@pytest.mark.parametrize("damage", [truncate, alter])
def test_a_damaged_shard_of_a_scoring_folder_is_refused_by_select_and_mended_by_score(
    tmp_path: Path, damage: object, stretches: list[tuple[int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    dd.score(tiny(), setup=setup(tmp_path / "store"), out=out, **SCORING)
    file = out / "shards" / "run-001" / "el2n@00000014.safetensors"
    whole = file.read_bytes()
    damage(file)  # type: ignore[operator]
    with pytest.raises(dd.DatadietError, match="is damaged"):
        dd.select(out, "el2n", 0.5)
    stretches.clear()
    with caplog.at_level(logging.WARNING, logger="datadiet"):
        dd.score(tiny(), setup=setup(tmp_path / "store"), out=out, **SCORING)
    assert stretches == []
    assert file.read_bytes() == whole
    assert f"{file} is damaged" in caplog.text


def test_a_shard_of_another_run_in_a_scoring_folder_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    table = dd.score(tiny(), setup=setup(tmp_path / "store"), out=out, **SCORING)
    shards = out / "shards"
    name = "el2n@00000014.safetensors"
    (shards / "run-001" / name).write_bytes((shards / "run-000" / name).read_bytes())
    dd.score(tiny(), setup=setup(tmp_path / "store"), out=out, **SCORING)
    assert np.array_equal(dd.load_table(out).values("el2n", "2ep"), table.values("el2n", "2ep"))


def test_a_shard_whose_header_no_longer_says_that_it_is_ours_is_redone_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    dd.score(tiny(), setup=setup(tmp_path / "store"), out=out, **SCORING)
    before = {f: f.read_bytes() for f in out.rglob("*") if f.is_file()}
    file = out / "shards" / "run-000" / "el2n@00000014.safetensors"
    file.write_bytes(file.read_bytes().replace(b"__metadata__", b"__metadatb__"))
    dd.score(tiny(), setup=setup(tmp_path / "store"), out=out, **SCORING)
    assert f"{file} was not written by datadiet, redoing it" in caplog.text
    assert before == {f: f.read_bytes() for f in out.rglob("*") if f.is_file()}


def test_a_damaged_manifest_is_made_again_for_the_same_data_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    dd.score(tiny(), setup=setup(tmp_path / "store"), out=out, **SCORING)
    before = {f: f.read_bytes() for f in out.rglob("*") if f.is_file()}
    alter(out / "manifest.json")
    with pytest.raises(dd.DatadietError, match=r"manifest\.json: is in the way"):
        dd.score(tiny().with_noise("permute", 0.5), setup=setup(tmp_path / "store"), out=out, **SCORING)
    dd.score(tiny(), setup=setup(tmp_path / "store"), out=out, **SCORING)
    assert "manifest.json is damaged" in caplog.text
    assert before == {f: f.read_bytes() for f in out.rglob("*") if f.is_file()}


@pytest.mark.parametrize("name", ["scores.parquet", "examples.safetensors", "sanity.json", "manifest.json"])
def test_a_file_of_somebody_elses_is_not_written_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")  # no JSON that can be read, either
    with pytest.raises(dd.DatadietError, match=rf"{name}: is in the way: .*; choose another --out"):
        dd.score(tiny(), setup=setup(tmp_path / "store"), out=tmp_path, **SCORING)
    assert (tmp_path / name).read_bytes() == b"mine"
    assert not (tmp_path / "store").exists()  # before any training


def test_an_interrupted_export_is_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "out"
    dd.score(tiny(), setup=setup(tmp_path / "store"), out=out, **SCORING)
    before = (out / "manifest.json").read_bytes()
    (out / "manifest.json").unlink()  # it is written last
    dd.score(tiny(), setup=setup(tmp_path / "store"), out=out, **SCORING)
    assert (out / "manifest.json").read_bytes() == before


def test_shards_and_examples_of_other_scores_are_not_read_as_these(tmp_path: Path) -> None:
    for name, data in (("a", tiny()), ("b", tiny(seed=9))):
        dd.score(data, setup=setup(tmp_path / "store"), out=tmp_path / name, **SCORING)
    shard = next((tmp_path / "a" / "shards").rglob("el2n@00000014*"))
    shard.write_bytes((tmp_path / "b" / shard.relative_to(tmp_path / "a")).read_bytes())
    with pytest.raises(dd.DatadietError, match=r"is out of place \(it says fingerprint"):
        dd.load_table(tmp_path / "a").mean("el2n")
    (tmp_path / "a" / "examples.safetensors").write_bytes((tmp_path / "b" / "examples.safetensors").read_bytes())
    with pytest.raises(dd.DatadietError, match="is of other data than the manifest"):
        dd.load_table(tmp_path / "a")


def test_nobody_is_told_to_remove_a_file_that_may_be_anothers(tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04 an archive of somebody's data", b"\x02\x00\x00\x00\x00\x00\x00\x00[]"):
        file = tmp_path / "mine.safetensors"
        file.write_bytes(content)
        with pytest.raises(dd.DatadietError, match=r"is damaged .*give another path") as caught:
            dd.load_subset(file)
        assert "remove it" not in str(caught.value)
