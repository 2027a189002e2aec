"""Self-distillation of CLS tokens, for clips and frames alike (sections 3.1 and 3.2 of the paper)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from discovr_ray.objective.cross_entropy import soft_cross_entropy
from discovr_ray.objective.precision import full_precision


def distillation_loss(
    teacher_logits: Tensor,
    student_logits: Tensor,
    centre: Tensor,
    teacher_temperature: float,
    student_temperature: float,
    weights: Tensor,
    total_weight: Tensor | float,
) -> Tensor:
    """This process's share of the mean cross-entropy over the global batch and all views.

    Args:
        teacher_logits: [R, L] for R clips or frames; no gradient flows into them.
        student_logits: [V, R, L], V masked views.
        centre: [L], the one before this step's update.
        weights: [R], 0 for items that take no part.
        total_weight: sum of the weights of all passes and processes.

    Returns:
        sum over V, R of w * H(p_t, p_s) / (V * total_weight), fp32. Shares add up to the global loss.
    """
    with full_precision(student_logits):
        targets = teacher_probabilities(teacher_logits, centre, teacher_temperature)
        num_views, num_items = student_logits.shape[:2]
        shares = (weights.float() / (num_views * total_weight)).repeat(num_views)
        item = torch.arange(num_items, device=targets.device).repeat(num_views)  # of each row of all views
        return soft_cross_entropy(
            student_logits.flatten(0, 1), lambda rows: targets[item[rows]], shares, student_temperature
        )


@torch.no_grad()
def teacher_probabilities(teacher_logits: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """p_t = softmax((logits - centre) / temperature), [R, L], fp32."""
    return torch.softmax((teacher_logits.float() - centre) / temperature, dim=-1)


@torch.no_grad()
def logit_sum(teacher_logits: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum [L] of teacher logits [R, L], fp32; the passes of a step add theirs up for `update_centre`."""
    with full_precision(teacher_logits):
        return weights.float() @ teacher_logits.float()


@torch.no_grad()
def update_centre(
    centre: Tensor,
    summed_logits: Tensor,
    total_weight: float,
    momentum: float,
    group: dist.ProcessGroup | None = None,
) -> None:
    """Move the centre [L], in place, towards the mean RAW teacher logit of the global batch.

    Args:
        summed_logits: `logit_sum` over this process's passes.
        total_weight: sum of the weights of all passes and processes; at 0 the centre stays as it is.
    """
    summed = summed_logits.clone()
    if group is not None:
        dist.all_reduce(summed, group=group)
    if total_weight > 0:
        centre.mul_(momentum).add_(summed, alpha=(1 - momentum) / total_weight)
