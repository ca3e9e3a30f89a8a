"""Results of several numeric environments: what is walked, spawned and inherited names them and says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_flows import PER_EPOCH, RECIPE, setup, tiny

import datadiet as dd
from datadiet.flows.connectivity import connectivity, plan_connectivity
from datadiet.flows.execute import run_tasks
from datadiet.flows.measures import Accuracies
from datadiet.flows.spawning import RESULT

END = 4 * PER_EPOCH


def test_barriers_of_networks_of_another_environment_name_it_and_warn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"at": ["1ep"], "recipe": RECIPE}
    given = setup(tmp_path, threads=1), setup(tmp_path, threads=2)
    plan = plan_connectivity(tiny(), setup=given[0], **options)
    first = connectivity(tiny(), setup=given[0], **options)
    assert [one["threads"] for one in first.provenance["numerics"]] == [1]
    # Read later, the barriers are still those of then.
    assert [one["threads"] for one in connectivity(tiny(), setup=given[1], **options).provenance["numerics"]] == [1]
    assert "environment" not in caplog.text
    ((_, path),) = plan.families.paths.values()
    (path.folder.path / "results" / f"path@{END:08d}.safetensors").unlink()
    # One line walked between networks that were trained before.
    again = connectivity(tiny(), setup=given[1], **options)
    assert [one["threads"] for one in again.provenance["numerics"]] == [2, 1]
    assert "2 numeric environments" in caplog.text


def test_scores_from_children_name_the_environments_of_these(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"scores": ["lmc"], "runs": 1, "at": "1ep", "recipe": RECIPE}
    given = setup(tmp_path, threads=1), setup(tmp_path, threads=2)
    dd.score(tiny(), setup=given[0], **options)
    for shard in tmp_path.rglob("shards/lmc@*"):
        shard.unlink()
    table = dd.score(tiny(), setup=given[1], **options)
    assert [one["threads"] for one in table.provenance["numerics"]] == [1], "computed anew from losses of before"
    for file in (*tmp_path.rglob("shards/lmc@*"), *tmp_path.rglob("results/path@*")):
        file.unlink()
    caplog.clear()
    table = dd.score(tiny(), setup=given[1], **options)
    assert [one["threads"] for one in table.provenance["numerics"]] == [2, 1]
    assert "2 numeric environments" in caplog.text


def test_a_child_of_a_run_of_another_environment_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"at": ["1ep"], "recipe": RECIPE, "parent_counts": False}
    connectivity(tiny(), setup=setup(tmp_path, threads=1), until="1ep", **options)
    caplog.clear()
    plan = plan_connectivity(tiny(), setup=setup(tmp_path, threads=2), **options)
    (label, child), *_ = plan.families.children
    run_tasks([(label, replace(child, keep=(PER_EPOCH + 1, END)))], tiny(), setup(tmp_path, threads=2))
    assert caplog.text.count("was made in another numeric environment") == 1
    # What is taken of its own states has nothing to do with the parent any more.
    wanted = tuple((step, Accuracies()) for step in (PER_EPOCH + 1, END))
    run_tasks([(label, replace(child, measures=wanted))], tiny(), setup(tmp_path, threads=2))
    assert caplog.text.count("was made in another numeric environment") == 1


def test_the_environment_of_paths_that_former_versions_walked_is_that_of_the_networks(tmp_path: Path) -> None:
    options = {"at": ["1ep"], "recipe": RECIPE}
    plan = plan_connectivity(tiny(), setup=setup(tmp_path, threads=1), **options)
    connectivity(tiny(), setup=setup(tmp_path, threads=1), **options)
    ((_, path),) = plan.families.paths.values()
    path.folder.save_result(RESULT, END, path.result()[0])
    found = connectivity(tiny(), setup=setup(tmp_path, threads=2), **options)
    assert [one["threads"] for one in found.provenance["numerics"]] == [1]
