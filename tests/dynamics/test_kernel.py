"""What kernels are reduced to, and what is refused before any work."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import datadiet as dd
from datadiet.dynamics.kernel import kernel_velocity, ntk, spectrum, summed, trace
from datadiet.errors import DatadietError
from datadiet.gradients import gram

D = torch.float64


def kernel(size: int, seed: int, dtype: torch.dtype = D) -> Tensor:
    rows = torch.randn(size, size + 2, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return rows @ rows.T


def test_the_public_names() -> None:
    assert dd.ntk is ntk
    assert dd.kernel_velocity is kernel_velocity
    assert {"ntk", "kernel_velocity"} <= set(dd.__all__)


@settings(max_examples=30)
@given(size=st.integers(1, 12), seed=st.integers(0, 99), factor=st.floats(1e-30, 1e30))
def test_velocity_by_its_definition(size: int, seed: int, factor: float) -> None:
    first, second = kernel(size, seed), kernel(size, seed + 1)
    wanted = 1 - float((first * second).sum() / (first.norm() * second.norm()))
    found = kernel_velocity(first, second)
    assert abs(found - wanted) < 1e-12
    assert kernel_velocity(first, first) == 0
    assert kernel_velocity(first, first.clone()) == 0
    assert kernel_velocity(first * 8, first / 4) == 0
    assert abs(kernel_velocity(first * factor, second) - found) < 1e-14
    assert abs(kernel_velocity(first, second * factor) - found) < 1e-14
    assert kernel_velocity(first, first * factor) < 1e-30
    assert kernel_velocity(second, first) == pytest.approx(found, abs=1e-15)


def test_a_small_velocity_keeps_its_digits() -> None:
    # Two orthogonal parts of known size: 1 − 1/√(1 + ε²).
    first = torch.diag(torch.tensor([1.0, 0.0]))
    second = torch.diag(torch.tensor([1.0, 1e-6]))
    assert kernel_velocity(first, second) == pytest.approx(0.5e-12, rel=1e-6)
    assert kernel_velocity(first, torch.diag(torch.tensor([0.0, 3.0]))) == pytest.approx(1, abs=1e-15)


def test_arrays_and_float32_are_taken_too() -> None:
    first, second = kernel(6, 0, torch.float32), kernel(6, 1, torch.float32)
    found = kernel_velocity(first.numpy(), second.numpy())
    assert found == kernel_velocity(first, second)
    assert found == pytest.approx(kernel_velocity(first.double(), second.double()), abs=1e-15)


def test_trace_spectrum_and_the_kernel_summed_over_logits() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x = torch.randn(5, 4, dtype=D)
    found = ntk(model, x)
    weights = list(model.parameters())
    psi = torch.stack(
        [
            torch.cat([g.flatten() for g in torch.autograd.grad(model(row[None])[0, c], weights)])
            for row in x
            for c in range(3)
        ]
    )
    assert trace(found) == pytest.approx(float(psi.square().sum()), rel=1e-12)
    values = spectrum(found)
    wanted = torch.linalg.svdvals(psi).square()
    assert torch.allclose(values[: len(wanted)], wanted, atol=1e-10 * float(wanted[0]))
    assert (values[:-1] >= values[1:]).all()
    assert values[-1] > -1e-9 * values[0]
    small = summed(found, 3)
    each = psi.view(5, 3, -1)
    assert torch.allclose(small, sum(each[:, c] @ each[:, c].T for c in range(3)), rtol=1e-10)  # type: ignore[arg-type]
    assert float(small.trace()) == pytest.approx(trace(found), rel=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (kernel(4, 0), kernel(6, 0), r"kernels of shapes \(4, 4\) and \(6, 6\)"),
        (torch.ones(3, 4), torch.ones(3, 4), r"before: shape \(3, 4\) is no kernel"),
        (kernel(4, 0), torch.ones(16), r"after: shape \(16,\) is no kernel"),
        (torch.zeros(0, 0), torch.zeros(0, 0), "is no kernel"),
        (kernel(4, 0), torch.zeros(4, 4), "after: the kernel is zero"),
        (torch.full((4, 4), float("nan")), kernel(4, 0), "before: the kernel holds NaN"),
        (kernel(4, 0), np.full((4, 4), np.inf), "after: the kernel holds NaN"),
    ],
)
def test_kernels_that_do_not_compare(first: Tensor, second: Tensor, words: str) -> None:
    with pytest.raises(DatadietError, match=words):
        kernel_velocity(first, second)


def test_a_number_of_logits_that_does_not_divide() -> None:
    with pytest.raises(DatadietError, match="6 rows are no multiple of 4 logits"):
        summed(kernel(6, 0), 4)


def test_a_kernel_too_large_for_memory_is_refused_before_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gram, "free_memory", lambda: 4 * 200**2)
    seen = []
    model = nn.Linear(3, 10)
    model.register_forward_hook(lambda m, args, output: seen.append(len(output)))
    with pytest.raises(DatadietError, match=r"21 examples × 10 logits takes 0\.0 GB.*pass 20 examples or fewer"):
        ntk(model, torch.randn(21, 3))
    assert max(seen) <= 3
    assert ntk(model, torch.randn(20, 3)).shape == (200, 200)
    monkeypatch.setattr(gram, "free_memory", lambda: None)
    assert ntk(model, torch.randn(21, 3)).shape == (210, 210)


def test_on_a_gpu_what_pytorch_keeps_of_the_memory_that_it_let_go_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"mem_get_info": (100, 10_000), "memory_reserved": 900, "memory_allocated": 600}
    for name, found in there.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, found=found: found)
    gram._refuse_what_does_not_fit(10, 1, torch.float32, torch.device("cuda"))  # 400 bytes
    with pytest.raises(DatadietError, match="pass 10 examples or fewer"):
        gram._refuse_what_does_not_fit(11, 1, torch.float32, torch.device("cuda"))


def test_what_no_kernel_can_be_taken_of() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), torch.randn(5, 3)
    with pytest.raises(DatadietError, match="'train' is not a mode"):
        ntk(model, x, mode="train")
    with pytest.raises(DatadietError, match="mixes examples: in training mode"):
        ntk(model.train(), x, mode="as-is")
    with pytest.raises(DatadietError, match="does not accept these inputs"):
        ntk(model, x[:, :2])
    with pytest.raises(DatadietError, match="no tensor among the inputs"):
        ntk(model, x.numpy())
    with pytest.raises(DatadietError, match="differ in the number of examples"):
        ntk(model, (x, x[:3]))
    with pytest.raises(DatadietError, match=r"returns shape \(2,\), not one row of logits an example"):
        ntk(model, x, forward=lambda m, x: m(x)[:, 0])
    with pytest.raises(DatadietError, match="no trainable parameter"):
        ntk(model.requires_grad_(False), x)
    with pytest.raises(DatadietError, match="no torch network"):
        ntk(lambda x: x, x)  # type: ignore[arg-type]
    model.requires_grad_(True)
    assert ntk(model, x).shape == (20, 20)
    assert ntk(model, x[:0]).shape == (0, 0)
    assert ntk(model, x[:1]).shape == (4, 4)


def test_a_nan_stays_in_the_rows_of_its_example() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(5, 3)
    whole = ntk(model, x)
    x[2, 1] = float("nan")
    found = ntk(model, x)
    kept = torch.tensor([0, 1, 2, 3, 6, 7, 8, 9])
    assert torch.allclose(found[kept][:, kept], whole[kept][:, kept], rtol=1e-5)
    assert found[4].isnan().any()
