"""Vision transformers of both branches and the decoder (sections 3.1-3.3 of the paper), on timm's blocks.

One encoder class serves videos (tubelets of several frames) and single frames (tubelet of one). A masked encoder embeds
the visible patches alone: with 90 % hidden, that is a tenth of the work in every layer, the patch embedding included.
Every parameter is used only inside the forward of the module that owns it, as ZeRO stage 3 needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, cast

import torch
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from discovr_ray.config import Config


@dataclass(frozen=True)
class EncoderSpec:
    """Everything that fixes an encoder's parameters and positions; stored beside exported weights."""

    width: int  # D
    depth: int
    heads: int
    mlp_ratio: float
    patch_size: int  # pixels
    tubelet_size: int  # frames in one token
    num_frames: int  # T
    image_size: int  # H = W, pixels
    qkv_bias: bool  # on queries and values; keys never have one
    norm_eps: float

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens along time, rows and columns."""
        side = self.image_size // self.patch_size
        return self.num_frames // self.tubelet_size, side, side


def video_spec(config: Config) -> EncoderSpec:
    """Encoder of whole clips; `config` is resolved (model.width and so on are not 0)."""
    data, model = config.data, config.model
    return EncoderSpec(
        width=model.width,
        depth=model.depth,
        heads=model.heads,
        mlp_ratio=model.mlp_ratio,
        patch_size=model.patch_size,
        tubelet_size=model.tubelet_size,
        num_frames=data.num_frames,
        image_size=data.image_size,
        qkv_bias=model.video_qkv_bias,
        norm_eps=model.video_norm_eps,
    )


def image_spec(config: Config) -> EncoderSpec:
    """Encoder of single frames: the same sizes, one frame in, one frame per token."""
    data, model = config.data, config.model
    return EncoderSpec(
        width=model.width,
        depth=model.depth,
        heads=model.heads,
        mlp_ratio=model.mlp_ratio,
        patch_size=model.patch_size,
        tubelet_size=1,
        num_frames=1,
        image_size=data.image_size,
        qkv_bias=model.image_qkv_bias,
        norm_eps=model.image_norm_eps,
    )


class Tokens(NamedTuple):
    """Normalised output of an encoder; the leading axes are those of the mask, or B without one."""

    cls: Tensor  # [..., D]
    patches: Tensor  # [..., n, D], in the order of the visible tokens


def sinusoid(num_tokens: int, width: int) -> Tensor:
    """Fixed positions [num_tokens, width], fp32: token p, channel j has the angle p / 10000^(2*floor(j/2)/width),
    its sine on even j and its cosine on odd j.
    """
    position = torch.arange(num_tokens, dtype=torch.float64)[:, None]
    channel = torch.arange(width, dtype=torch.float64)
    angle = position / 10000.0 ** (2.0 * (channel // 2) / width)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()


def patchify(clips: Tensor, tubelet_size: int, patch_size: int) -> Tensor:
    """Clips [B, C, T, H, W] -> pixels of each token [B, N, C * tubelet * patch * patch]; tokens run t, h, w."""
    b, c, t, h, w = clips.shape
    split = clips.reshape(
        b, c, t // tubelet_size, tubelet_size, h // patch_size, patch_size, w // patch_size, patch_size
    )
    return split.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, -1, c * tubelet_size * patch_size**2)


class PatchProjection(nn.Conv3d):
    """A convolution whose stride is its kernel, applied to patches that are already cut out: a matrix product."""

    def forward(self, pixels: Tensor) -> Tensor:
        """[..., C * tubelet * patch * patch] -> [..., D]."""
        return functional.linear(pixels, self.weight.flatten(1), self.bias)


class PatchEmbedding(nn.Module):
    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        kernel = (spec.tubelet_size, spec.patch_size, spec.patch_size)
        self.proj = PatchProjection(3, spec.width, kernel, kernel)

    def forward(self, pixels: Tensor) -> Tensor:
        return cast(Tensor, self.proj(pixels))


class BiasedLinear(nn.Linear):
    """A linear map whose bias is handed in by its owner, so that the sum stays inside the matrix product."""

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.linear(x, self.weight, bias)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for [B, heads, n, d], with the fused kernel wherever that is the fastest.

    In bf16 on a CPU it is not: two plain products take half its time (torch 2.15), at the price of scores rounded to
    bf16. Long sequences go head by head there, because a head's scores fit into the cache.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return functional.scaled_dot_product_attention(q, k, v)
    q = q * q.shape[-1] ** -0.5
    if q.shape[2] < 512:
        return (q @ k.transpose(-1, -2)).softmax(dim=-1) @ v
    heads = zip(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), strict=True)
    mixed = [(one_q @ one_k.t()).softmax(dim=-1) @ one_v for one_q, one_k, one_v in heads]
    return torch.stack(mixed).view_as(q)


class Attention(nn.Module):
    """Multi-head self-attention with the fused kernel; biases on queries and values only, or on none."""

    def __init__(self, width: int, heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = BiasedLinear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(width)) if qkv_bias else None
        self.proj = nn.Linear(width, width)

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
        qkv = self.qkv(x, bias)
        return cast("tuple[Tensor, ...]", qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0))


class Block(TimmBlock):
    """timm's pre-norm block (exact GELU, no layer scale, no dropout) with the attention above."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, qkv_bias: bool, norm_eps: float) -> None:
        super().__init__(width, heads, mlp_ratio, norm_layer=partial(LayerNorm, eps=norm_eps))
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


class Encoder(nn.Module):
    """A ViT over clips (or frames, as clips of one frame), with or without a mask.

    With `cls_only` its patch tokens [..., 0, D] are empty: where nobody asks for them, the last block computes the CLS
    token alone, a saving of 3 to 6 %.
    """

    positions: Tensor

    def __init__(self, spec: EncoderSpec, recompute: bool = False, cls_only: bool = False) -> None:
        super().__init__()
        self.spec = spec
        self.recompute = recompute
        self.cls_only = cls_only
        self.patch_embed = PatchEmbedding(spec)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, spec.width))
        self.blocks = nn.ModuleList(
            Block(spec.width, spec.heads, spec.mlp_ratio, spec.qkv_bias, spec.norm_eps) for _ in range(spec.depth)
        )
        self.norm = LayerNorm(spec.width, eps=spec.norm_eps)
        t, h, w = spec.grid
        self.register_buffer("positions", sinusoid(t * h * w, spec.width), persistent=False)
        init_weights(self)

    def forward(self, clips: Tensor, visible: Tensor | None = None) -> Tokens:
        """Encode clips [B, 3, T, H, W], normalised.

        Args:
            visible: indices of the visible tokens, int64, ascending: [B, n], or [V, B, n] for V views of the same clips
                in one pass. None: all N tokens.

        Errors:
            ValueError: the clips do not have the size that the positions were made for.
        """
        x = self._embed(clips, visible)
        return self._split(self.norm(run_blocks(self.blocks, x, self.recompute, self.cls_only)), visible)

    @torch.no_grad()
    def cls_attention(self, clips: Tensor) -> Tensor:
        """What the CLS token looks at in the last block: mean over heads, [B, N], fp32; a row and the CLS's own share
        add up to 1.
        """
        last = cast(Block, self.blocks[-1])
        x = run_blocks(self.blocks[:-1], self._embed(clips, None), False)
        return last.attn.cls_weights(last.norm1(x))

    def _embed(self, clips: Tensor, visible: Tensor | None) -> Tensor:
        """Patches, positions and the CLS token (its position is zero): [V * B, 1 + n, D]."""
        spec = self.spec
        expected = (3, spec.num_frames, spec.image_size, spec.image_size)
        if tuple(clips.shape[1:]) != expected:
            raise ValueError(f"clips have shape {tuple(clips.shape)}: the encoder was built for [B, {expected}]")
        pixels = patchify(clips, spec.tubelet_size, spec.patch_size)
        positions = self.positions
        if visible is not None:
            clip = torch.arange(len(pixels), device=pixels.device)[:, None]
            pixels = pixels[clip, visible].flatten(0, -3)
            positions = positions[visible].flatten(0, -3)
        x = self.patch_embed(pixels) + positions
        return torch.cat([self.cls_token.expand(len(x), -1, -1).to(x.dtype), x], dim=1)

    def _split(self, x: Tensor, visible: Tensor | None) -> Tokens:
        if visible is not None and visible.ndim == 3:
            x = x.unflatten(0, visible.shape[:2])
        return Tokens(x[..., 0, :], x[..., 1:, :])


class Decoder(nn.Module):
    """Predicts a feature of the encoder's width for every token from the visible ones (section 3.3)."""

    positions: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        model, spec = config.model, video_spec(config)
        width = model.decoder_width
        self.recompute = config.engine.recompute_activations
        self.project = nn.Linear(model.width, width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(
            Block(width, model.decoder_heads, model.mlp_ratio, model.video_qkv_bias, model.video_norm_eps)
            for _ in range(model.decoder_depth)
        )
        self.norm = LayerNorm(width, eps=model.video_norm_eps)
        self.head = nn.Linear(width, model.width)
        t, h, w = spec.grid
        self.register_buffer("positions", sinusoid(t * h * w, width), persistent=False)
        init_weights(self)

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Encoded visible tokens [B, n, D] and their indices [B, n] -> features [B, N, D]; row i is token i."""
        return self.decode(self.place(self.project(tokens), visible) + self.positions)

    def place(self, projected: Tensor, visible: Tensor) -> Tensor:
        """Put projected tokens [B, n, width] at their natural places among mask tokens: [B, N, width]."""
        b, _, width = projected.shape
        filled = self.mask_token.to(projected.dtype).expand(b, len(self.positions), width)
        return filled.scatter(1, visible[:, :, None].expand(-1, -1, width), projected)

    def decode(self, x: Tensor) -> Tensor:
        """Embedded tokens with positions [B, N, width] -> [B, N, D]."""
        return cast(Tensor, self.head(self.norm(run_blocks(self.blocks, x, self.recompute))))
