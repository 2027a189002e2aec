"""Semantic cluster distillation: each branch predicts the other's assignment (section 3.3 of the paper)."""

from __future__ import annotations

import torch
from torch import Tensor

from discovr_ray.config import LossConfig
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
        This process's share of the mean over the global batch's tokens, fp32.
    """
    with full_precision(video_scores):
        video_codes = assign(video_scores, video_scaling, loss.sinkhorn_epsilon)
        image_codes = assign(image_scores, image_scaling, loss.sinkhorn_epsilon)
        terms = _cross_entropy(video_scores, image_codes, loss.scd_temperature)
        terms = terms + _cross_entropy(image_scores, video_codes, loss.scd_temperature)
        return (terms.mean(dim=1) * weights).sum() / total_weight


def _cross_entropy(scores: Tensor, codes: Tensor, temperature: float) -> Tensor:
    """[B, N]: H(codes, softmax(scores / temperature)); the codes' rows add up to 1."""
    logits = scores.float() / temperature
    expected: Tensor = torch.linalg.vecdot(codes, logits)
    return logits.logsumexp(dim=-1) - expected
