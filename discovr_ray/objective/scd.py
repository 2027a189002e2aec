"""Semantic cluster distillation: each branch predicts the other's assignment (section 3.3 of the paper)."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from discovr_ray.config import LossConfig
from discovr_ray.objective.cross_entropy import soft_cross_entropy
from discovr_ray.objective.precision import full_precision
from discovr_ray.objective.sinkhorn import assign


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
        video, image = video_scores.flatten(0, 1), image_scores.flatten(0, 1)
        video_codes = partial(_codes, video.detach(), video_scaling, loss.sinkhorn_epsilon)
        image_codes = partial(_codes, image.detach(), image_scaling, loss.sinkhorn_epsilon)
        predicts_image = soft_cross_entropy(video, image_codes, shares, loss.scd_temperature)
        return predicts_image + soft_cross_entropy(image, video_codes, shares, loss.scd_temperature)


def _codes(scores: Tensor, scaling: Tensor, epsilon: float, rows: slice) -> Tensor:
    return assign(scores[rows], scaling, epsilon)
