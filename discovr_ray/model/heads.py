"""Projection heads of the self-distillation losses and the prototypes of semantic cluster distillation."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from discovr_ray.config import ModelConfig
from discovr_ray.model.blocks import init_weights
from discovr_ray.model.linear import Linear, fp32_scores, linear, runs_in_bf16_on_cpu


class UnitRowLinear(nn.Module):
    """A linear map without bias whose rows have length 1: weight normalisation with its gain fixed, so only the
    direction of `weight_v` trains.
    """

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.weight_v = nn.Parameter(torch.empty(num_outputs, num_inputs))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, functional.normalize(self.weight_v, dim=1))


class ProjectionHead(nn.Module):
    """CLS tokens [..., D] -> cosines to L directions [..., L] (section 3.1)."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            Linear(model.width, model.head_hidden),
            nn.GELU(),
            Linear(model.head_hidden, model.head_hidden),
            nn.GELU(),
            Linear(model.head_hidden, model.head_bottleneck),
        )
        self.last_layer = UnitRowLinear(model.head_bottleneck, model.head_outputs)
        init_weights(self)

    def forward(self, cls: Tensor) -> Tensor:
        return cast(Tensor, self.last_layer(functional.normalize(self.mlp(cls), dim=-1)))


class Prototypes(nn.Module):
    """K directions in the encoder's feature space, shared by both branches (section 3.3)."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(functional.normalize(torch.randn(model.num_prototypes, model.width), dim=1))

    def forward(self, features: Tensor) -> Tensor:
        """Features [..., D] -> cosines [..., K], fp32 whatever the precision around it: the assignment multiplies
        them by 20, which is more than bf16's three digits can bear.

        In bf16 on a CPU the factors are rounded to bf16, which adds less than the features' own rounding.
        """
        fast = runs_in_bf16_on_cpu(features)
        with torch.autocast(features.device.type, enabled=False):
            unit = functional.normalize(self.weight.float(), dim=1)
            return fp32_scores(functional.normalize(features.float(), dim=-1), unit, fast)
