"""Balanced assignment of tokens to prototypes by Sinkhorn-Knopp, over the global batch (section 3.3 of the paper).

The transport plan is diag(u) E diag(v) with E = exp(scores / epsilon): only the two scaling vectors change, so an
iteration is two matrix-vector products, and processes exchange K numbers. The tokens' scaling u drops out when the rows
are normalised in the end: the codes of any token are E v, divided by their sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from discovr_ray.objective.precision import full_precision

# scores / epsilon stays within +-22 above this, so that products of two of its exponentials stay inside fp32
_SMALLEST_FP32_EPSILON = 0.046


@torch.no_grad()
def sinkhorn_scaling(
    scores: Sequence[Tensor],
    weights: Sequence[Tensor],
    epsilon: float,
    iterations: int,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Scaling v of the prototypes over all tokens of all chunks and, with `group`, of all its processes.

    Args:
        scores: chunks (one per accumulation pass) of cosines [n, K].
        weights: per chunk [n]: 1, or 0 for a token that takes no part.

    Returns:
        [K], fp32 (fp64 where a small epsilon needs its range). Up to a constant; in each iteration the
        prototypes' marginal comes first, then the tokens'.
    """
    dtype = torch.float32 if epsilon >= _SMALLEST_FP32_EPSILON else torch.float64
    with full_precision(scores[0]):
        plans = [(chunk.to(dtype) / epsilon).exp_() for chunk in scores]
        takes_part = [weight.to(dtype) for weight in weights]
        rows = takes_part
        for _ in range(iterations):
            sums = torch.stack([row @ plan for row, plan in zip(rows, plans, strict=True)]).sum(dim=0)
            if group is not None:
                dist.all_reduce(sums, group=group)
            # the mean keeps the plan's total as it is: with constant marginals the vectors would drift out of range
            scaling: Tensor = sums.mean() / sums.clamp_min(1e-30)
            rows = [part / (plan @ scaling) for part, plan in zip(takes_part, plans, strict=True)]
        return scaling


@torch.no_grad()
def assign(scores: Tensor, scaling: Tensor, epsilon: float) -> Tensor:
    """Soft codes q [..., K], fp32, of cosines [..., K]; each row adds up to 1."""
    codes = (scores.to(scaling.dtype) / epsilon).exp_().mul_(scaling)
    return codes.div_(codes.sum(dim=-1, keepdim=True)).float()
