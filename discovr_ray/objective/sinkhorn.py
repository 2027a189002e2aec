"""Balanced assignment of tokens to prototypes by Sinkhorn-Knopp, over the global batch (section 3.3 of the paper).

The transport plan is diag(u) E diag(v) with E = exp(scores / epsilon): only the two scaling vectors change, so an
iteration is two matrix-vector products, and processes exchange K numbers. The tokens' scaling u drops out when the rows
are normalised in the end: the codes of any token are softmax(scores / epsilon + log v).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from discovr_ray.objective.precision import full_precision

# exp(2 / epsilon) is the largest ratio that cosines can make; its square must stay inside the number format
_SMALLEST_FP32_EPSILON = 0.046


@torch.no_grad()
def sinkhorn_scaling(
    scores: Sequence[Tensor],
    weights: Sequence[Tensor],
    epsilon: float,
    iterations: int,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """log v of the assignment over all tokens of all chunks and, with `group`, of all its processes.

    Args:
        scores: chunks (one per accumulation pass) of cosines [n, K].
        weights: per chunk [n]: 1, or 0 for a token that takes no part.

    Returns:
        [K], fp32, up to a constant. In each iteration the prototypes' marginal (1 / K) comes first, then the tokens'.
    """
    with full_precision(scores[0]):
        highest = torch.stack([chunk.max() for chunk in scores]).max().float()
        if group is not None:
            dist.all_reduce(highest, dist.ReduceOp.MAX, group)
        dtype = torch.float32 if epsilon >= _SMALLEST_FP32_EPSILON else torch.float64
        plans = [((chunk.to(dtype) - highest) / epsilon).exp_() for chunk in scores]
        takes_part = [weight.to(dtype) for weight in weights]
        rows = takes_part
        for _ in range(iterations):
            sums = torch.stack([row @ plan for row, plan in zip(rows, plans, strict=True)]).sum(dim=0)
            if group is not None:
                dist.all_reduce(sums, group=group)
            scaling = 1 / (len(sums) * sums.clamp_min(torch.finfo(dtype).tiny))
            rows = [part / (plan @ scaling) for part, plan in zip(takes_part, plans, strict=True)]
        return scaling.log().float()


@torch.no_grad()
def assign(scores: Tensor, log_v: Tensor, epsilon: float) -> Tensor:
    """Soft codes q [..., K] of cosines [..., K]; each row adds up to 1."""
    return torch.softmax(scores.float() / epsilon + log_v, dim=-1)
