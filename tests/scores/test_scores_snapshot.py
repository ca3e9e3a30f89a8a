"""EL2N and the loss against float64, down to the easiest examples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datadiet.errors import DatadietError
from datadiet.scores import SCORES, Score, el1n, el2n, entropy, loss, margin_max, margin_sum, score
from datadiet.scores.el2n import error_norm


def _naive(logits, labels):
    """‖softmax − one-hot‖₂ in float64 with the label's error as the sum of the others; numpy."""
    wide = np.asarray(logits, np.float64)
    powers = np.exp(wide - wide.max(1, keepdims=True))
    errors = powers / powers.sum(1, keepdims=True)
    rows = np.arange(len(wide))
    errors[rows, labels] = 0
    errors[rows, labels] = -errors.sum(1)
    return np.sqrt((errors**2).sum(1))


@settings(max_examples=60)
@given(st.integers(0, 999), st.integers(1, 20), st.integers(2, 30), st.floats(0.01, 20))
def test_el2n_equals_its_formula_in_float64(seed, rows, classes, scale):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(0, scale, (rows, classes)), rng.integers(0, classes, rows)
    for kind, error in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        given_ = torch.from_numpy(logits).to(kind)
        got = el2n(given_, torch.from_numpy(labels))
        assert got.dtype == kind
        np.testing.assert_allclose(got.numpy(), _naive(given_.double().numpy(), labels), rtol=error, atol=0)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_easiest_examples_stay_strictly_ordered_up_to_margins_of_80(classes):
    margins = torch.arange(0, 80.25, 0.25)
    logits = torch.zeros(len(margins), classes)
    logits[:, 1] = margins
    labels = torch.ones(len(margins), dtype=torch.int64)
    scores = el2n(logits, labels)
    assert scores.dtype == torch.float32
    assert (scores[1:] < scores[:-1]).all()
    assert scores[-1] > 0
    np.testing.assert_allclose(scores.numpy(), _naive(logits.numpy(), labels.numpy()), rtol=1e-4)


def test_el2n_lies_between_nothing_and_the_square_root_of_two():
    logits = torch.tensor([[90.0, 0.0, 0.0], [0.0, 90.0, 0.0], [0.0, 0.0, 0.0], [500.0, 0.0, 0.0]])
    scores = el2n(logits, torch.tensor([0, 0, 0, 0]))
    assert 0 <= scores[0] < 1e-30
    assert scores[1] == pytest.approx(2**0.5)
    assert scores[2] == pytest.approx(np.sqrt((2 / 3) ** 2 + 2 / 9))
    assert scores[3] == 0, "not NaN"


def test_a_shift_of_all_logits_changes_no_score():
    rng = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(50, 5, generator=rng, dtype=torch.float64), torch.arange(50) % 5
    torch.testing.assert_close(el2n(logits + 1000, labels), el2n(logits, labels), rtol=1e-9, atol=0)
    torch.testing.assert_close(loss(logits + 1000, labels), loss(logits, labels), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("function", [el2n, loss])
def test_half_precision_logits_are_widened_before_anything_is_computed(function, kind):
    rng = torch.Generator().manual_seed(1)
    logits, labels = (torch.randn(30, 6, generator=rng) * 5).to(kind), torch.arange(30) % 6
    got = function(logits, labels)
    assert got.dtype == torch.float32
    assert torch.equal(got, function(logits.float(), labels))


@pytest.mark.parametrize("function", [el2n, loss])
def test_scores_are_detached_and_leave_their_input_alone(function):
    logits = torch.randn(4, 3).requires_grad_()
    before = logits.detach().clone()
    assert not function(logits, torch.tensor([0, 1, 2, 0])).requires_grad
    assert torch.equal(logits.detach(), before)


def test_the_loss_is_minus_the_log_of_the_labels_probability():
    logits, labels = torch.randn(40, 7, dtype=torch.float64), torch.arange(40) % 7
    powers = np.exp(logits.numpy())
    naive = -np.log(powers[np.arange(40), labels] / powers.sum(1))
    np.testing.assert_allclose(loss(logits, labels).numpy(), naive, rtol=1e-10)


def test_the_loss_of_the_easiest_is_theirs_and_ranks_as_el1n():
    margins = torch.arange(0, 80.25, 0.25)
    logits = torch.zeros(len(margins), 10)
    logits[:, 1] = margins
    labels = torch.ones(len(margins), dtype=torch.int64)
    values = loss(logits, labels)
    np.testing.assert_allclose(values.numpy(), np.log1p(9 * np.exp(-margins.double().numpy())), rtol=1e-4)
    assert torch.equal(values.argsort(), el1n(logits, labels).argsort())


@pytest.mark.parametrize("function", [el2n, loss, el1n, margin_max, margin_sum])
def test_labels_of_any_integer_type_and_arrays_are_taken(function):
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    want = function(logits, labels)
    for given_ in (labels.int(), labels.to(torch.uint8), labels.numpy(), labels.tolist()):
        assert torch.equal(function(logits, given_), want)
    assert torch.equal(function(logits.numpy(), labels), want)


@pytest.mark.parametrize("function", [el2n, loss, el1n, margin_max, margin_sum])
@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([0, 1]), r"labels of shape \(2,\) and type int64 for logits of shape \(4, 3\)"),
        (torch.zeros(4, 1, dtype=torch.int64), "give one class number an example"),
        (torch.eye(3)[[0, 1, 2, 0]], "not one-hot"),
        (torch.tensor([0.0, 1, 2, 0]), "type float32"),
        (torch.tensor([0, 1, 3, 0]), "labels from 0 to 3 for 3 columns of logits"),
        (torch.tensor([0, 1, -100, 0]), "labels from -100 to 1"),
        (["cat"] * 4, "labels are list, not numbers"),
    ],
)
def test_labels_that_do_not_fit_are_refused_in_words(function, labels, words):
    with pytest.raises(DatadietError, match=words):
        function(torch.randn(4, 3), labels)


@pytest.mark.parametrize("function", [el2n, loss, el1n, margin_max, margin_sum, entropy])
def test_one_column_of_logits_is_refused_in_words(function):
    with pytest.raises(DatadietError, match="a column for each class; of two classes"):
        function(torch.randn(4, 1), torch.zeros(4, dtype=torch.int64))


def test_the_score_of_a_row_does_not_depend_on_the_rows_beside_it():
    logits, labels = torch.randn(300, 10) * 8, torch.arange(300) % 10
    whole = error_norm(logits, labels)
    for part in (slice(0, 1), slice(7, 20), slice(100, 299)):
        assert torch.equal(error_norm(logits[part], labels[part]), whole[part])


def test_every_score_says_what_it_needs_and_which_way_it_points():
    assert {"el2n", "loss", "forgetting", "el2n_online"} <= set(SCORES)
    for name, entry in SCORES.items():
        assert entry.name == name
        assert entry.doc
        assert entry.sign == (1 if entry.harder == "higher" else -1)
        assert entry.needs in ("logits", "model", "calibrated", "trajectory", "run", "children")
    assert SCORES.get("el2n").needs == SCORES.get("loss").needs == "logits"
    assert SCORES.get("forgetting").columns == ("never_learned",)
    with pytest.raises(DatadietError, match="unknown score 'el2'; did you mean el2n"):
        SCORES.get("el2")


def test_a_function_becomes_a_score_by_a_decorator(monkeypatch):
    monkeypatch.setattr(SCORES, "_entries", dict(SCORES._entries))

    @score("margin", needs="logits", harder="lower")
    def margin(logits, labels):
        """Margin: the label's logit.

        More.
        """
        return logits[:, 0]

    assert SCORES.get("margin") == Score("margin", "logits", margin, "lower", "Margin: the label's logit.")
    assert SCORES.get("margin").sign == -1
