"""`datadiet study`: the list, one study, all of them, a dry run, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_cli import FLAGS, cli, ok

from datadiet.store import read_json
from datadiet.studies import STUDIES, Study

SMALL = ("--dataset", "tiny.npz", *FLAGS, "--runs", 2, "--score-runs", 2)
OUT = Path("out") / "studies"


def test_the_list_names_every_study_with_the_figure_it_answers(untrained: None) -> None:
    said = ok("study", "list", "--json").json
    assert {one["name"]: (one["answers"], one["claims"]) for one in said["studies"]} == {
        name: (study.answers, list(study.claims)) for name, study in STUDIES.items()
    }
    shown = ok("study", "list").out
    assert "pruning-curve" in shown
    assert "DD Fig. 1, bottom" in shown


def test_a_study_prints_each_claim_with_its_verdict_and_values(place: Path) -> None:
    shown = ok("study", "gallery", *SMALL, "--scale", "quick").out
    verdicts = read_json(OUT / "gallery-tiny-quick" / "verdicts.json")["verdicts"]
    assert verdicts[0]["outcome"] in shown
    assert "gallery-el2n.png" in shown
    said = ok("study", "gallery", *SMALL, "--json").json
    assert said["verdicts"] == verdicts
    again = ok("show", OUT / "gallery-tiny-quick").out
    assert "gallery at scale quick, seed 0" in again
    table = again.splitlines()[1:]
    assert table == shown.splitlines()[1 : 1 + len(table)]
    assert ok("show", OUT / "gallery-tiny-quick", "--json").json["verdicts"] == verdicts


def test_a_further_score_and_noise_are_taken(place: Path) -> None:
    said = ok("study", "gallery", *SMALL, "--score", "loss", "--noise", "permute:0.2", "--json").json
    folder = OUT / "gallery-tiny-permute0.2-quick"
    assert said["out"] == str(folder)
    assert (folder / "gallery-loss.png").exists()
    assert read_json(folder / "study.json")["noise"]["fraction"] == 0.2


def test_a_dry_run_says_what_would_be_trained_and_trains_nothing(place: Path, untrained: None) -> None:
    said = ok("study", "pruning-curve", *SMALL, "--dry-run", "--json").json
    stages = said["stages"]
    assert sum(stage["planned"] for name, stage in stages.items() if name.startswith("scoring")) == 2
    # Four keeps of three scores, of CCS and at random, and full data: twice.
    assert sum(stage["planned"] for name, stage in stages.items() if name.startswith("retraining")) == 2 * 21
    assert all(stage["steps"] > 0 for stage in stages.values())
    assert not OUT.exists()


def test_the_estimate_is_printed_before_a_long_scale(place: Path) -> None:
    shown = ok("study", "gallery", *SMALL, "--scale", "small").out
    assert shown.index("ms/step") < shown.index("verdict")


def test_all_runs_every_study_and_writes_one_page(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, Study] = {name: STUDIES.get(name) for name in ("noise", "gallery", "averaging")}
    monkeypatch.setattr(STUDIES, "_entries", kept)
    ended = cli("study", "all", *SMALL, "--score", "loss")
    assert ended.code == 2, "averaging needs four scoring runs"
    assert "study averaging" in ended.err.splitlines()[-1]
    page = (OUT / "verdicts.md").read_text()
    assert "| 4 | noise |" in page
    assert "| 11 | gallery |" in page
    assert (OUT / "gallery-tiny-quick" / "gallery-loss.png").exists()
    assert "**averaging** failed" in page
    shown = ok("show", OUT).out
    assert all(title in shown for title in ("gallery (", "noise (", "averaging failed: "))
    assert ok("show", OUT.parent).out == shown
    found = read_json(OUT / "verdicts.json")
    assert set(found["studies"]) == {"noise", "gallery"}
    assert set(found["failed"]) == {"averaging"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gallry",), "did you mean gallery"),
        (("gallery", "--scale", "big"), "unknown scale"),
        (("noise", "--human-labels", "labels.npy"), "labels.npy"),
        (("noise", "--human-labels", "short.npy"), "3 labels for 120"),
        (("noise", "--human-labels", "labels.csv:other"), "no column 'other'"),
        (("noise", "--human-labels", "empty.npy"), "empty.npy: cannot be read as labels: it is empty or truncated"),
        (("noise", "--human-labels", "cut.npy"), "cut.npy: cannot be read as labels: it is empty or truncated"),
        (("noise", "--human-labels", "archive.npy"), "it is an archive (.npz) of arrays"),
        (("memorization", "--memorization", "short.npz"), "tr_idx"),
        (("memorization", "--memorization", "empty.npy"), "empty.npy: is no archive of arrays"),
        (("memorization", "--memorization", "short.npy"), "short.npy: is no archive of arrays"),
        (("memorization", "--memorization", "words.npz"), "memorization values: rows of shape (2,)"),
        (("noise", "--noise", "much"), "not label noise"),
        (("gallery", "--score", "el3n"), "did you mean el2n"),
        (("lottery", "--score", "grand"), "--score: lottery does not look at it; leave it out, or ask "),
        (("gallery", "--human-labels", "labels.csv:label"), "--human-labels: gallery does not look at it"),
    ],
)
def test_refused_in_one_line(place: Path, untrained: None, words: tuple[str, ...], message: str) -> None:
    np.save("short.npy", np.zeros(3, int))
    np.savez("short.npz", a=np.zeros(3))
    np.savez("words.npz", tr_idx=np.arange(2), mem=np.array(["a", "b"]))
    Path("empty.npy").touch()
    Path("archive.npy").write_bytes(Path("short.npz").read_bytes())
    Path("cut.npy").write_bytes(Path("short.npz").read_bytes()[:60])
    Path("labels.csv").write_text("label\n1\n2\n")
    ended = cli("study", *words, *SMALL)
    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert ended.err.strip().count("error:") == 1


def test_labels_of_other_annotators_are_read_from_a_column(place: Path) -> None:
    labels = np.load("tiny.npz")["y_train"].copy()
    labels[:12] = (labels[:12] + 1) % 3
    Path("human.csv").write_text("\n".join(["id,human", *(f"{i},{one}" for i, one in enumerate(labels))]) + "\n")
    said = ok("study", "noise", *SMALL, "--human-labels", "human.csv:human", "--json").json
    assert any("people" in one["claim"] for one in said["verdicts"])
