"""Assignment: marginals, weights, chunks, numeric range, equality over processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gloo_objective import run_on_two_ranks
from torch import Tensor

from discovr_ray.objective.sinkhorn import assign, sinkhorn_scaling


def cosines(tokens: int, prototypes: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(tokens, prototypes, generator=generator) * 2 - 1


def by_hand(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """The matrix form in float64: columns to 1 / K, then rows to 1 / n, over and over."""
    plan = np.exp(scores.double().numpy() / epsilon)
    for _ in range(iterations):
        plan /= plan.sum(axis=0, keepdims=True) * plan.shape[1]
        plan /= plan.sum(axis=1, keepdims=True) * plan.shape[0]
    return torch.from_numpy(plan * plan.shape[0]).float()


def codes(scores: Tensor, epsilon: float = 0.05, iterations: int = 10) -> Tensor:
    return assign(scores, sinkhorn_scaling([scores], [torch.ones(len(scores))], epsilon, iterations), epsilon)


@pytest.mark.parametrize("epsilon", [0.5, 0.05, 0.02, 0.005])
def test_equals_the_matrix_form(epsilon: float) -> None:
    scores = cosines(40, 7)
    torch.testing.assert_close(codes(scores, epsilon, 4), by_hand(scores, epsilon, 4), rtol=1e-4, atol=1e-6)


def test_two_tokens_and_two_prototypes() -> None:
    """Both tokens prefer prototype 0; in balance each gets one. Exact by symmetry: the cross ratio of E is kept."""
    scores = torch.tensor([[0.2, 0.1], [0.1, 0.05]])
    ratio = np.exp((0.2 - 0.1 - 0.1 + 0.05) / 0.05 / 2)  # square root of the cross ratio
    share = ratio / (1 + ratio)
    expected = torch.tensor([[share, 1 - share], [1 - share, share]]).float()
    torch.testing.assert_close(codes(scores, iterations=200), expected, rtol=0, atol=1e-5)


def test_prototypes_are_used_alike() -> None:
    used = codes(cosines(600, 12) + torch.linspace(0, 0.3, 12), iterations=100).mean(dim=0)
    torch.testing.assert_close(used, torch.full((12,), 1 / 12), rtol=1e-3, atol=0)


def test_chunks_make_no_difference() -> None:
    scores, ones = cosines(60, 9), torch.ones(60)
    whole = sinkhorn_scaling([scores], [ones], 0.05, 10)
    parts = sinkhorn_scaling(list(scores.split(25)), list(ones.split(25)), 0.05, 10)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=0)


def test_tokens_of_weight_zero_take_no_part() -> None:
    scores = cosines(50, 9)
    weights = torch.ones(50)
    weights[10:30] = 0
    masked = sinkhorn_scaling([scores], [weights], 0.05, 10)
    without = sinkhorn_scaling([scores[weights > 0]], [torch.ones(30)], 0.05, 10)
    torch.testing.assert_close(assign(scores, masked, 0.05), assign(scores, without, 0.05), rtol=1e-5, atol=1e-7)


def test_fp32_inside_autocast() -> None:
    scores = cosines(50, 9)
    with torch.autocast("cpu", torch.bfloat16):
        inside = codes(scores)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, codes(scores))


def scalings_on_rank(rank: int, group: torch.distributed.ProcessGroup) -> Tensor:
    scores = cosines(64, 11)
    weights = torch.ones(64)
    weights[5:9] = 0
    mine = slice(rank * 32, rank * 32 + 32)
    return sinkhorn_scaling([scores[mine]], [weights[mine]], 0.05, 10, group)


@pytest.mark.dist
def test_two_processes_equal_one() -> None:
    """To 1e-5: sums over tokens are added in another order."""
    scores = cosines(64, 11)
    weights = torch.ones(64)
    weights[5:9] = 0
    alone = sinkhorn_scaling([scores], [weights], 0.05, 10)
    first, second = run_on_two_ranks(scalings_on_rank)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, alone, rtol=1e-5, atol=0)
