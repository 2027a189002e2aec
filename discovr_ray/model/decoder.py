"""The decoder of semantic cluster distillation (section 3.3 of the paper)."""

from __future__ import annotations

from typing import cast

import torch
from timm.layers import LayerNorm
from torch import Tensor, nn

from discovr_ray.config import Config
from discovr_ray.model.blocks import Block, init_weights, run_blocks, sinusoid
from discovr_ray.model.linear import Linear
from discovr_ray.model.vit import video_spec


class Decoder(nn.Module):
    """Predicts a feature of the encoder's width for every token from the visible ones (section 3.3)."""

    positions: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        model, spec = config.model, video_spec(config)
        width = model.decoder_width
        self.recompute = config.engine.recompute_activations
        self.project = Linear(model.width, width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(
            Block(width, model.decoder_heads, model.mlp_ratio, model.video_qkv_bias, model.video_norm_eps)
            for _ in range(model.decoder_depth)
        )
        self.norm = LayerNorm(width, eps=model.video_norm_eps)
        self.head = Linear(width, model.width)
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
