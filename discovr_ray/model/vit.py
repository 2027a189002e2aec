"""The vision transformer of both branches (sections 3.1 and 3.2 of the paper), on timm's blocks.

One encoder class serves videos (tubelets of several frames) and single frames (tubelet of one). A masked encoder embeds
the visible patches alone: with 90 % hidden, that is a tenth of the work in every layer, the patch embedding included.
Every parameter is used only inside the forward of the module that owns it, as ZeRO stage 3 needs it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch
from timm.layers import LayerNorm
from torch import Tensor, nn

from discovr_ray.config import Config
from discovr_ray.model.blocks import Block, init_weights, run_blocks, sinusoid
from discovr_ray.model.linear import linear


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
    model = config.model
    return replace(
        video_spec(config),
        tubelet_size=1,
        num_frames=1,
        qkv_bias=model.image_qkv_bias,
        norm_eps=model.image_norm_eps,
    )


class Tokens(NamedTuple):
    """Normalised output of an encoder; the leading axes are those of the mask, or B without one."""

    cls: Tensor  # [..., D]
    patches: Tensor  # [..., n, D], in the order of the visible tokens


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
        return linear(pixels, self.weight.flatten(1), self.bias)


class PatchEmbedding(nn.Module):
    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        kernel = (spec.tubelet_size, spec.patch_size, spec.patch_size)
        self.proj = PatchProjection(3, spec.width, kernel, kernel)

    def forward(self, pixels: Tensor) -> Tensor:
        return cast(Tensor, self.proj(pixels))


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
        # len(x) would be fixed when the model is exported
        return torch.cat([self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)

    def _split(self, x: Tensor, visible: Tensor | None) -> Tokens:
        if visible is not None and visible.ndim == 3:
            x = x.unflatten(0, visible.shape[:2])
        return Tokens(x[..., 0, :], x[..., 1:, :])
