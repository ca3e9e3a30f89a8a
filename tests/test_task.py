"""The classification task against its definitions in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from datadiet.task import classification


def _case(seed: int, rows: int, classes: int, scale: float):
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=rng, dtype=torch.float64) * scale
    return logits, torch.randint(classes, (rows,), generator=rng)


@settings(max_examples=40)
@given(st.integers(0, 999), st.integers(1, 9), st.integers(2, 12), st.floats(0.1, 30))
def test_the_error_is_softmax_minus_one_hot_and_the_gradient_of_the_loss(seed, rows, classes, scale):
    logits, labels = _case(seed, rows, classes, scale)
    naive = torch.softmax(logits, 1) - F.one_hot(labels, classes)
    torch.testing.assert_close(classification.error(logits, labels), naive, rtol=1e-9, atol=1e-12)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(classification.loss(logits, labels).sum(), logits)
    torch.testing.assert_close(gradient, naive, rtol=1e-9, atol=1e-12)


@settings(max_examples=60)
@given(st.integers(0, 999), st.integers(1, 9), st.integers(2, 12), st.floats(0.1, 40))
def test_the_exact_loss_and_its_gradient_keep_their_digits_in_float32(seed, rows, classes, scale):
    logits, labels = _case(seed, rows, classes, scale)
    logits[::2].scatter_(1, labels[::2, None], 2 * scale)  # some that the network is sure of
    logits = logits.float()
    wide = logits.double()
    others = (wide - wide.gather(1, labels[:, None])).scatter(1, labels[:, None], -torch.inf).exp()
    want = torch.log1p(others.sum(1))
    gradient = others / (1 + others.sum(1, keepdim=True))
    gradient.scatter_(1, labels[:, None], -gradient.sum(1, keepdim=True))
    logits.requires_grad_()
    got = classification.exact(logits, labels)
    torch.testing.assert_close(got.double(), want, rtol=2e-5, atol=1e-36)
    (found,) = torch.autograd.grad(got.sum(), logits)
    torch.testing.assert_close(found.double(), gradient, rtol=5e-5, atol=1e-36)
    torch.testing.assert_close(classification.loss(logits.double(), labels), want, rtol=1e-6, atol=1e-12)
    wide.requires_grad_()
    (found,) = torch.autograd.grad(classification.exact(wide, labels).sum(), wide)
    torch.testing.assert_close(found, gradient, rtol=1e-12, atol=0)


def test_the_exact_loss_where_logits_are_infinite():
    logits = torch.tensor([[-torch.inf, 0.0], [torch.inf, 0.0], [0.0, -torch.inf], [0.0, torch.nan]]).requires_grad_()
    values = classification.exact(logits, torch.tensor([1, 0, 1, 0]))
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert values[0] == 0
    assert gradient[0].tolist() == [0, 0], "all other classes are masked"
    assert values[1].isnan(), "an overflow is not the easiest example"
    assert gradient[1].isnan().any()
    assert values[2] == torch.inf
    assert values[3].isnan()


def test_the_errors_of_an_example_sum_to_zero_and_the_labels_is_not_lost_at_large_margins():
    logits = torch.zeros(1, 10)
    logits[0, 3] = 40.0
    error = classification.error(logits, torch.tensor([3]))
    assert error[0, 3] < 0
    assert error.sum().abs() < 1e-20
    assert 1 - torch.softmax(logits, 1)[0, 3] == 0, "which is why the label's entry is summed from the others"


def test_the_loss_is_of_each_example_and_correct_is_the_largest_logit():
    logits, labels = _case(0, 6, 4, 2.0)
    naive = torch.logsumexp(logits, 1) - logits[torch.arange(6), labels]
    torch.testing.assert_close(classification.loss(logits, labels), naive)
    assert torch.equal(classification.correct(logits, labels), logits.max(1).indices == labels)
