"""Bad input: exit code 2, one line that begins with "error:", nothing written, before any training."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from tiny_cli import FLAGS, RECIPE, arrays, cli, files, ok, refused

SCORE = ("score", "tiny.npz", *FLAGS, "--runs", 1, "-o", "out", "--store", "fresh")
COMPARE = ("compare", "tiny.npz", *FLAGS, "--runs", 1, "-o", "out", "--store", "fresh")
RUN = ("run", "tiny.npz", *FLAGS, "--runs", 1, "--at", "1ep", "--retrain-runs", 1, "-o", "out", "--store", "fresh")
SELECT = ("select", "scores", "-o", "out.txt", "--by", "el2n")


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("scor",), "unknown command 'scor'; did you mean score"),
        (("score",), "Missing argument 'DATASET'"),
        (("score", "digit"), "unknown dataset 'digit'; did you mean digits"),
        ((*SCORE, "--score", "el3n"), "unknown score 'el3n'; did you mean el2n"),
        ((*SCORE, "--score", "EL2N"), "unknown score 'EL2N'; did you mean el2n"),
        (("score", "CIFAR10"), "unknown dataset 'CIFAR10'; did you mean cifar10"),
        ((*SCORE, "--steps", "0"), "steps (--steps): a run of no steps"),
        ((*SCORE, "--runs", "99999999"), "--runs: 99999999 runs; at most 10000"),
        ((*SCORE, "-o", ""), "an empty path"),
        ((*SCORE, "--store", ""), "an empty path"),
        (
            (*SCORE, "--data-option", "drop=a", "--data-option", "drop=b"),
            "twice; give it once; a list is 'drop=[",
        ),
        ((*SCORE, "--model", "small-cn"), "unknown model 'small-cn'; did you mean small-cnn"),
        ((*SCORE, "--preset", "digit"), "unknown preset 'digit'; did you mean digits"),
        ((*SCORE, "--engine", "inlin"), "unknown engine 'inlin'; did you mean inline"),
        ((*SCORE, "--device", "gpu"), "unknown device 'gpu'"),
        ((*SCORE, "--precision", "float16"), "unknown precision 'float16'"),
        ((*SCORE, "--compile", "maybe"), "--compile"),
        ((*SCORE, "--nosuch", "x"), "No such option"),
        ((*SCORE, "--at", "5ep"), "--at: 5ep is step 35, and the run has 28 (4ep)"),
        ((*SCORE, "--at", "soon"), "'soon' is not a step"),
        ((*SCORE, "--steps", "many"), "'many' is not a step"),
        ((*SCORE, "--at", "0", "--score", "forgetting"), "undefined at step 0"),
        ((*SCORE, "--runs", "0"), "--runs: 0 runs"),
        ((*SCORE, "--runs", "x"), "'--runs'"),
        ((*SCORE, "--workers", "0"), "--workers: 0 workers"),
        ((*SCORE, "--threads", "0"), "--threads: 0 threads"),
        ((*SCORE, "--seed", "-1"), "'--seed'"),
        ((*SCORE, "--noise", "permute:0.1", "--noise-seed", "-1"), "'--noise-seed'"),
        ((*SCORE, "--noise", "permute:1.5"), "it must lie in (0, 1]"),
        ((*SCORE, "--noise", "permut:0.5"), "'permut'; did you mean permute"),
        ((*SCORE, "--validation", "1.5"), "it must lie between 0 and 1"),
        ((*SCORE, "--recipe", "nosuch.json"), "nosuch.json: cannot be read"),
        ((*COMPARE, "--baseline", "fulll"), "baseline 'fulll'"),
        ((*COMPARE, "--baseline", "none"), "nothing to compare"),
        ((*COMPARE, "--split", "tst", "--validation", "0.2"), "unknown split 'tst'; did you mean test"),
        ((*COMPARE, "--split", "validation"), "no validation split"),
        ((*COMPARE, "--subset", "nosuch.txt"), "nosuch.txt: no such file"),
        ((*COMPARE, "--subset", "recipe.json"), "recipe.json: is no subset"),
        ((*RUN, "--policy", "hardes"), "unknown policy 'hardes'; did you mean hardest"),
        ((*RUN, "--keep", "0"), "keep is 0.0"),
        ((*RUN, "--keep", "nan"), "keep is nan"),
        ((*RUN, "--by", "loss"), "loss is not among the scores"),
        ((*RUN, "--retrain-runs", "0"), "0 retraining runs"),
        ((*SELECT, "--keep", "0"), "keep is 0.0, it must lie in (0, 1]"),
        ((*SELECT, "--keep", "1.01"), "keep is 1.01, it must lie in (0, 1]"),
        ((*SELECT, "--keep", "-0.5"), "keep is -0.5"),
        ((*SELECT, "--keep", "nan"), "keep is nan"),
        ((*SELECT, "--keep", "half"), "'--keep'"),
        ((*SELECT, "--keep", "0.5", "--keep", "0.6"), "several values"),
        ((*SELECT, "--policy", "hardes"), "unknown policy 'hardes'; did you mean hardest"),
        ((*SELECT, "--policy", "window"), "a window without an offset"),
        ((*SELECT, "--policy", "window", "--offset", "0.6"), "offset 0.6 and keep 0.5 leave the range"),
        ((*SELECT, "--policy", "window", "--offset", "-0.1"), "offset"),
        ((*SELECT, "--policy", "hardest", "--tune"), "only a window is tuned"),
        ((*SELECT, "--dry-run"), "nothing is trained without --tune"),
        ((*SELECT, "--option", "foo=1"), "has no option 'foo'"),
        ((*SELECT, "--option", "foo"), "write name=value"),
        ((*SELECT, "--option", "seed=1"), "--option: seed is not given so"),
        (("score", "tiny.npz", *FLAGS, "--data-option", "data_dir=x"), "--data-option: data_dir is not given so"),
        (("score", "n" * 300 + "/x"), "the name is too long; choose another"),
        (("score", "~nobody-of-that-name/x.csv"), "write the path out"),
        (("run", "tiny.npz", *FLAGS, "--policy", "random"), "random subsets stand beside every comparison"),
        ((*SELECT, "--at", "2ep"), "no el2n at step 14 (2ep); there is: 7it, 21it"),
        ((*SELECT, "--by", "el2"), "unknown score 'el2'; did you mean el2n"),
        ((*SELECT, "--by", "grand"), "grand was not taken; score with --score grand, or take one of el2n, forgetting"),
        ((*SELECT, "--option", "a=1", "--option", "a=2"), "--option: a is given twice"),
        ((*SELECT, "--by", "never_learned"), "is a column, not a score"),
        ((*SELECT, "-o", "half.csv"), "half.csv: a subset as '.csv'"),
        (("select", "scores", "-o", "out.txt"), "--by: policy 'hardest' needs a score"),
        (("select", "nosuch", "--by", "el2n"), "nosuch: no such folder"),
        (("select", "datadiet-runs", "--by", "el2n"), "holds no scores"),
        (("show", "nosuch"), "no such file or folder"),
        (("show", "."), "nothing of datadiet"),
        (("show", "recipe.json"), "recipe.json: was not written by datadiet"),
        (("show", "tiny.npz"), "is nothing that can be shown"),
        (("show", "scores", "--by", "el2"), "unknown score 'el2'"),
    ],
)
def test_a_bad_flag_is_one_line(place: Path, words: tuple[object, ...], said: str) -> None:
    assert said in refused(place, *words)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("command", ["score", "run", "train", "compare", "lottery"])
@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("n" * 256, "the name is too long; choose another"),
        ("nul\0", "embedded null byte"),
        ("link", "link: is a link to a place that is not there; make that place, or remove the link"),
        ("link/below", "link: is a link to a place that is not there"),
        ("loop/below", "loop/below: a symbolic link leads back to itself; remove that link"),
    ],
    ids=["long", "null", "dangling", "below", "loop"],
)
def test_an_output_that_cannot_be_is_refused_before_training(place: Path, command: str, out: str, said: str) -> None:
    os.symlink("nowhere", "link")
    os.symlink("loop", "loop")
    assert said in refused(place, command, "tiny.npz", *FLAGS, "-o", out)


@pytest.mark.usefixtures("untrained")
def test_a_file_that_is_not_ours_is_not_told_to_be_removed(place: Path) -> None:
    assert "remove" not in refused(place, "show", "recipe.json")


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps({**RECIPE, "learning_rate": 0.1}), "unknown recipe field 'learning_rate'"),
        (json.dumps({**RECIPE, "lr": "fast"}), "lr is 'fast'; a number is expected"),
        (json.dumps({**RECIPE, "lr": -1}), "a learning rate of -1"),
        (json.dumps({**RECIPE, "schedule": "cosin"}), "unknown schedule 'cosin'; did you mean cosine"),
        (json.dumps({**RECIPE, "model_args": {"hiden": [16]}}), "hiden"),
        (json.dumps([1, 2]), "a table of settings is expected"),
        ("{\n 'lr': \n", "not valid JSON"),
    ],
)
def test_a_recipe_file_that_cannot_be_followed_is_one_line(place: Path, content: str, said: str) -> None:
    (place / "bad.json").write_text(content)
    line = refused(place, "score", "tiny.npz", "--recipe", "bad.json", "-o", "out", "--store", "fresh")
    assert said in line


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "1\n1\n", "a.txt: the row 1 is repeated"),
        ("a.txt", "1\n120\n", "a.txt: the row 120 is out of range"),
        ("a.txt", "-1\n", "a.txt: the row -1 is out of range"),
        ("a.txt", "1.5\n", "a.txt: cannot be read as row numbers"),
        ("a.txt", "9" * 40, "a.txt: cannot be read as row numbers"),
        ("a.txt", "", "a.txt: the subset has no examples"),
        ("a.npy", np.array([3, 3]), "a.npy: the row 3 is repeated"),
        ("a.npy", np.array([0, 120]), "a.npy: the row 120 is out of range"),
        ("a.npy", np.array([0.5]), "a.npy: the subset's rows have shape (1,) and type float64"),
        ("a.npy", np.array([[1, 2]]), "a.npy: the subset's rows have shape (1, 2)"),
        ("a.npy", "", "a.npy: cannot be read as row numbers"),
    ],
)
def test_a_subset_file_that_cannot_be_used_is_one_line(place: Path, name: str, content: object, said: str) -> None:
    if isinstance(content, str):
        (place / name).write_text(content)
    else:
        np.save(place / name, content)  # type: ignore[arg-type]
    assert said in refused(place, *COMPARE, "--subset", name)
    assert said in refused(place, "train", "tiny.npz", *FLAGS, "--subset", name, "-o", "out", "--store", "fresh")


@pytest.mark.usefixtures("untrained")
def test_a_subset_of_another_dataset_and_a_damaged_one_are_refused(place: Path) -> None:
    ok(*SELECT, "-o", "half.safetensors")
    other = arrays()
    other["x_train"] = 255 - other["x_train"]
    np.savez(place / "other.npz", **other)
    words = ("compare", "other.npz", *FLAGS, "-o", "out", "--store", "fresh", "--subset")
    assert "the subset is of the dataset" in refused(place, *words, "half.safetensors")
    (place / "cut.safetensors").write_bytes((place / "half.safetensors").read_bytes()[:-3])
    assert "cut.safetensors: is damaged" in refused(place, *COMPARE, "--subset", "cut.safetensors")
    shard = next((place / "scores").rglob("el2n@*.safetensors"))
    assert "is no subset" in refused(place, *COMPARE, "--subset", shard)


@pytest.mark.usefixtures("untrained")
def test_a_dataset_without_a_test_split_is_refused_before_training(place: Path) -> None:
    from datadiet.errors import DatadietError
    from datadiet.flows.compare import plan_compare
    from datadiet.flows.run import plan_run

    train = (arrays()["x_train"], arrays()["y_train"])
    import datadiet as dd

    data = dd.load(train, test_fraction=None)
    for plan in (lambda: plan_compare(data, {}), lambda: plan_run(data, recipe=RECIPE)):
        with pytest.raises(DatadietError, match="no test split to compare on"):
            plan()


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("flag", ["-o", "--store"])
@pytest.mark.parametrize("target", ["recipe.json", "recipe.json/below", "/proc/nothing"])
def test_a_place_that_cannot_be_written_is_refused_before_training(place: Path, flag: str, target: str) -> None:
    words = {"-o": "out", "--store": "fresh", flag: target}
    line = refused(place, "score", "tiny.npz", *FLAGS, *[word for pair in words.items() for word in pair])
    assert target.split("/below")[0] in line


@pytest.mark.usefixtures("untrained")
def test_a_folder_with_another_job_is_refused(place: Path) -> None:
    for other in (("--seed", 1), ("--noise", "permute:0.1"), ("--steps", "5ep")):
        line = refused(place, "score", "tiny.npz", *FLAGS, "-o", "scores", "--store", "fresh", *other)
        assert "scores: holds another job's results" in line


@pytest.mark.usefixtures("untrained")
def test_a_store_of_a_newer_version_is_refused(place: Path) -> None:
    file = place / "datadiet-runs" / "store.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "schema": 99}))
    line = refused(place, "score", "tiny.npz", *FLAGS, "-o", "out")
    assert "newer" in line
    assert "store.json" in line


def test_no_room_for_a_file_is_one_line_and_what_was_there_stays(place: Path) -> None:
    before = files(place)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4500, hard))  # less than a checkpoint
    try:
        ended = cli(
            "score", "tiny.npz", *FLAGS, "--seed", 3, "--runs", 1, "--score", "el2n", "--at", "1ep", "-o", "out"
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert line.startswith("error: ")
    assert "the file is larger than allowed here" in line
    after = files(place)
    assert before.items() <= after.items()
    assert not [name for name in after if "tmp" in name]
    ok("score", "tiny.npz", *FLAGS, "--seed", 3, "--runs", 1, "--score", "el2n", "--at", "1ep", "-o", "out")


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("words", [SCORE, RUN, COMPARE])
def test_a_disk_without_room_is_found_before_training(place: Path, words: tuple[object, ...]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        line = refused(place, *words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "out" in line
    assert "the file is larger than allowed here" in line


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    "name", ["accuracy.png", "scores.svg", "window.png", "tuned.json", "subsets/el2n-hardest-50.safetensors"]
)
def test_files_of_somebody_elses_are_in_the_way_of_a_run(place: Path, name: str) -> None:
    file = place / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    assert f"out/{name}: is in the way: nothing says that it is of this run" in refused(place, *RUN, "--keep", 0.5)


def test_a_run_whose_comparison_was_taken_away_writes_it_again(place: Path) -> None:
    ok(*RUN, "--keep", 0.5)
    (place / "out" / "comparison.json").unlink()
    ok(*RUN, "--keep", 0.5)
    assert (place / "out" / "comparison.json").exists()


@pytest.mark.usefixtures("untrained")
def test_a_file_where_a_runs_folder_goes_is_found_before_training(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "subsets").write_text("mine")
    assert "a file stands where a folder is needed" in refused(place, *RUN)


@pytest.mark.usefixtures("untrained")
def test_a_recipe_in_another_format_is_told_which_are_read(place: Path) -> None:
    (place / "recipe.yaml").write_text("lr: 0.1\n")
    line = refused(place, "score", "tiny.npz", "--recipe", "recipe.yaml")
    assert "recipe.yaml: not valid JSON" in line
    assert line.endswith("; .json and .toml are read")


@pytest.mark.usefixtures("untrained")
def test_a_network_too_large_for_memory_is_one_line(place: Path) -> None:
    (place / "huge.json").write_text(json.dumps({**RECIPE, "model_args": {"hidden": [10**11]}}))
    line = refused(place, "score", "tiny.npz", "--recipe", "huge.json", "--dry-run")
    assert "error: model mlp: RuntimeError: " in line
    assert line.endswith("; make it smaller")


MODEL = """
import torch
from torch import nn

def net(input_shape, classes):
    torch.manual_seed(0)
    size = input_shape[0] * input_shape[1] * input_shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(size, CLASSES){more})
"""


@pytest.mark.usefixtures("untrained")
def test_a_model_whose_output_does_not_fit_the_classes_is_refused(place: Path) -> None:
    (place / "mine.py").write_text(MODEL.replace("CLASSES", "classes + 1").replace("{more}", ""))
    line = refused(place, *SCORE, "--model", "mine.py:net")
    assert "has shape (2, 4), the dataset has 3 classes" in line
    assert "unknown function in mine.py 'nett'" in refused(place, *SCORE, "--model", "mine.py:nett")
    assert "there is no file nosuch.py" in refused(place, *SCORE, "--model", "nosuch.py:net")
    (place / "broken.py").write_text("raise ValueError('two\\nlines')")
    assert "cannot be imported" in refused(place, *SCORE, "--model", "broken.py:net")


def test_changed_code_of_a_users_model_is_refused(place: Path) -> None:
    words = ("score", "tiny.npz", *FLAGS, "--runs", 1, "--at", "1ep", "--score", "el2n", "-o", "mine", "--model")
    (place / "mine.py").write_text(MODEL.replace("CLASSES", "classes").replace("{more}", ""))
    ok(*words, "mine.py:net")
    ok(*words, "mine.py:net")
    (place / "mine.py").write_text(MODEL.replace("CLASSES", "classes").replace("{more}", ", nn.Tanh()"))
    line = refused(place, *words, "mine.py:net")
    assert "the code of mine.py:net changed since its runs in this store were made" in line


def test_a_run_that_diverges_is_one_line_that_names_run_and_step(place: Path) -> None:
    (place / "wild.json").write_text(json.dumps({**RECIPE, "lr": 1e30}))
    ended = cli("score", "tiny.npz", "--recipe", "wild.json", "--engine", "inline", "--runs", 1, "-o", "out")
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert line.startswith("error: scoring run 0: the loss is not finite at step ")
    assert not (place / "out").exists()
