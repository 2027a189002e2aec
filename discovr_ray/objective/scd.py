"""Semantic cluster distillation: each branch predicts the other's assignment (section 3.3 of the paper)."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from discovr_ray.config import LossConfig
from discovr_ray.objective.precision import full_precision
from discovr_ray.objective.sinkhorn import assign

# scores held at once while a loss and its gradient are made: on a CPU they stay in the cache, on a GPU they fill it
_CPU_PIECE, _GPU_PIECE = 2**18, 2**25


def scd_loss(
    video_scores: Tensor,
    image_scores: Tensor,
    video_scaling: Tensor,
    image_scaling: Tensor,
    weights: Tensor,
    total_weight: Tensor | float,
    loss: LossConfig,
) -> Tensor:
    """CE(video scores, image codes) + CE(image scores, video codes): soft codes, and both terms have a gradient.

    Args:
        video_scores, image_scores: cosines [B, N, K].
        video_scaling, image_scaling: [K] of each side, from `sinkhorn_scaling` over the global batch.
        weights: [B], 0 for clips that take no part.
        total_weight: sum of the weights of all passes and processes.

    Returns:
        This process's share of the mean over the global batch's tokens, fp32. Differentiable once.
    """
    num_tokens = video_scores.shape[1]
    with full_precision(video_scores):
        shares = (weights.float() / (num_tokens * total_weight)).repeat_interleave(num_tokens)
        video, image = video_scores.float().flatten(0, 1), image_scores.float().flatten(0, 1)
        predicts_image = _CrossEntropy.apply(video, image, image_scaling, shares, loss)
        predicts_video = _CrossEntropy.apply(image, video, video_scaling, shares, loss)
        return cast(Tensor, predicts_image + predicts_video)


class _CrossEntropy(torch.autograd.Function):
    """sum over rows of share * H(codes of the other side, softmax(scores / temperature)).

    The gradient, share * (softmax - codes) / temperature, is made along with the value, some rows at a time. Left to
    autograd, ten passes over [B * N, K] through main memory took a fifteenth of the whole step on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, other: Tensor, scaling: Tensor, shares: Tensor, loss: LossConfig) -> Tensor:
        """Scores and other [R, K], scaling [K] of the other side, shares [R] -> scalar; no gradient reaches `other`."""
        gradient = torch.empty_like(scores)
        total = scores.new_zeros(())
        piece = _CPU_PIECE if scores.device.type == "cpu" else _GPU_PIECE
        rows = max(1, piece // scores.shape[1])
        parts = (tensor.split(rows) for tensor in (scores, other, shares, gradient))
        for some_scores, some_other, share, place in zip(*parts, strict=True):
            codes = assign(some_other, scaling, loss.sinkhorn_epsilon)
            logits = some_scores / loss.scd_temperature
            expected = torch.linalg.vecdot(codes, logits)
            largest = logits.amax(dim=-1, keepdim=True)
            exponentials = logits.sub_(largest).exp_()
            sums = exponentials.sum(dim=-1, keepdim=True)
            total += share @ (sums.log() + largest).squeeze(-1).sub_(expected)
            torch.sub(exponentials.div_(sums), codes, out=place)
            place.mul_(share[:, None] / loss.scd_temperature)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer, None, None, None, None
