"""The papers' networks have their published sizes, take any image, and start from the stated weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from datadiet.errors import DatadietError
from datadiet.models import MODELS, build, check_output, describe, weights_fingerprint
from datadiet.models.resnet import Bottleneck

CONVOLUTIONAL = ["resnet18", "resnet50", "resnet20", "resnet32", "resnet56", "resnet8", "small-cnn"]


def small(name, shape=(3, 16, 16), classes=10, **args):
    """A narrow member of the family: the same graph, quickly built."""
    width = {"resnet18": 8, "resnet50": 4}.get(name, 16)
    return build(name, shape, classes, width=width, **args)


def test_parameter_counts_are_the_published_ones():
    sizes = {line.name: line.parameters for line in describe()}
    assert sizes["resnet18"] == 11_173_962
    assert sizes["resnet50"] == 23_520_842
    # He et al.'s 0.27, 0.46, 0.85 million, and 2 752 for the two 1×1 shortcuts and their batch norms.
    assert sizes["resnet20"] == 269_722 + 2_752
    assert sizes["resnet32"] == 464_154 + 2_752
    assert sizes["resnet56"] == 853_018 + 2_752
    assert sizes["resnet8"] == 78_042
    assert sizes["mlp"] == 3072 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10
    assert set(sizes) == set(MODELS.names())
    assert all(line.summary.endswith(".") for line in describe())


def test_padded_shortcuts_have_no_weights():
    model = build("resnet20", (3, 32, 32), 10, shortcut="pad", seed=0)
    assert sum(p.numel() for p in model.parameters()) == 269_722
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (4, 64, 48), (2, 1, 5)])
def test_any_size_and_number_of_channels_trains_a_step(name, shape):
    model = small(name, shape, 7, seed=0)
    check_output(model, torch.randn(4, *shape), 7)
    model(torch.randn(4, *shape)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_low_resolution_stem_keeps_the_image():
    model = build("resnet18", (3, 32, 32), 10, seed=0)
    assert (model.conv.kernel_size, model.conv.stride, model.conv.bias) == ((3, 3), (1, 1), None)
    seen = []
    model.blocks.register_forward_hook(lambda m, i, o: seen.append((i[0].shape, o.shape)))
    model.eval()(torch.zeros(1, 3, 32, 32))
    assert seen == [((1, 64, 32, 32), (1, 512, 4, 4))]
    assert not any(isinstance(m, nn.MaxPool2d) for m in model.modules())


def test_the_data_diet_preset_draws_lecun_normal_weights_cut_at_two_deviations():
    model = build("resnet18", (3, 32, 32), 10, seed=1)
    weight = model.blocks[-1].conv2.weight
    wanted = math.sqrt(1 / (512 * 9))
    assert abs(weight.std() / wanted - 1) < 0.01
    assert abs(weight.abs().max() / (2 * wanted / 0.87962566103423978) - 1) < 0.01
    assert not model.head.bias.any()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()


def test_only_a_bottlenecks_last_batch_norm_starts_at_zero():
    model = small("resnet50", seed=0)
    last = [block.bn3 for block in model.blocks if isinstance(block, Bottleneck)]
    assert len(last) == 16
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == (0 if any(module is bn for bn in last) else 1)).all()
    assert (small("resnet50", zero_last=False, seed=0).blocks[0].bn3.weight == 1).all()


def test_the_lottery_ticket_preset_draws_kaiming_normal_and_uniform_scales():
    model = build("resnet20", (3, 32, 32), 10, seed=0)
    weight = model.blocks[-1].conv2.weight
    assert abs(weight.std() / math.sqrt(2 / (64 * 9)) - 1) < 0.02
    scales = torch.cat([m.weight for m in model.modules() if isinstance(m, nn.BatchNorm2d)])
    assert scales.min() >= 0
    assert scales.max() < 1
    assert abs(scales.mean() - 0.5) < 0.05
    assert (build("resnet8", (3, 32, 32), 10, seed=0).bn.weight == 1).all()
    assert isinstance(model.blocks[3].shortcut[0], nn.Conv2d)
    assert model.blocks[3].shortcut[0].kernel_size == (1, 1)


@pytest.mark.parametrize("name", [*CONVOLUTIONAL, "mlp"])
def test_a_seed_fixes_the_weights_and_leaves_the_global_stream(name):
    make = build if name == "mlp" else small
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = weights_fingerprint(make(name, (3, 8, 8), 3, seed=2**62 + 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert one == weights_fingerprint(make(name, (3, 8, 8), 3, seed=2**62 + 1))
    assert one != weights_fingerprint(make(name, (3, 8, 8), 3, seed=2))
    assert weights_fingerprint(make(name, (3, 8, 8), 3)) != weights_fingerprint(make(name, (3, 8, 8), 3))


def test_torchs_own_initialisation_stays_as_torch_draws_it():
    torch.manual_seed(0)
    model = build("mlp", (6,), 3, hidden=[5], init="torch")
    torch.manual_seed(0)
    first, second = nn.Linear(6, 5), nn.Linear(5, 3)
    assert torch.equal(model[1].weight, first.weight)
    assert torch.equal(model[3].bias, second.bias)


def test_an_mlp_takes_tables_and_images():
    assert build("mlp", (30,), 4)(torch.zeros(2, 30)).shape == (2, 4)
    assert build("mlp", (1, 8, 8), 4, hidden=())(torch.zeros(2, 1, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_convolutional_model_on_a_table_says_which_model_serves(name):
    with pytest.raises(DatadietError, match=r"needs images .* \(30,\); use the model 'mlp'"):
        build(name, (30,), 2)


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("resnet18", {"depth": 3}, "no argument 'depth'; it takes init, bn_scale, zero_last, width"),
        ("mlp", {"width": 3}, "no argument 'width'; it takes hidden, init"),
        ("mlp", {"hidden": [3, 0]}, "hidden is 0"),
        ("mlp", {"hidden": "64"}, "hidden is '64'"),
        ("resnet20", {"init": "xavier"}, "init is 'xavier'; write one of lecun, kaiming, torch"),
        ("resnet20", {"shortcut": "none"}, "shortcut is 'none'; write one of conv, pad"),
        ("resnet20", {"bn_scale": 1}, "bn_scale is 1; write one of ones, uniform"),
        ("small-cnn", {"width": 1.5}, "width is 1.5"),
        ("resnet50", {"zero_last": "no"}, "zero_last is 'no'"),
        ("resnet81", {}, "unknown model 'resnet81'; did you mean resnet8 or resnet18"),
        ("nets", {}, "; or package.module:function or file.py:function for one of your own"),
        ("n3.py", {}, "unknown model 'n3.py'; name the function too: n3.py:function"),
    ],
)
def test_a_wrong_name_or_argument_is_one_line_with_the_legal_ones(name, args, words):
    with pytest.raises(DatadietError) as caught:
        build(name, (3, 8, 8), 10, **args)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(), (0, 8, 8), (3, -1, 8), (3.5, 8, 8), "3x8", None, 8])
def test_an_impossible_input_shape_is_refused(shape):
    with pytest.raises(DatadietError, match="input shape"):
        build("mlp", shape, 10)


def test_no_classes_are_refused():
    with pytest.raises(DatadietError, match="classes is 0"):
        build("mlp", (3,), 0)
