from __future__ import annotations

import math

import pytest
import torch

from discovr_ray.train.metrics import feature_std, rank_me, teacher_entropy, usage_perplexity


def test_teacher_entropy_of_equal_and_of_certain_outputs() -> None:
    equal = torch.full((3, 8), 5.0)
    assert teacher_entropy(equal, torch.zeros(8), 0.07) == pytest.approx(math.log(8))
    certain = torch.eye(8)[:2] * 100
    assert teacher_entropy(certain, torch.zeros(8), 0.07) == pytest.approx(0.0, abs=1e-6)
    # a centre that equals the logits leaves nothing but a uniform answer
    assert teacher_entropy(certain[:1], certain[0], 0.07) == pytest.approx(math.log(8))


def test_prototype_perplexity() -> None:
    assert usage_perplexity(torch.tensor([5.0, 5.0, 5.0, 5.0])) == pytest.approx(4.0)
    assert usage_perplexity(torch.tensor([7.0, 0.0, 0.0])) == pytest.approx(1.0)
    # shares 1/2, 1/4, 1/4: entropy 1.5 ln 2
    assert usage_perplexity(torch.tensor([2.0, 1.0, 1.0])) == pytest.approx(2**1.5)


def test_feature_std_is_one_when_spread_out_and_zero_when_collapsed() -> None:
    spread = torch.randn(4000, 32, generator=torch.Generator().manual_seed(0))
    assert feature_std(spread) == pytest.approx(1.0, abs=0.02)  # sampling error of 4000 rows
    assert feature_std(torch.ones(10, 32)) == pytest.approx(0.0, abs=1e-6)
    assert math.isnan(feature_std(torch.ones(1, 32)))


def test_rank_me_counts_equal_directions() -> None:
    assert rank_me(torch.eye(6)) == pytest.approx(6.0, rel=1e-4)
    assert rank_me(torch.ones(6, 1) @ torch.arange(1.0, 5.0)[None]) == pytest.approx(1.0, abs=1e-3)
