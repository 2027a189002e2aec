"""The smallest configuration that has every part."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from discovr_ray.config import Config, DataConfig, EngineConfig, MaskConfig, ModelConfig


def tiny_config(recompute: bool = False) -> Config:
    """2 x 2 patches of 8 pixels in 2 slices of 2 frames; 3 of 4 patches are hidden."""
    return Config(
        data=DataConfig(num_frames=4, image_size=16),
        mask=MaskConfig(video_views=2, image_views=3, video_ratio=0.75, image_ratio=0.75),
        model=ModelConfig(
            width=24,
            depth=2,
            heads=2,
            mlp_ratio=2.0,
            patch_size=8,
            decoder_width=12,
            decoder_depth=1,
            decoder_heads=2,
            head_hidden=16,
            head_bottleneck=8,
            head_outputs=20,
            num_prototypes=10,
        ),
        engine=EngineConfig(recompute_activations=recompute),
    )


def larger_config() -> Config:
    """As the paper's masks: 7 x 7 patches, 5 visible."""
    config = tiny_config()
    return dataclasses.replace(
        config,
        data=DataConfig(num_frames=6, image_size=56),
        mask=MaskConfig(video_views=3, image_views=2, video_ratio=0.9, image_ratio=0.9),
    )


def random_clips(config: Config, count: int, seed: int = 0) -> Tensor:
    size = config.data.image_size
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, config.data.num_frames, size, size, generator=generator)


def random_frames(config: Config, count: int, seed: int = 0) -> Tensor:
    size = config.data.image_size
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, config.data.num_frames, size, size), generator=generator, dtype=torch.uint8)
