"""The kernel of every layer kind equals the Jacobian's ΨΨᵀ: to 1e-9 in float64, to 1e-4 in float32."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_reference import by_jacrev, by_loop, error
from test_rules import Attend, convolutions
from torch import Tensor, nn

from datadiet.dynamics.kernel import ntk
from datadiet.gradients.conv import correlate
from datadiet.gradients.geometry import Geometry
from datadiet.gradients.gram_conv import correlate_gram
from datadiet.gradients.gram_forms import Inputs, outer_gram
from datadiet.gradients.gram_matrix import Gram

D = torch.float64
quick = settings(max_examples=8, suppress_health_check=list(HealthCheck))


class Head(nn.Module):
    """Three logits of anything, without weights of its own."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.randn(like[0].numel(), 3, dtype=like.dtype) / like[0].numel() ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix


def agree(layer: nn.Module, x: Tensor, *, loop: bool = False) -> None:
    """A layer between two smooth functions; with room for everything, and with room for next to nothing."""
    layer = layer.to(D).eval()
    for p in layer.parameters():
        nn.init.normal_(p, std=0.7)
    model = nn.Sequential(layer, nn.Tanh(), Head(layer(x).detach()))
    wanted = by_loop(model, x, len(x)) if loop else by_jacrev(model, x)
    for found in (ntk(model, x), ntk(model, x, memory=1)):
        assert found.dtype == D
        assert torch.equal(found, found.T)
        assert error(found, wanted) < 1e-9
    single = ntk(model.float(), x.float() if x.is_floating_point() else x)
    assert single.dtype == torch.float32
    # Where tanh saturates the network itself has lost digits by then: no worse than autograd in float32.
    plain = by_loop(model, x, len(x)) if loop else by_jacrev(model, x.float())
    assert error(single, wanted) < max(1e-4, 4 * error(plain, wanted))


@quick
@given(
    batch=st.integers(1, 4), places=st.lists(st.integers(1, 5), max_size=2), wide=st.integers(1, 12),
    high=st.integers(1, 12), bias=st.booleans(),
)  # fmt: skip
def test_linear_with_any_leading_dimensions(batch: int, places: list[int], wide: int, high: int, bias: bool) -> None:
    agree(nn.Linear(wide, high, bias=bias), torch.randn(batch, *places, wide, dtype=D))


@settings(quick, max_examples=25)
@given(convolutions())
def test_convolutions_of_every_geometry(case: tuple[nn.Module, Tensor]) -> None:
    agree(*case)


@quick
@given(batch=st.integers(1, 4), length=st.integers(1, 6), padding=st.booleans(), scale=st.booleans())
def test_embedding(batch: int, length: int, padding: bool, scale: bool) -> None:
    layer = nn.Embedding(7, 3, padding_idx=2 if padding else None, scale_grad_by_freq=scale)
    x = torch.randint(0, 7, (batch, length))
    x[0, 0] = 3  # with nothing but padding the kernel would be zero
    agree(layer, x, loop=True)


@quick
@given(batch=st.integers(1, 3), size=st.lists(st.integers(2, 4), min_size=1, max_size=3))
def test_normalisation_layers_and_prelu(batch: int, size: list[int]) -> None:
    x = torch.randn(batch, 4, *size, dtype=D) * 3 + 1
    dims = len(size) - 1
    batch_norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims](4)
    batch_norm.running_mean.normal_()
    batch_norm.running_var.uniform_(0.5, 2)
    instance = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[dims]
    layers = [
        batch_norm, instance(4, affine=True), nn.GroupNorm(2, 4), nn.LayerNorm(size[-1]), nn.LayerNorm([4, *size]),
        nn.RMSNorm(size[-1]), nn.PReLU(), nn.PReLU(4),
    ]  # fmt: skip
    for layer in layers:
        agree(layer, x)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lone": True},
        {"add_bias_kv": True},
        {"bias": False},
        {"kdim": 5, "vdim": 3},
        {"add_bias_kv": True, "lone": True},
    ],
)
def test_multihead_attention(options: dict[str, object]) -> None:
    torch.manual_seed(1)
    x = torch.randn(3, 5, 8, dtype=D)
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[0, 3:] = True
    body = Attend(**options).double().eval()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = body, Head(x)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.head(self.body(x, mask))

    model = Model()
    wanted = by_loop(model, (x, mask), 3)
    assert error(ntk(model, (x, mask)), wanted) < 1e-9
    assert error(ntk(model, (x, mask), memory=1), wanted) < 1e-9


def fresh(count: int, logits: int, memory: int = 2**24) -> Gram:
    return Gram(count, logits, device=torch.device("cpu"), dtype=D, memory=memory)


@quick
@given(
    count=st.integers(1, 7), logits=st.integers(1, 3), places=st.integers(1, 4), wide=st.integers(1, 5),
    high=st.integers(1, 5), memory=st.sampled_from((1, 500, 2**24)),
)  # fmt: skip
def test_all_forms_of_an_outer_product_agree(
    count: int, logits: int, places: int, wide: int, high: int, memory: int
) -> None:
    x = torch.randn(count, places, wide, dtype=D)
    g = torch.randn(count, logits, high, places, dtype=D)
    rows = torch.einsum("icop,ipk->icok", g, x).reshape(count * logits, -1)
    for form in ("weight", "half", "product") if places == 1 else ("weight", "half"):
        total = fresh(count, logits, memory)
        outer_gram(total, Inputs(places, wide, x.__getitem__), g, form)
        assert error(total.finished(), rows @ rows.T) < 1e-12


@quick
@given(
    stride=st.integers(1, 3), dilation=st.integers(1, 2), padding=st.integers(0, 2), kernel=st.integers(1, 4),
    last=st.booleans(), memory=st.sampled_from((1, 2**24)),
)  # fmt: skip
def test_all_forms_of_a_convolution_agree(
    stride: int, dilation: int, padding: int, kernel: int, last: bool, memory: int
) -> None:
    two = lambda n: (n, n)  # noqa: E731
    geo = Geometry(two(kernel), two(stride), two(dilation), 1, two(padding))
    x = torch.randn(3, 4, 8, 9, dtype=D)
    if last:
        x = x.to(memory_format=torch.channels_last)
    out = torch.nn.functional.conv2d(x, x.new_zeros(5, 4, kernel, kernel), None, stride, padding, dilation).shape[1:]
    g = torch.randn(3, 2, *out, dtype=D)
    rows = torch.stack([correlate(x, g[:, c], geo).flatten(1) for c in range(2)], 1).flatten(0, 1)
    for form in (None, "weight", "half", "pixels"):
        total = fresh(3, 2, memory)
        correlate_gram(total, x, g, geo, form)
        assert error(total.finished(), rows @ rows.T) < 1e-12, form


@quick
@given(count=st.integers(1, 300), logits=st.integers(1, 3))
def test_blocks_cover_one_triangle_and_the_other_mirrors_it(count: int, logits: int) -> None:
    rows = torch.randn(count, logits, 3, dtype=D)
    total = fresh(count, logits)
    total.add_rows(rows)
    found, flat = total.finished(), rows.flatten(0, 1)
    assert torch.equal(found, found.T)
    assert error(found, flat @ flat.T) < 1e-12
    formed = fresh(count, logits, 4000)
    formed.add_formed(lambda c, part: rows[part, c])
    assert error(formed.finished(), flat @ flat.T) < 1e-12
