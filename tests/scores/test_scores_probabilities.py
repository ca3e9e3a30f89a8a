"""EL1N, the margins and the entropy against float64 definitions, down to the easiest examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datadiet.scores import SCORES, el1n, el2n, entropy, loss, margin_max, margin_sum

FUNCTIONS = {"el1n": el1n, "margin_max": margin_max, "margin_sum": margin_sum, "entropy": entropy}


def _naive(name, logits, label):
    """One example by the published definition, with math.fsum in float64."""
    top = max(logits)
    powers = [math.exp(z - top) for z in logits]
    p = [power / math.fsum(powers) for power in powers]
    others = [q for k, q in enumerate(p) if k != label]
    if name == "entropy":
        return -math.fsum(q * math.log(q) for q in p if q > 0)
    if name == "el1n":
        return math.fsum([abs(p[label] - 1), *others])
    if name == "margin_max":
        return 1 + max(others) - p[label]
    return len(p) - 1 + math.fsum(q - p[label] for q in others)


@settings(max_examples=80)
@given(
    st.integers(0, 9999), st.integers(1, 12), st.integers(2, 30), st.floats(0.01, 8), st.sampled_from(sorted(FUNCTIONS))
)
def test_each_equals_its_published_definition(seed, rows, classes, scale, name):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(0, scale, (rows, classes)), rng.integers(0, classes, rows)
    for kind, relative, absolute in ((torch.float64, 1e-9, 1e-13), (torch.float32, 3e-6, 1e-12)):
        given_ = torch.from_numpy(logits).to(kind)
        want = [_naive(name, row, label) for row, label in zip(given_.double().tolist(), labels.tolist(), strict=True)]
        got = FUNCTIONS[name](given_, torch.from_numpy(labels))
        assert got.dtype == kind
        # The naive definitions themselves lose digits near 0, by their differences from 1.
        np.testing.assert_allclose(got.numpy(), want, rtol=relative, atol=absolute * classes)


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_the_easiest_examples_stay_strictly_ordered_up_to_margins_of_80(name, classes):
    margins = torch.arange(1, 80.25, 0.25)
    logits = torch.zeros(len(margins), classes)
    logits[:, 1] = margins
    labels = torch.ones(len(margins), dtype=torch.int64)
    scores = FUNCTIONS[name](logits, labels)
    assert scores.dtype == torch.float32
    assert (scores[1:] < scores[:-1]).all()
    assert scores[-1] > 0
    # Closed forms in float64, of one large logit and C − 1 zeros, that take no difference from 1.
    m = margins.double().numpy()
    rest = (classes - 1) * np.exp(-m) / (1 + (classes - 1) * np.exp(-m))
    one = rest / (classes - 1)
    want = {
        "el1n": 2 * rest,
        "margin_max": rest + one,
        "margin_sum": classes * rest,
        "entropy": -rest * np.log(one) - (1 - rest) * np.log1p(-rest),
    }[name]
    np.testing.assert_allclose(scores.numpy(), want, rtol=1e-5)


def test_values_where_they_are_plain():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64))
    labels = torch.tensor([0, 2, 1])
    np.testing.assert_allclose(el1n(logits, labels), [1.0, 1.6, 4 / 3])
    np.testing.assert_allclose(margin_max(logits, labels), [0.8, 1.3, 1.0])
    np.testing.assert_allclose(margin_sum(logits, labels), [1.5, 2.4, 2.0])
    half = -(0.5 * math.log(0.5) + 0.3 * math.log(0.3) + 0.2 * math.log(0.2))
    np.testing.assert_allclose(entropy(logits, labels), [half, half, math.log(3)])


def test_certainty_is_nothing_or_the_most_and_never_nan():
    logits = torch.tensor([[500.0, 0.0, 0.0], [0.0, 500.0, 0.0], [0.0, 0.0, 0.0]])
    labels = torch.zeros(3, dtype=torch.int64)
    assert el1n(logits, labels).tolist()[:2] == [0.0, 2.0]
    assert margin_max(logits, labels).tolist()[:2] == [0.0, 2.0]
    assert margin_sum(logits, labels).tolist()[:2] == [0.0, 3.0]
    assert entropy(logits, labels).tolist()[:2] == [0.0, 0.0]
    assert entropy(torch.zeros(1, 50_000), labels[:1]).item() == pytest.approx(math.log(50_000), rel=1e-5)


def test_max_margin_is_below_one_exactly_where_the_example_is_classified_correctly():
    logits, labels = torch.randn(400, 5, dtype=torch.float64), torch.arange(400) % 5
    assert torch.equal(margin_max(logits, labels) < 1, logits.argmax(1) == labels)


def test_which_of_them_rank_alike_in_one_run_is_as_their_documentation_says():
    logits, labels = torch.randn(200, 4, dtype=torch.float64) * 3, torch.arange(200) % 4
    order = el1n(logits, labels).argsort()
    for same in (margin_sum, loss):
        assert torch.equal(same(logits, labels).argsort(), order)
    for other in (el2n, margin_max, entropy):
        assert not torch.equal(other(logits, labels).argsort(), order)
    torch.testing.assert_close(margin_sum(logits, labels), el1n(logits, labels) * 2)
    two = logits[:, :2]
    for same in (el2n, margin_max):
        torch.testing.assert_close(
            same(two, labels % 2) / same(two, labels % 2).max(), el1n(two, labels % 2) / el1n(two, labels % 2).max()
        )


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_they_widen_and_detach_and_leave_their_input_alone(name, kind):
    logits = (torch.randn(40, 6) * 5).to(kind).requires_grad_()
    labels, before = torch.arange(40) % 6, logits.detach().clone()
    got = FUNCTIONS[name](logits, labels)
    assert got.dtype == torch.float32
    assert not got.requires_grad
    assert torch.equal(logits.detach(), before)
    assert torch.equal(got, FUNCTIONS[name](before.float(), labels))


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_shift_of_all_logits_and_the_rows_beside_change_no_value(name):
    logits, labels = torch.randn(300, 7, dtype=torch.float64) * 3, torch.arange(300) % 7
    function = FUNCTIONS[name]
    torch.testing.assert_close(function(logits + 1000, labels), function(logits, labels), rtol=1e-9, atol=1e-12)
    whole = function(logits.float(), labels)
    for part in (slice(0, 1), slice(5, 17), slice(100, 299)):
        assert torch.equal(function(logits[part].float(), labels[part]), whole[part])


def test_the_entropy_does_not_look_at_the_label():
    logits = torch.randn(20, 4)
    assert torch.equal(entropy(logits, torch.zeros(20).long()), entropy(logits, torch.full((20,), 3)))


def test_all_of_them_call_the_higher_value_harder():
    assert {SCORES.get(name).harder for name in FUNCTIONS} == {"higher"}
    assert {SCORES.get(name).needs for name in FUNCTIONS} == {"logits"}
