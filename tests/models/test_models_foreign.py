"""A user's own network is found, called, checked, and told apart from another."""

from __future__ import annotations

import random
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from datadiet.errors import DatadietError
from datadiet.gradients import grand
from datadiet.models import build, check_output, code_fingerprint, weights_fingerprint

SOURCE = """
import torch
from torch import nn

RATE = 3


def make(input_shape, classes, units=4):
    size = 1
    for n in input_shape:
        size *= n
    return nn.Sequential(nn.Flatten(), nn.Linear(size, units), nn.ReLU(), nn.Linear(units, classes))


def plain():
    return nn.Linear(3, 2)


def anything(**given):
    return nn.Linear(given["input_shape"][0], given["classes"])


def needs(classes, depth):
    return nn.Linear(depth, classes)


def number(classes):
    return classes


def raises():
    raise ValueError("no such\\nthing")


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(3, classes)

    def forward(self, x):
        return self.head(x)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a package and a file, and the modules it brings forgotten afterwards."""
    (tmp_path / "nets_of_mine").mkdir()
    (tmp_path / "nets_of_mine" / "__init__.py").write_text("")
    (tmp_path / "nets_of_mine" / "small.py").write_text(SOURCE)
    (tmp_path / "net.py").write_text(SOURCE)
    (tmp_path / "lacks.py").write_text("import surely_not_installed\n")
    (tmp_path / "broken.py").write_text("def make(:\n")
    (tmp_path / "script.py").write_text("import argparse\nargparse.ArgumentParser().parse_args(['--epochs', '3'])\n")
    (tmp_path / "leaves.py").write_text("import sys\n\ndef make():\n    sys.exit(3)\n")
    (tmp_path / "neighbour_of_net.py").write_text("UNITS = 6\n")
    (tmp_path / "uses.py").write_text(
        "from torch import nn\nfrom neighbour_of_net import UNITS\n\ndef make(classes):\n"
        "    return nn.Linear(UNITS, classes)\n"
    )
    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    assert sys.path == path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_function_is_found_in_a_module_of_the_working_folder_and_in_a_file(here):
    for place in ("nets_of_mine.small", "net.py", str(here / "net.py")):
        model = build(f"{place}:make", (1, 2, 2), 3, seed=0, units=5)
        assert model[1].weight.shape == (5, 4)
        assert model(torch.zeros(2, 1, 2, 2)).shape == (2, 3)
        assert weights_fingerprint(model) == weights_fingerprint(build(f"{place}:make", (1, 2, 2), 3, seed=0, units=5))
    assert build("uses.py:make", (6,), 2).in_features == 6


def test_a_function_gets_as_much_as_its_signature_takes(here):
    assert isinstance(build("net.py:plain", (3,), 2), nn.Linear)
    assert build("net.py:anything", (3,), 2).in_features == 3
    assert build("net.py:Net", (3,), 2).head.out_features == 2


def test_a_changed_file_is_read_again_and_has_another_fingerprint(here):
    before = code_fingerprint("net.py:make")
    (here / "net.py").write_text(SOURCE.replace("units=4", "units=9"))
    assert build("net.py:make", (4,), 3)[1].out_features == 9
    assert code_fingerprint("net.py:make") != before
    assert code_fingerprint("nets_of_mine.small:make") == before


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("nets_of_mine.big:make", {}, "there is no module nets_of_mine.big"),
        ("nets_of_yours:make", {}, "there is no module nets_of_yours"),
        ("net.py:mak", {}, "did you mean make"),
        ("net.py:RATE", {}, "RATE is a int"),
        ("nix.py:make", {}, "there is no file nix.py"),
        (":make", {}, "':make' is not a model"),
        ("net.py:", {}, "'net.py:' is not a model"),
        ("net.py:make", {"depth": 3}, "no argument 'depth'; it takes units"),
        ("net.py:needs", {}, "needs the argument 'depth'"),
        ("net.py:number", {}, "returned int; return a torch.nn.Module"),
        ("net.py:raises", {}, "ValueError: no such; it was called with nothing"),
        ("lacks:make", {}, "lacks imports surely_not_installed"),
        ("lacks.py:make", {}, "ModuleNotFoundError: No module named 'surely_not_installed'"),
        ("broken.py:make", {}, "SyntaxError"),
        ("script.py:make", {}, "script.py cannot be imported, SystemExit: 2; mend it"),
        ("script:make", {}, "script cannot be imported, SystemExit: 2; mend it"),
        ("leaves.py:make", {}, "SystemExit: 3; it was called with nothing"),
    ],
)
def test_what_is_wrong_with_a_users_model_is_one_line(here, name, args, words):
    with pytest.raises(DatadietError) as caught:
        build(name, (3,), 2, **args)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_seed_fixes_weights_that_numpy_and_python_draw_too(here):
    (here / "drawn.py").write_text(
        "import random\nimport numpy as np\nimport torch\nfrom torch import nn\n\ndef make(classes):\n"
        "    net = nn.Linear(3, classes)\n"
        "    net.weight.data.copy_(torch.from_numpy(np.random.randn(classes, 3)))\n"
        "    net.bias.data.fill_(random.random())\n    return net\n"
    )
    before = np.random.get_state()[1].tolist(), random.getstate()
    one, same, other = (weights_fingerprint(build("drawn.py:make", (3,), 2, seed=s)) for s in (2**62, 2**62, 1))
    assert one == same != other
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before


def test_the_fingerprint_sees_names_types_shapes_and_bytes():
    one = nn.Linear(4, 3)
    same = nn.Linear(4, 3)
    same.load_state_dict(one.state_dict())
    print_of = weights_fingerprint
    assert print_of(one) == print_of(same)
    assert print_of(one) != print_of(nn.Sequential(one))
    assert print_of(one) != print_of(same.double())
    with torch.no_grad():
        flat = nn.Linear(3, 4)
        flat.weight.copy_(one.weight.reshape(4, 3))
        flat.bias = nn.Parameter(one.bias.clone())
        assert print_of(flat) != print_of(one)
        same = nn.Linear(4, 3)
        same.load_state_dict(one.state_dict())
        same.bias[2].add_(1e-6)
    assert print_of(one) != print_of(same)
    norm = nn.BatchNorm2d(2)
    before = print_of(norm)
    norm(torch.randn(4, 2, 3, 3))
    assert print_of(norm) != before
    image = nn.Conv2d(3, 4, 3).to(torch.bfloat16)
    assert print_of(image) == print_of(image.to(memory_format=torch.channels_last))


class Odd(nn.Module):
    """A network that draws, counts in eval mode, and answers what it is told to."""

    def __init__(self, answer):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.inner, self.answer = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), answer

    def forward(self, x):
        self.calls += 1
        torch.rand(3)
        return self.answer(self.inner(x))


def test_checking_the_output_leaves_the_model_and_the_stream_as_they_were():
    model = Odd(lambda y: y)
    model.inner[1].eval()
    inputs = torch.randn(5, 3)
    before, state = weights_fingerprint(model), torch.get_rng_state()
    check_output(model, inputs, 2)
    assert weights_fingerprint(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not model.inner[1].training
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("answer", "classes", "words"),
    [
        (lambda y: y, 10, r"shape \(2, 2\), the dataset has 10 classes"),
        (lambda y: y[0], 2, r"shape \(2,\)"),
        (lambda y: (y, y), 2, "returns tuple"),
        (lambda y: y.argmax(1, keepdim=True).expand(2, 2), 2, "type torch.int64"),
        (lambda y: y / 0, 2, "not finite"),
        (lambda y: y.view(17), 2, "does not accept inputs of shape"),
    ],
)
def test_an_output_that_does_not_fit_the_classes_is_refused(answer, classes, words):
    model = Odd(answer)
    with pytest.raises(DatadietError, match=words):
        check_output(model, torch.randn(2, 3), classes)
    assert model.training


def test_what_a_model_does_in_training_mode_only_is_refused_too():
    model = Odd(lambda y: (y, y) if model.training else y)
    with pytest.raises(DatadietError, match="returns tuple in training mode"):
        check_output(model, torch.randn(2, 3), 2)
    model = Odd(lambda y: y.view(17) if model.training else y)
    with pytest.raises(DatadietError, match=r"does not accept inputs of shape \(2, 3\) in training mode"):
        check_output(model, torch.randn(2, 3), 2)
    model = Odd(lambda y: y).requires_grad_(False)
    with pytest.raises(DatadietError, match="no weight of the model is trained"):
        check_output(model, torch.randn(2, 3), 2)


def test_inputs_that_the_model_cannot_take_are_named():
    with pytest.raises(DatadietError, match=r"inputs of shape \(2, 5\), RuntimeError"):
        check_output(build("mlp", (3,), 2), torch.zeros(4, 5), 2)
    with pytest.raises(DatadietError, match="fewer than 2"):
        check_output(build("mlp", (3,), 2), torch.zeros(1, 3), 2)


def test_a_model_with_lazy_layers_is_refused_by_name():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(2))
    with pytest.raises(DatadietError, match=r"the model's 1\.weight is lazy.*nn\.Linear for nn\.LazyLinear"):
        check_output(model, torch.zeros(2, 3), 2)


def test_a_file_of_nobodys_is_refused_in_words():
    with pytest.raises(DatadietError, match=r"home directory.*; write the path out"):
        build("~nobody-of-that-name/net.py:make", (3,), 2)


class Unbatched(nn.Module):
    """A weight that goes through an operation which PyTorch's vmap takes an example at a time."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(5))
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(torch.put(x * self.gain, torch.tensor([0]), torch.tensor([2.0])))


def test_gradients_of_a_network_of_ones_own_come_without_pytorchs_advice_to_its_developers():
    model, x, y = Unbatched(), torch.randn(4, 5), torch.tensor([0, 1, 2, 0])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        grand(model, x, y)
        assert [str(one.message) for one in said] == []
        torch.func.vmap(lambda row: torch.put(row, torch.tensor([0]), torch.tensor([2.0])))(x)
    assert "performance drop" in str(said[0].message), "others are still told"
