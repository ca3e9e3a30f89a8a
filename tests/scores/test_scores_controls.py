"""The two controls: chance, and the norm of the input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datadiet.errors import DatadietError
from datadiet.scores import SCORES, input_norm, random


def test_chance_is_uniform_and_the_same_again_for_the_same_run_and_step():
    values = random(20_000, (0, "score", 3), 84)
    assert values.dtype == torch.float32
    assert values.shape == (20_000,)
    assert torch.equal(values, random(20_000, (0, "score", 3), 84))
    counts = np.histogram(values.numpy(), bins=10, range=(0, 1))[0]
    assert abs(counts - 2000).max() < 5 * np.sqrt(1800)  # five standard deviations of each bin's count


@pytest.mark.parametrize(
    "other", [((0, "score", 4), 84), ((1, "score", 3), 84), ((0, "retrain", 3), 84), ((0, "score", 3), 85)]
)
def test_another_run_seed_purpose_or_step_is_another_draw(other):
    a, b = random(20_000, (0, "score", 3), 84).numpy(), random(20_000, *other).numpy()
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.036  # five standard errors


def test_the_input_norm_is_that_of_all_entries_of_each_example():
    rng = np.random.default_rng(0)
    for shape in ((5, 3, 8, 8), (5, 30), (1, 2)):
        inputs = rng.normal(0, 3, shape).astype(np.float32)
        want = [np.sqrt(sum(float(v) ** 2 for v in row.ravel())) for row in inputs]
        np.testing.assert_allclose(input_norm(None, torch.from_numpy(inputs), None).numpy(), want, rtol=1e-6)
    laid_out = torch.from_numpy(rng.normal(size=(4, 3, 6, 6))).to(memory_format=torch.channels_last)
    torch.testing.assert_close(input_norm(None, laid_out, None), laid_out.square().sum((1, 2, 3)).sqrt())


def test_tokens_have_no_norm():
    for inputs in ({"input_ids": torch.zeros(2, 3)}, torch.zeros(2, 3, dtype=torch.int64)):
        with pytest.raises(DatadietError, match="token inputs have no norm"):
            input_norm(None, inputs, None)


def test_the_controls_say_what_they_need():
    assert SCORES.get("random").needs == "run"
    assert SCORES.get("input_norm").needs == "model"
