"""Linear maps, and how to compute them in bf16 on a CPU, where what torch does by itself is slow.

Everywhere else, so on CUDA and in fp32, they are torch's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class Linear(nn.Linear):
    """nn.Linear by way of `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias for x [..., inputs] and weight [outputs, inputs]; under autocast differentiable once."""
    if x.numel() == 0 or not runs_in_bf16_on_cpu(x):
        return functional.linear(x, weight, bias)
    return cast(Tensor, _Bf16Linear.apply(x, weight, bias))


def fp32_scores(x: Tensor, weight: Tensor, fast: bool) -> Tensor:
    """x weight^T in fp32 for fp32 x [..., inputs] and weight [outputs, inputs]; differentiable once when `fast`.

    `fast` rounds what is multiplied to bf16, but not the sums: products of unit vectors of 768 numbers are off by less
    than 0.001. The products of its gradient are those of every other layer in bf16.
    """
    if not fast:
        return functional.linear(x, weight)
    return cast(Tensor, _Bf16Scores.apply(x, weight))


def runs_in_bf16_on_cpu(x: Tensor) -> bool:
    """Whether autocast would multiply x in bf16 with oneDNN's kernels."""
    return (
        x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and _onednn_has_bf16()
    )


@cache
def _onednn_has_bf16() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _Bf16Linear(torch.autograd.Function):
    """oneDNN adds the bias on the way; torch's addmm would first copy it into every row of the output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x_low, weight_low = x.bfloat16(), weight.bfloat16()
        bias_low = None if bias is None else bias.bfloat16()
        ctx.save_for_backward(x_low, weight_low)
        ctx.dtypes = x.dtype, weight.dtype, None if bias is None else bias.dtype
        output: Tensor = torch.ops.mkldnn._linear_pointwise(x_low, weight_low, bias_low, "none", [], "")
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        x_dtype, weight_dtype, bias_dtype = ctx.dtypes
        rows = outer.flatten(0, -2)
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            (outer @ weight).to(x_dtype) if for_x else None,
            _weight_gradient(rows, x.flatten(0, -2)).to(weight_dtype) if for_weight else None,
            rows.sum(dim=0).to(bias_dtype) if for_bias else None,
        )


class _Bf16Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x.bfloat16(), weight.bfloat16())
        with _bf16_inside_fp32_products():
            return x @ weight.t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        low = outer.bfloat16()
        for_x, for_weight = ctx.needs_input_grad
        return (
            (low @ weight).float() if for_x else None,
            _weight_gradient(low.flatten(0, -2), x.flatten(0, -2)).float() if for_weight else None,
        )


def _weight_gradient(outer: Tensor, x: Tensor) -> Tensor:
    """outer^T x for bf16 [n, outputs] and [n, inputs].

    oneDNN is slow at turning the left factor itself, so it is handed in turned, and of the two factors the narrower
    one is taken for the left: that saves up to a third of the time.
    """
    if outer.shape[1] <= x.shape[1]:
        return outer.t().contiguous() @ x
    return (x.t().contiguous() @ outer).t().contiguous()


@contextmanager
def _bf16_inside_fp32_products() -> Iterator[None]:
    matmul = cast(Any, torch.backends.mkldnn).matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
