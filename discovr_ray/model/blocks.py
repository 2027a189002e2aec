"""What encoders and decoder are made of: timm's pre-norm block with our attention, positions, initial weights."""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from discovr_ray.model.linear import Linear, linear


class BiasedLinear(nn.Linear):
    """A linear map whose bias is handed in by its owner, so that the sum stays inside the matrix product."""

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return linear(x, self.weight, bias)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for [B, heads, n, d], with the fused kernel wherever that is the fastest.

    In bf16 on a CPU it rarely is: two plain products take half its time (torch 2.15), at the price of scores rounded to
    bf16. Long sequences go head by head there, because a head's scores fit into the cache.
    """
    if not _plain_is_faster(q):
        return functional.scaled_dot_product_attention(q, k, v)
    q = q * q.shape[-1] ** -0.5
    if q.shape[2] < 512:
        return (q @ k.transpose(-1, -2)).softmax(dim=-1) @ v
    heads = zip(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), strict=True)
    mixed = [(one_q @ one_k.t()).softmax(dim=-1) @ one_v for one_q, one_k, one_v in heads]
    return torch.stack(mixed).view_as(q)


def _plain_is_faster(q: Tensor) -> bool:
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return False
    # with matrix tiles the fused kernel wins where nothing is kept for a backward pass
    return q.requires_grad or not torch.cpu._is_amx_tile_supported()


class Attention(nn.Module):
    """Multi-head self-attention with the fused kernel; biases on queries and values only, or on none."""

    def __init__(self, width: int, heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = BiasedLinear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(width)) if qkv_bias else None
        self.proj = Linear(width, width)

    def forward(self, x: Tensor, cls_only: bool = False) -> Tensor:
        """[B, N, D] -> [B, N, D], or [B, 1, D]: what the first token gathers from all."""
        q, k, v = self._project(x)
        mixed = attend(q[:, :, :1] if cls_only else q, k, v)
        return cast(Tensor, self.proj(mixed.transpose(1, 2).flatten(2)))

    def cls_weights(self, x: Tensor) -> Tensor:
        """Attention of the first token to the others, mean over heads: [B, N, D] -> [B, N - 1], fp32."""
        q, k, _ = self._project(x)
        scores = (q[:, :, :1].float() @ k.float().transpose(-1, -2)) * q.shape[-1] ** -0.5
        weights: Tensor = scores.softmax(dim=-1)[:, :, 0, 1:].mean(dim=1)
        return weights

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        """[B, N, D] -> queries, keys and values, each [B, heads, N, D / heads]."""
        bias = None
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        # taken apart along this axis, the three gradients are put together in the order that the product needs
        parts = self.qkv(x, bias).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return tuple(part.transpose(1, 2) for part in parts)


class Mlp(nn.Module):
    """Two linear maps with exact GELU between them. timm's block names its sizes, and options that are not used."""

    def __init__(self, in_features: int, hidden_features: int, **_: object) -> None:
        super().__init__()
        self.fc1 = Linear(in_features, hidden_features)
        self.fc2 = Linear(hidden_features, in_features)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fc2(functional.gelu(self.fc1(x))))


class Block(TimmBlock):
    """timm's pre-norm block (no layer scale, no dropout) with the attention and the maps above."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, qkv_bias: bool, norm_eps: float) -> None:
        norm = partial(LayerNorm, eps=norm_eps)
        super().__init__(width, heads, mlp_ratio, norm_layer=norm, mlp_layer=Mlp)
        self.attn = Attention(width, heads, qkv_bias)

    def forward(self, x: Tensor, cls_only: bool = False) -> Tensor:
        """[B, N, D] -> [B, N, D], or the first token of it, [B, 1, D]."""
        x = (x[:, :1] if cls_only else x) + self.attn(self.norm1(x), cls_only)
        return x + cast(Tensor, self.mlp(self.norm2(x)))


def run_blocks(blocks: nn.ModuleList, x: Tensor, recompute: bool, cls_only: bool = False) -> Tensor:
    """Apply the blocks in turn; with `recompute` the backward pass computes each block's activations again.

    With `cls_only` the last block yields the first token alone.
    """
    for place, block in enumerate(blocks, start=1):
        shorten = cls_only and place == len(blocks)
        if recompute and torch.is_grad_enabled():
            x = cast(Tensor, checkpoint(block, x, shorten, use_reentrant=False))
        else:
            x = block(x, shorten)
    return x


def init_weights(module: nn.Module) -> None:
    """Truncated normal (0.02) for matrices and tokens, zero for biases; norms keep 1 and 0. Uses torch's generator."""
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            nn.init.trunc_normal_(parameter, std=0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def sinusoid(num_tokens: int, width: int) -> Tensor:
    """Fixed positions [num_tokens, width], fp32: token p, channel j has the angle p / 10000^(2*floor(j/2)/width),
    its sine on even j and its cosine on odd j.
    """
    position = torch.arange(num_tokens, dtype=torch.float64)[:, None]
    channel = torch.arange(width, dtype=torch.float64)
    angle = position / 10000.0 ** (2.0 * (channel // 2) / width)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()
