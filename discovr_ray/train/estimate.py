"""Memory that a worker will need, from the configuration alone; tests/train/test_estimate.py measures a real step."""

from __future__ import annotations

from typing import NamedTuple

import torch

from discovr_ray.config import Config
from discovr_ray.model.discovr import Student, Teacher

FP32 = 4  # bytes


class MemoryEstimate(NamedTuple):
    """Bytes on one worker's device."""

    student_parameters: int  # count, not bytes
    weights: int
    gradients: int
    optimizer: int  # moments, and the master copy that ZeRO 1 and 2 keep
    teachers: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.teachers + self.activations


def estimate_memory(config: Config) -> MemoryEstimate:
    """Static part exact but for buffers, activations within a fifth: at the start of the backward pass, their peak.

    Without what the framework, its buckets of collectives and the allocator take.
    """
    with torch.device("meta"):
        student = sum(parameter.numel() for parameter in Student(config).parameters())
        teacher = sum(parameter.numel() for parameter in Teacher(config).parameters())
    stage, workers = config.engine.zero_stage, config.run.min_workers

    def share(from_stage: int) -> int:
        return workers if stage >= from_stage else 1

    master_copy = FP32 * student // workers if stage in (1, 2) else 0
    return MemoryEstimate(
        student_parameters=student,
        weights=FP32 * student // share(3),
        gradients=FP32 * student // share(2),
        optimizer=2 * FP32 * student // share(1) + master_copy,
        teachers=FP32 * teacher // share(3),
        activations=_activations(config),
    )


def _activations(config: Config) -> int:
    data, mask, model = config.data, config.mask, config.model
    clips, frames = config.engine.micro_batch, data.num_frames
    patches = (data.image_size // model.patch_size) ** 2
    slices = frames // model.tubelet_size
    video_visible = slices * (patches - int(mask.video_ratio * patches)) + 1
    image_visible = patches - int(mask.image_ratio * patches) + 1
    video_encoded = (mask.video_views + 1) * clips * video_visible
    image_encoded = mask.image_views * clips * frames * image_visible
    video_tokens = clips * slices * patches
    encoder_block, decoder_block = _block_bytes(config, model.width), _block_bytes(config, model.decoder_width)
    pixels = 3 * model.patch_size**2 * _compute_bytes(config)
    stems = video_encoded * (model.tubelet_size * pixels + 2 * FP32 * model.width)  # embedded tokens, last norm
    stems += image_encoded * (pixels + 2 * FP32 * model.width)
    if config.engine.recompute_activations:  # each block's input, and one block at a time in full
        one_block = max(video_encoded * encoder_block, image_encoded * encoder_block, video_tokens * decoder_block)
        encoder_block, decoder_block = FP32 * model.width, FP32 * model.decoder_width
    else:
        one_block = 0
    encoder = (video_encoded + image_encoded) * model.depth * encoder_block + stems
    decoder = video_tokens * model.decoder_depth * decoder_block + one_block
    # logits and their kept gradient for each view, then the gradient that backward hands on; scores alike, both sides
    views = mask.video_views * clips + mask.image_views * clips * frames + clips + clips * frames
    heads = (2 * _compute_bytes(config) + FP32) * views * model.head_outputs
    clusters = 2 * 3 * FP32 * video_tokens * model.num_prototypes
    return encoder + decoder + heads + clusters


def _block_bytes(config: Config, width: int) -> int:
    """What one block keeps of a token for the backward pass."""
    # both norms' inputs; both norms' outputs, q, k, v and the attention's output; the MLP before and after GELU
    return int(2 * FP32 * width + _compute_bytes(config) * width * (6 + 2 * config.model.mlp_ratio))


def _compute_bytes(config: Config) -> int:
    return 2 if config.engine.precision == "bf16" else FP32
