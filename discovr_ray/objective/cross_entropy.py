"""Cross-entropy against soft targets over many classes, whose gradient is made along with its value.

Left to autograd, about ten passes over [rows, K] go through main memory: a tenth of the whole step on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# entries held at once, in fp32: on a CPU they stay in the cache, on a GPU they fill it
_CPU_PIECE, _GPU_PIECE = 2**18, 2**25


def soft_cross_entropy(
    scores: Tensor, targets: Callable[[slice], Tensor], shares: Tensor, temperature: float
) -> Tensor:
    """sum over rows of share * H(targets, softmax(scores / temperature)); fp32, differentiable once.

    Args:
        scores: [R, K] of any floating type; the gradient has the same.
        targets: gives the distributions [r, K], fp32, of some rows. No gradient reaches them.
        shares: [R], fp32.
    """
    return cast(Tensor, _SoftCrossEntropy.apply(scores, targets, shares, temperature))


class _SoftCrossEntropy(torch.autograd.Function):
    """The gradient is share * (softmax - targets) / temperature."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, targets: Callable[[slice], Tensor], shares: Tensor, temperature: float
    ) -> Tensor:
        gradient = torch.empty_like(scores)
        total = shares.new_zeros(())
        piece = _CPU_PIECE if scores.device.type == "cpu" else _GPU_PIECE
        step = max(1, piece // scores.shape[1])
        for start in range(0, len(scores), step):
            rows = slice(start, start + step)
            wanted, share = targets(rows), shares[rows]
            logits = scores[rows].float() / temperature
            expected = torch.linalg.vecdot(wanted, logits)
            largest = logits.amax(dim=-1, keepdim=True)
            exponentials = logits.sub_(largest).exp_()
            sums = exponentials.sum(dim=-1, keepdim=True)
            total += share @ (sums.log() + largest).squeeze(-1).sub_(expected)
            gradient[rows] = exponentials.div_(sums).sub_(wanted).mul_(share[:, None] / temperature)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer, None, None, None
