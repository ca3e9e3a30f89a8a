"""Networks of one's own that keep more than weights: caches, constants, buffers put in place anew, old weight norm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_flows import RECIPE, setup, tiny

import datadiet as dd
from datadiet.models import build, check_output, weights_fingerprint
from datadiet.store import Store
from datadiet.training.checkpoint import load_whole, whole_state

NETS = Path(__file__).with_name("unusual_nets.py").read_text()
KINDS = [
    "expanded", "sized", "absent", "centred", "made", "kept", "filled", "grown", "counting", "renamed", "averaged",
    "constant", "flagged", "rotary",
]  # fmt: skip


@pytest.fixture
def nets(tmp_path: Path) -> str:
    file = tmp_path / "nets.py"
    file.write_text(NETS)
    return str(file)


def score(tmp_path: Path, model: str, at: Any, store: str = "store", **more: Any) -> dd.ScoreTable:
    recipe = {**RECIPE, "model": model, "model_args": more.pop("model_args", {})}
    return dd.score(
        tiny(), at=at, recipe=recipe, setup=setup(tmp_path / store), **{"scores": ["el2n"], "runs": 1, **more}
    )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "counting"])
def test_a_check_leaves_every_buffer_as_it_was(nets: str, kind: str) -> None:
    model = build(f"{nets}:{kind}", (1, 6, 6), 3, seed=0)
    before, state = weights_fingerprint(model), {name: id(buffer) for name, buffer in model.named_buffers()}
    check_output(model, torch.ones(2, 1, 6, 6), 3)
    assert weights_fingerprint(model) == before
    assert {name: id(buffer) for name, buffer in model.named_buffers()} == state
    assert model.training


def test_a_network_has_one_name_whatever_was_drawn_before(tmp_path: Path, nets: str) -> None:
    names = set()
    for at in ("1ep", "2ep", "3ep"):
        names.update(score(tmp_path, f"{nets}:centred", at, out=tmp_path / "out").provenance["run_names"])
        torch.rand(3)
    assert len(names) == 1
    assert Store(tmp_path / "store").runs() == sorted(names)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_and_is_scored_again_with_its_buffers(tmp_path: Path, nets: str, kind: str) -> None:
    model = f"{nets}:{kind}"
    score(tmp_path, model, "1ep")
    stopped = score(tmp_path, model, "2ep").mean("el2n")
    assert stopped.tolist() == score(tmp_path, model, "2ep", "straight").mean("el2n").tolist()
    later = score(tmp_path, model, "1ep", scores=["loss"]).mean("loss")
    assert later.tolist() == score(tmp_path, model, "1ep", "other", scores=["loss"]).mean("loss").tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_back_to_before_its_first_step_as_if_it_had_not_been_used(
    tmp_path: Path, nets: str, kind: str
) -> None:
    model = f"{nets}:{kind}"
    score(tmp_path, model, ["0", "2ep"])
    again = score(tmp_path, model, ["0", "3it", "2ep"], scores=["el2n", "loss"])
    straight = score(tmp_path, model, ["0", "3it", "2ep"], "straight", scores=["el2n", "loss"])
    for name, step in straight.shards:
        assert again.mean(name, step).tolist() == straight.mean(name, step).tolist(), (name, step)


@pytest.mark.parametrize("kind", KINDS)
def test_children_of_a_run_begin_with_its_buffers(tmp_path: Path, nets: str, kind: str) -> None:
    assert np.isfinite(score(tmp_path, f"{nets}:{kind}", "1ep", scores=["lmc"]).mean("lmc")).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_state_goes_into_a_fresh_network(nets: str, kind: str) -> None:
    used, fresh = (build(f"{nets}:{kind}", (1, 6, 6), 3, seed=seed) for seed in (0, 1))
    x = torch.rand(4, 1, 6, 6)
    used(x)  # in training mode: caches are filled, the centre moves
    load_whole(fresh, whole_state(used))
    mine, theirs = dict(fresh.named_buffers()), dict(used.named_buffers())
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert torch.equal(fresh.eval()(x), used.eval()(x))
    for name in mine:
        if name != "scale":
            assert mine[name].data_ptr() != theirs[name].data_ptr(), "a copy"


@pytest.mark.parametrize(
    "kind", ["made", "kept", "filled", "grown", "sized", "averaged", "constant", "flagged", "rotary"]
)
def test_a_network_that_makes_its_caches_is_calibrated_and_followed_as_it_trains(
    tmp_path: Path, nets: str, kind: str
) -> None:
    one = score(tmp_path, f"{nets}:{kind}", "1ep", scores=["grand", "grand_calibrated"])
    # It has no batch norm: calibrated it is what it was.
    assert one.mean("grand_calibrated").tolist() == one.mean("grand").tolist()


@pytest.mark.parametrize(
    "kind", ["made", "kept", "filled", "grown", "sized", "absent", "expanded", "constant", "rotary"]
)
@pytest.mark.parametrize("used", [(), (0,), (1,), (0, 1)])
def test_a_line_between_two_networks_with_caches_is_that_between_their_weights(
    nets: str, kind: str, used: tuple[int, ...]
) -> None:
    first, second = (build(f"{nets}:{kind}", (1, 6, 6), 3, seed=seed) for seed in (0, 1))
    x, y = torch.rand(20, 1, 6, 6), torch.arange(20) % 3
    for index in used:
        (first, second)[index](x)
    differ = {name for name, _ in (*first.named_buffers(), *second.named_buffers())}
    if kind in ("kept", "filled", "grown") and len(used) == 1 and differ:  # what is saved with the weights is theirs
        with pytest.raises(dd.DatadietError, match="two different networks: they differ in grid"):
            dd.linear_path(first, second, x, y)
        return
    found = dd.linear_path(first, second, x, y, (0.0, 0.5, 1.0))
    middle = build(f"{nets}:{kind}", (1, 6, 6), 3, seed=2)
    with torch.no_grad():
        for p, a, b in zip(middle.parameters(), first.parameters(), second.parameters(), strict=True):
            p.copy_((a + b) / 2)
    wanted = torch.nn.functional.cross_entropy(middle.eval()(x), y, reduction="none")
    assert np.allclose(found.loss[1], wanted.detach().numpy(), atol=1e-6)


def test_a_network_whose_shape_is_not_known_is_refused_in_words(tmp_path: Path, nets: str) -> None:
    with pytest.raises(dd.DatadietError, match=r"first\.weight is lazy"):
        score(tmp_path, f"{nets}:lazy", "1ep")


@pytest.mark.parametrize("at", ["0", "1ep"])
def test_a_network_that_cannot_be_copied_is_calibrated(tmp_path: Path, nets: str, at: str) -> None:
    table = score(tmp_path, f"{nets}:normed", at, scores=["grand", "grand_calibrated"])
    assert (table.mean("grand_calibrated") > 0).all()
    assert table.spearman("grand", "grand_calibrated") < 1


def test_an_argument_of_a_network_may_be_called_seed_but_not_classes(tmp_path: Path, nets: str) -> None:
    assert len(score(tmp_path, f"{nets}:plain", "0", model_args={"seed": 5}).mean("el2n")) == 120
    with pytest.raises(dd.DatadietError, match=r"classes of the model .* follows from the data; leave it out"):
        score(tmp_path, f"{nets}:plain", "0", model_args={"classes": 5})


def test_code_that_never_came_to_a_result_may_be_mended(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    broken = NETS.replace("return h\n", "assert not (self.training and len(h) > 2), 'not yet'\n        return h\n", 1)
    file.write_text(broken)
    with pytest.raises(dd.DatadietError, match="not yet"):
        score(tmp_path, f"{file}:plain", "1ep")
    file.write_text(NETS)
    score(tmp_path, f"{file}:plain", "1ep")
    file.write_text(NETS.replace("return h\n", "return -h\n", 1))
    with pytest.raises(dd.DatadietError, match="changed since its runs in this store were made"):
        score(tmp_path, f"{file}:plain", "1ep")


def test_a_damaged_note_of_the_code_is_made_again(tmp_path: Path, nets: str, caplog: pytest.LogCaptureFixture) -> None:
    score(tmp_path, f"{nets}:plain", "1ep")
    (note,) = (tmp_path / "store" / "models").iterdir()
    content = note.read_bytes()
    note.write_bytes(content[:-9])
    score(tmp_path, f"{nets}:plain", "1ep")
    assert f"{note} is damaged" in caplog.text
    assert note.read_bytes() == content


def test_disk_is_announced_for_what_checkpoints_hold(tmp_path: Path, nets: str) -> None:
    from datadiet.flows.plan import inspect, recipe_for

    def state(kind: str) -> int:
        return inspect(
            recipe_for(tiny(), recipe={**RECIPE, "model": f"{nets}:{kind}", "model_args": {}}), tiny()
        ).state_bytes

    assert state("expanded") == state("plain") + 8 * 4


def test_one_example_is_refused_where_batch_norm_cannot_train_on_it(tmp_path: Path, nets: str) -> None:
    recipe = {**RECIPE, "model": f"{nets}:normed", "model_args": {}}
    given = {"runs": 1, "recipe": recipe, "setup": setup(tmp_path / "store")}
    with pytest.raises(dd.DatadietError, match=r"cannot train on batches of one example.*keep more examples"):
        dd.compare(tiny(), {"one": [7]}, **given)
    with pytest.raises(dd.DatadietError, match="cannot train on batches of one example"):
        dd.score(tiny(), runs=1, at="1it", recipe={**recipe, "batch_size": 1}, setup=setup(tmp_path / "store"))
    with pytest.raises(dd.DatadietError, match="cannot train on batches of one example"):
        dd.find_tickets(tiny(), pretrain="random:1@3", levels=1, recipe=recipe, setup=given["setup"])
    squeezed = {**recipe, "model": f"{nets}:squeezed"}
    with pytest.raises(dd.DatadietError, match="cannot train on batches of one example: Dimension out of range"):
        dd.compare(tiny(), {"one": [7]}, **{**given, "recipe": squeezed})
    assert not (tmp_path / "store").exists()
    assert dd.compare(tiny(), {"one": [7]}, **{**given, "recipe": RECIPE})["one"].examples == 1


@pytest.mark.parametrize(("kind", "made"), [("late", "the weight scale"), ("later", "the module place")])
def test_a_network_that_makes_more_than_caches_when_it_is_used_is_refused(
    tmp_path: Path, nets: str, kind: str, made: str
) -> None:
    with pytest.raises(dd.DatadietError, match=f"the model makes {made} when it is first used; make it in __init__"):
        score(tmp_path, f"{nets}:{kind}", "1ep")


@pytest.mark.parametrize("kind", ["renamed", "made", "constant"])
def test_such_networks_are_pruned(tmp_path: Path, nets: str, kind: str) -> None:
    recipe = {**RECIPE, "model": f"{nets}:{kind}", "model_args": {}}
    found = dd.find_tickets(
        tiny(), pretrain=["all@0"], levels=2, fraction=0.5, replicates=1, recipe=recipe, setup=setup(tmp_path / "store")
    )
    (one,) = found.outcomes.values()
    assert one.density == pytest.approx([1, 0.5, 0.25], abs=0.01)
    assert np.isfinite(one.accuracy).all()
