"""Code of one's own that changed: a network's is refused, a score's values are taken again."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_flows import RECIPE, setup, tiny

import datadiet as dd
from datadiet.errors import DatadietError
from datadiet.models import MODELS
from datadiet.scores import SCORES
from datadiet.store import read_json, write_json

NET = """
from torch import nn
from blocks_of_mine import bend

class Net(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.head = nn.Linear(inputs, classes)

    def forward(self, x):
        return bend(self.head(x.flatten(1)))

def make(input_shape, classes):
    return Net(input_shape[0] * input_shape[1] * input_shape[2], classes)
"""
BLOCKS = "def bend(x):\n    return x.tanh()\n"
SCORE = """
from datadiet.scores import score

@score("of-mine", needs="logits")
def of_mine(logits, labels):
    "The first logit."
    return logits[:, 0]
"""
FOLLOWED = """
import torch
from datadiet.scores import score

@score("of-mine", needs="trajectory")
class Visits:
    "How often an example was seen."

    def __init__(self, n, device="cpu"):
        self.count = torch.zeros(n, device=device)

    def update(self, indices, logits, labels):
        self.count[indices] += 1

    def result(self):
        return {"of-mine": self.count}

    def state(self):
        return {"count": self.count}

    def load(self, state):
        self.count.copy_(state["count"])
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "net_of_mine.py").write_text(NET)
    (tmp_path / "blocks_of_mine.py").write_text(BLOCKS)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    forget()


def forget() -> None:
    """As a new process begins: nothing of the user's is imported or registered."""
    for name in list(sys.modules):
        if name.endswith("_of_mine") or name.startswith("_datadiet_model_"):
            del sys.modules[name]
    MODELS._entries.pop("net-of-mine", None)
    SCORES._entries.pop("of-mine", None)
    importlib.invalidate_caches()


def version(place: Path, text: str) -> None:
    """The score's file as it is now, in a process that has seen no other."""
    (place / "score_of_mine.py").write_text(text)
    forget()
    importlib.import_module("score_of_mine")


def score(place: Path, model: str, store: str = "store", **more: Any) -> dd.ScoreTable:
    recipe = {key: value for key, value in RECIPE.items() if key != "model_args"} | {"model": model}
    given = {"scores": ["el2n"], "runs": 1, "at": "1ep", **more}
    return dd.score(tiny(), recipe=recipe, setup=setup(place / store), **given)


def test_a_score_that_changes_what_it_is_given_leaves_the_others_alone(place: Path) -> None:
    version(place, SCORE.replace("return logits[:, 0]", "labels.zero_(); return logits.mul_(0)[:, 0]"))
    both = score(place, "net_of_mine:make", scores=["of-mine", "el2n"])
    alone = score(place, "net_of_mine:make", "other", scores=["el2n"])
    assert both.mean("el2n").tolist() == alone.mean("el2n").tolist()
    assert not both.mean("of-mine").any()


def test_a_score_must_give_one_number_for_each_example(place: Path) -> None:
    version(place, SCORE.replace("logits[:, 0]", "logits"))
    by_model = SCORE.replace('"logits"', '"model"').replace("(logits, labels)", "(model, x, labels)")
    for number, (text, value) in enumerate([(SCORE, "logits[:, 0]"), (by_model, "model(x).detach()[:, 0]")]):
        for made in ("numpy", "tolist"):
            version(place, text.replace("logits[:, 0]", f"{value}.{made}()"))
            mine = score(place, "net_of_mine:make", f"{made}{number}", scores=["of-mine"])
            assert mine.mean("of-mine").shape == (120,)
    version(place, SCORE.replace("logits[:, 0]", "logits"))
    with pytest.raises(DatadietError, match=r"score of-mine: gave values of shape \(120, 3\) for 120 examples"):
        score(place, "net_of_mine:make", scores=["of-mine"])
    version(place, SCORE)
    assert score(place, "net_of_mine:make", scores=["of-mine"]).mean("of-mine").shape == (120,)


def test_a_buffer_that_is_not_saved_with_the_weights_is_with_a_run(place: Path) -> None:
    """A network that counts its steps in a buffer outside its state dict, and lets the count matter."""
    (place / "net_of_mine.py").write_text(
        NET.replace(
            "        self.head =",
            "        self.register_buffer('steps', torch.zeros(()), persistent=False)\n        self.head =",
        )
        .replace("return bend(self.head(x.flatten(1)))", "self.steps += self.training\n        "
                 "return bend(self.head(x.flatten(1))) * (1 + self.steps)")
        .replace("from torch import nn", "import torch\nfrom torch import nn")
    )  # fmt: skip
    for at in ("1ep", "2ep"):
        stopped = score(place, "net_of_mine:make", at=at)
    straight = score(place, "net_of_mine:make", "straight", at="2ep")
    assert stopped.mean("el2n").tolist() == straight.mean("el2n").tolist()


@pytest.mark.parametrize("changed", ["net_of_mine.py", "blocks_of_mine.py"])
@pytest.mark.parametrize("way", ["registered", "module", "file"])
def test_a_network_whose_code_changed_is_refused_wherever_the_change_is(
    place: Path, way: str, changed: str, stretches: list[tuple[int, int]]
) -> None:
    model = {
        "registered": "net-of-mine",
        "module": "net_of_mine:make",
        "file": f"{place / 'net_of_mine.py'}:make",
    }[way]

    def begin() -> None:
        forget()
        if way == "registered":
            MODELS.register("net-of-mine", importlib.import_module("net_of_mine").make)

    begin()
    score(place, model, out=place / "out")
    begin()
    stretches.clear()
    score(place, model)
    assert stretches == [], "the same code is the same run"
    text = (place / changed).read_text()
    (place / changed).write_text(text.replace("tanh", "relu").replace("bend(self.head", "bend(-self.head"))
    begin()
    with pytest.raises(dd.DatadietError, match=r"the code of .* changed since its runs in this store were made"):
        score(place, model)
    # Another store is the way out; the folder with the old scores is not written over.
    with pytest.raises(dd.DatadietError, match="other code"):
        score(place, model, store="new", out=place / "out")
    score(place, model, store="new")


def test_a_score_whose_code_changed_is_taken_again_without_training(
    place: Path, stretches: list[tuple[int, int]]
) -> None:
    version(place, SCORE)
    options = {"recipe": RECIPE, "scores": ["of-mine"], "runs": 1, "at": "2ep", "setup": setup(place / "store")}
    before = dd.score(tiny(), **options, out=place / "out").mean("of-mine")
    version(place, SCORE.replace("return logits[:, 0]", "return 2 * logits[:, 0]"))
    stretches.clear()
    after = dd.score(tiny(), **options, out=place / "out").mean("of-mine")
    assert stretches == [], "the checkpoint is there"
    assert after.tolist() == (2 * before).tolist()
    assert dd.load_table(place / "out").mean("of-mine").tolist() == after.tolist()


def test_runs_of_two_versions_of_a_score_do_not_stand_in_one_table(place: Path) -> None:
    out = place / "out"
    version(place, SCORE)
    options = {"recipe": RECIPE, "scores": ["of-mine", "el2n"], "setup": setup(place / "store"), "out": out}
    dd.score(tiny(), runs=3, at=["1ep", "2ep"], **options)
    version(place, SCORE.replace("return logits[:, 0]", "return 2 * logits[:, 0]"))
    dd.score(tiny(), runs=2, at="1ep", **options)
    table = dd.load_table(out)
    # Of the old version nothing is left; what did not change is still there.
    assert {key: len(parts) for key, parts in table.shards.items()} == {
        ("el2n", 7): 3, ("el2n", 14): 3, ("of-mine", 7): 2
    }  # fmt: skip
    again = dd.score(tiny(), runs=3, at=["1ep", "2ep"], **options)
    assert dd.load_table(out).mean("of-mine", "2ep").tolist() == again.mean("of-mine", "2ep").tolist()


def test_what_was_noted_of_code_in_another_way_is_noted_anew(place: Path) -> None:
    score(place, "net_of_mine:make", out=place / "out")
    (note,) = (place / "store" / "models").iterdir()
    content = read_json(note)
    write_json(note, {key: value for key, value in content.items() if key != "scheme"} | {"code": "of before"})
    manifest = read_json(place / "out" / "manifest.json")
    write_json(place / "out" / "manifest.json", {key: value for key, value in manifest.items() if key != "code"})
    score(place, "net_of_mine:make", out=place / "out")
    assert read_json(note) == content


def test_a_score_that_follows_training_begins_anew_when_its_code_changed(
    place: Path, stretches: list[tuple[int, int]]
) -> None:
    version(place, FOLLOWED)
    options = {"recipe": RECIPE, "runs": 1, "setup": setup(place / "store")}
    before = dd.score(tiny(), scores=["of-mine"], at="2ep", **options).mean("of-mine")
    version(place, FOLLOWED.replace("+= 1", "+= 3"))
    # What is saved on the way, while nobody asks for it, is not taken for a whole trajectory either.
    dd.score(tiny(), scores=["el2n"], at="3ep", **options)
    stretches.clear()
    for at, visits in (("2ep", 2), ("3ep", 3)):
        after = dd.score(tiny(), scores=["of-mine"], at=at, **options).mean("of-mine")
        assert stretches[0][0] == 0
        assert after.max() == 3 * visits
    assert before.max() == 2


@pytest.mark.parametrize(
    "lost", ["note deleted", "note truncated", "notes deleted", "run.json deleted", "run.json truncated"]
)
def test_results_of_other_code_are_not_taken_for_those_of_this_when_a_file_is_lost(place: Path, lost: str) -> None:
    score(place, "net_of_mine:make")
    what, how = lost.split(" ")
    files = {"note": "models/*.json", "notes": "models*/*.json", "run.json": "run.json"}
    for file in list((place / "store").rglob(files[what])):
        if how == "deleted":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:40])
    (place / "blocks_of_mine.py").write_text(BLOCKS.replace("tanh", "sigmoid"))
    forget()
    with pytest.raises(DatadietError, match="is not known any more" if what == "notes" else "changed since its runs"):
        score(place, "net_of_mine:make")
