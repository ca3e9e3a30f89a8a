"""Every layer kind: norms equal the naive loop's, in float64 to 1e-9 and in float32 to 1e-4, at random shapes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from naive_loop import error, naive
from torch import Tensor, nn

from datadiet.gradients import grand
from datadiet.gradients.conv import Geometry, _by_groups, _by_patches, _by_rows, _gram, correlate, correlate_norms
from datadiet.gradients.rules import square_sum

quick = settings(max_examples=12, suppress_health_check=list(HealthCheck))


def squares(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs - labels).square().flatten(1).sum(1)


def rising(outputs: Tensor, labels: Tensor) -> Tensor:
    """Gradients of one sign: a sum over them does not cancel, which float32 could not follow."""
    return (outputs * (1 + labels.abs())).flatten(1).sum(1)


def agree(layer: nn.Module, x: Tensor, *, within: float = 1e-9, loss: Callable[..., Tensor] = squares) -> None:
    """A layer between two smooth functions, so that neither its input nor its output gradient is special."""
    layer = layer.to(torch.float64)
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.7)
    model = nn.Sequential(layer, nn.Tanh())
    with torch.no_grad():
        labels = torch.randn_like(model.eval()(x)) * 2
    assert error(grand(model, x, labels, loss=loss), naive(model, x, labels, loss)) < within
    single = model.float()
    if x.is_floating_point():
        x = x.float()
    labels = labels.float()
    wanted = naive(single.double(), x.double() if x.is_floating_point() else x, labels.double(), loss)
    found = grand(single.float(), x, labels, loss=loss)
    assert error(found, wanted) < 1e-4 or (found - wanted).abs().max() < 1e-6 * wanted.max()


@quick
@given(
    batch=st.integers(1, 4), places=st.lists(st.integers(1, 9), max_size=2), wide=st.integers(1, 12),
    high=st.integers(1, 12), bias=st.booleans(),
)  # fmt: skip
def test_linear_with_any_leading_dimensions(batch: int, places: list[int], wide: int, high: int, bias: bool) -> None:
    agree(nn.Linear(wide, high, bias=bias), torch.randn(batch, *places, wide, dtype=torch.float64))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    dims = draw(st.integers(1, 3))
    groups = draw(st.sampled_from((1, 1, 2, 3)))
    per_group = draw(st.integers(1, 2))
    channels = groups * per_group
    high = groups * draw(st.integers(1, 3))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(dims))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(dims))
    bias = draw(st.booleans())
    transposed = draw(st.sampled_from((False, False, True)))
    if transposed:
        stride = tuple(draw(st.integers(1, 3)) for _ in range(dims))
        extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
        padding = tuple(draw(st.integers(0, 1)) for _ in range(dims))
        kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
        layer = kind(channels, high, kernel, stride, padding, extra, groups, bias, dilation)
    else:
        mode = draw(st.sampled_from(("zeros", "reflect", "replicate", "circular")))
        padding = draw(st.sampled_from(("same", "valid", tuple(draw(st.integers(0, 2)) for _ in range(dims)))))
        stride = (1,) * dims if padding == "same" else tuple(draw(st.integers(1, 3)) for _ in range(dims))
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        layer = kind(channels, high, kernel, stride, padding, dilation, groups, bias, mode)
    size = [draw(st.integers(6, 9 if dims < 3 else 6)) for _ in range(dims)]
    return layer, torch.randn(draw(st.integers(1, 3)), channels, *size, dtype=torch.float64)


@settings(quick, max_examples=40)
@given(convolutions())
def test_convolutions_of_every_geometry(case: tuple[nn.Module, Tensor]) -> None:
    agree(*case)


@quick
@given(
    stride=st.integers(1, 3), dilation=st.integers(1, 2), padding=st.integers(0, 2), groups=st.sampled_from((1, 2)),
    kernel=st.integers(1, 4),
)  # fmt: skip
def test_all_exact_forms_of_a_convolution_agree(
    stride: int, dilation: int, padding: int, groups: int, kernel: int
) -> None:
    x = torch.randn(3, 4, 12, 13, dtype=torch.float64)
    weight = torch.randn(6, 4 // groups, kernel, kernel, dtype=torch.float64)
    g = torch.randn_like(torch.nn.functional.conv2d(x, weight, None, stride, padding, dilation, groups))
    two = lambda n: (n, n)  # noqa: E731
    geo = Geometry(two(kernel), two(stride), two(dilation), groups, two(padding))
    wanted = square_sum(correlate(x, g, geo))
    padded = torch.nn.functional.pad(x, (padding,) * 4)
    bare = Geometry(two(kernel), two(stride), two(dilation), groups, (0, 0))
    need = [(n - 1) * stride + (kernel - 1) * dilation + 1 for n in g.shape[2:]]
    padded = padded[:, :, : need[0], : need[1]]
    forms = [correlate_norms(x, g, geo), _by_groups(x, g, geo), _gram(padded, g, bare), _by_patches(padded, g, bare)]
    if groups == 1:
        forms += [_by_rows(padded, g, bare)]
        forms += [_by_rows(padded.to(memory_format=torch.channels_last), g.to(memory_format=torch.channels_last), bare)]
    for form in forms:
        assert error(form, wanted) < 1e-10


@pytest.mark.parametrize("last", [False, True])
def test_wide_and_large_maps_take_other_forms_with_the_same_result(last: bool) -> None:
    torch.manual_seed(0)
    for channels, size in ((16, 32), (40, 16), (70, 6), (3, 33)):
        conv = nn.Conv2d(channels, 24, 3, 1, 1)
        model = nn.Sequential(conv, nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 5))
        x, y = torch.randn(3, channels, size, size), torch.randint(0, 5, (3,))
        if last:
            model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
        found = grand(model, x, y)
        assert error(found, naive(model.double(), x.double(), y)) < 1e-4


@quick
@given(batch=st.integers(1, 4), length=st.integers(1, 9), padding=st.booleans(), scale=st.booleans())
def test_embedding(batch: int, length: int, padding: bool, scale: bool) -> None:
    layer = nn.Embedding(7, 3, padding_idx=2 if padding else None, scale_grad_by_freq=scale)
    model = nn.Sequential(layer.double(), nn.Tanh())
    x = torch.randint(0, 7, (batch, length))
    labels = torch.randn(batch, length, 3, dtype=torch.float64)
    wanted = naive(model, x, labels, squares)
    assert torch.allclose(grand(model, x, labels, loss=squares), wanted, rtol=1e-9, atol=1e-12)


@quick
@given(
    batch=st.integers(1, 4), channels=st.sampled_from((4, 8)), size=st.lists(st.integers(2, 5), min_size=1, max_size=3)
)  # fmt: skip
def test_normalisation_layers(batch: int, channels: int, size: list[int]) -> None:
    x = torch.randn(batch, channels, *size, dtype=torch.float64) * 3 + 1
    dims = len(size) - 1
    batch_norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims](channels)
    batch_norm.running_mean.normal_()
    batch_norm.running_var.uniform_(0.5, 2)
    instance = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[dims]
    tracked = instance(channels, affine=True, track_running_stats=True)
    tracked.running_mean.normal_()
    layers = [
        batch_norm, instance(channels, affine=True), tracked, nn.GroupNorm(2, channels), nn.LayerNorm(size[-1]),
        nn.LayerNorm([channels, *size]), nn.RMSNorm(size[-1]), nn.PReLU(), nn.PReLU(channels),
    ]  # fmt: skip
    for layer in layers:
        agree(layer, x, loss=rising if isinstance(layer, nn.PReLU) else squares)


def test_batch_norm_on_features_and_far_from_zero() -> None:
    layer = nn.BatchNorm1d(6)
    layer.running_mean.fill_(300.0)
    agree(layer, torch.randn(4, 6, dtype=torch.float64) + 300)
    spatial = nn.BatchNorm2d(6)
    spatial.running_mean.fill_(300.0)
    agree(spatial, torch.randn(4, 6, 5, 5, dtype=torch.float64) + 300)


class Normed(nn.Module):
    """Batch norm behind a convolution: once or twice, overwritten by an activation, partly frozen."""

    def __init__(self, times: int, affine: str) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2.0)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        self.times, self.last = times, nn.Linear(8, 3)
        if affine != "both":
            self.norm.weight.requires_grad_(affine == "weight")
            self.norm.bias.requires_grad_(affine == "bias")

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(self.times):
            x = self.norm(x).relu_()
        return self.last(x.mean((2, 3)))


@pytest.mark.parametrize("affine", ["both", "weight", "bias", "none"])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("last", [False, True])
def test_batch_norm_inside_a_network(times: int, affine: str, last: bool) -> None:
    torch.manual_seed(3)
    x = torch.randn(5, 2, 6, 6, dtype=torch.float64)
    agree(Normed(times, affine), x.to(memory_format=torch.channels_last) if last else x)


class Attend(nn.Module):
    def __init__(self, *, lone: bool = False, **options: object) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)
        self.body = nn.Linear(8, 8)
        sizes = self.attention.kdim, self.attention.vdim
        self.key, self.value = nn.Linear(8, sizes[0]), nn.Linear(8, sizes[1])
        self.same = lone

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.body(x)
        if self.same:
            causal = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
            y, _ = self.attention(x, x, x, attn_mask=causal, need_weights=False, is_causal=True)
        else:
            y, weights = self.attention(x, self.key(x), self.value(x), key_padding_mask=mask)
            y = y + weights.mean()
        return y.tanh()


@pytest.mark.parametrize(
    "options",
    [
        {}, {"lone": True}, {"add_bias_kv": True}, {"add_zero_attn": True, "add_bias_kv": True}, {"bias": False},
        {"kdim": 5, "vdim": 3}, {"add_bias_kv": True, "lone": True},
    ],
)  # fmt: skip
def test_multihead_attention(options: dict[str, object]) -> None:
    torch.manual_seed(1)
    model = Attend(**options).double()
    nn.init.normal_(model.attention.out_proj.bias if model.attention.out_proj.bias is not None else torch.empty(1))
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[0, 3:] = True
    labels = torch.randn(3, 5, 8, dtype=torch.float64)
    plain = model.eval()(x, mask)
    assert error(grand(model, (x, mask), labels, loss=squares), naive(model, (x, mask), labels, squares)) < 1e-9
    assert torch.equal(model(x, mask), plain)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_a_transformer_encoder_with_the_batch_in_either_dimension(first: bool, norm_first: bool) -> None:
    torch.manual_seed(2)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=first, norm_first=norm_first)
    body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = body, nn.Linear(8, 4).double()

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x if first else x.transpose(0, 1))
            return self.head(y.mean(1 if first else 0))

    model, x, y = Model(), torch.randn(3, 3, 8, dtype=torch.float64), torch.tensor([0, 3, 1])
    assert error(grand(model, x, y), naive(model, x, y)) < 1e-9


def test_sequences_in_gram_form_also_where_a_bias_gradient_cancels() -> None:
    torch.manual_seed(3)
    layer = nn.Linear(40, 50)
    model = nn.Sequential(layer, nn.Tanh())
    x = torch.randn(3, 6, 40)
    labels = torch.randn(3, 6, 50)
    found = grand(model, x, labels, loss=squares)
    assert error(found, naive(model.double(), x.double(), labels.double(), squares)) < 1e-4

    def odd(outputs: Tensor, labels: Tensor) -> Tensor:
        signs = torch.tensor([1.0, -1.0]).repeat(3).view(1, 6, 1)
        return (outputs * signs).flatten(1).sum(1) * labels[:, 0, 0] + 1e-3 * outputs.flatten(1).sum(1)

    flat = nn.Sequential(nn.Linear(40, 50))
    biases = grand(flat, x, labels, loss=odd, per="parameter")["0.bias"]
    assert error(biases, torch.full((3,), 6e-3 * 50**0.5, dtype=torch.float64)) < 1e-4
