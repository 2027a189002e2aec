"""The two branches as modules: students, teachers, and what both return.

Nothing here draws random numbers, updates a teacher or knows of processes: the loop hands in masks, and the teachers
change only after the optimiser step (`train/ema.py`).
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from discovr_ray.config import Config
from discovr_ray.model.decoder import Decoder
from discovr_ray.model.heads import ProjectionHead, Prototypes
from discovr_ray.model.vit import Encoder, image_spec, video_spec


class StudentOutput(NamedTuple):
    """L: head outputs, K: prototypes. Scores are cosines, fp32; token i is the same tubelet and patch in both."""

    video_logits: Tensor  # [V, B, L]
    image_logits: Tensor  # [V, B * T, L], frames clip by clip
    video_scores: Tensor  # [B, N, K]
    image_scores: Tensor  # [B, N, K]


class TeacherOutput(NamedTuple):
    video_logits: Tensor  # [B, L]
    video_features: Tensor  # [B, D], CLS tokens
    image_logits: Tensor  # [B * T, L]
    image_features: Tensor  # [B, N, D], fp32, see `tubelet_features`


class Explanation(NamedTuple):
    """What a run's report draws over the frames."""

    attention: Tensor  # [B, N] fp32: video teacher's CLS attention in the last block, mean over heads
    prototypes: Tensor  # [B, N] int64: nearest prototype of the image teacher's features


class Student(nn.Module):
    """Everything that the optimiser trains."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        recompute = config.engine.recompute_activations
        self.video = Encoder(video_spec(config), recompute)
        self.video_head = ProjectionHead(config.model)
        self.decoder = Decoder(config)
        self.prototypes = Prototypes(config.model)
        self.image = Encoder(image_spec(config), recompute, cls_only=True)
        self.image_head = ProjectionHead(config.model)

    def forward(
        self, clips: Tensor, image_features: Tensor, video_visible: Tensor, image_visible: Tensor
    ) -> StudentOutput:
        """One forward pass of both branches over all masked views.

        Args:
            clips: [B, 3, T, H, W], normalised.
            image_features: [B, N, D] of the image teacher; no gradient flows into them.
            video_visible: int64 [V + 1, B, n]; the last view goes to the decoder. V may be 0.
            image_visible: int64 [V, B * T, m]. V may be 0.
        """
        cls, patches = self.video(clips, video_visible)
        predicted = self.decoder(patches[-1], video_visible[-1])
        # one call for both sides: the prototypes are normalised, and under ZeRO 3 gathered, once
        video_scores, image_scores = self.prototypes(torch.stack([predicted.float(), image_features.detach()]))
        return StudentOutput(
            video_logits=self.video_head(cls[:-1]),
            image_logits=self._image_logits(clips, image_visible),
            video_scores=video_scores,
            image_scores=image_scores,
        )

    def no_weight_decay(self) -> set[str]:
        """Names of the matrices that weight decay must leave alone; vectors (biases, norms) never decay."""
        kept = ("cls_token", "mask_token", "prototypes.weight")
        return {name for name, parameter in self.named_parameters() if parameter.ndim < 2 or name.endswith(kept)}

    def _image_logits(self, clips: Tensor, visible: Tensor) -> Tensor:
        if len(visible) == 0:
            return clips.new_zeros(0, visible.shape[1], self.image_head.last_layer.weight_v.shape[0])
        return cast(Tensor, self.image_head(self.image(split_frames(clips), visible).cls))


class Teacher(nn.Module):
    """Moving averages of the student's encoders and heads, and the centres of their logits."""

    video_centre: Tensor
    image_centre: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.tubelet_size = config.model.tubelet_size
        self.video = Encoder(video_spec(config), cls_only=True)
        self.video_head = ProjectionHead(config.model)
        self.image = Encoder(image_spec(config))
        self.image_head = ProjectionHead(config.model)
        self.register_buffer("video_centre", torch.zeros(config.model.head_outputs))
        self.register_buffer("image_centre", torch.zeros(config.model.head_outputs))
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, clips: Tensor) -> TeacherOutput:
        """Whole clips [B, 3, T, H, W]; every frame goes through the image encoder once, for CLS and patches alike."""
        video = self.video(clips)
        frames = self.image(split_frames(clips))
        return TeacherOutput(
            video_logits=self.video_head(video.cls),
            video_features=video.cls,
            image_logits=self.image_head(frames.cls),
            image_features=tubelet_features(frames.patches.unflatten(0, (len(clips), -1)), self.tubelet_size),
        )


def split_frames(clips: Tensor) -> Tensor:
    """Clips [B, C, T, H, W] -> their frames as clips of one frame [B * T, C, 1, H, W], clip by clip."""
    return clips.transpose(1, 2).flatten(0, 1).unsqueeze(2)


def tubelet_features(patches: Tensor, tubelet_size: int) -> Tensor:
    """Frame features [B, T, n, D] -> targets of the video tokens [B, T / tubelet * n, D], fp32.

    Each frame is standardised per channel over its n patches (unbiased deviation); then the MEAN over the frames of a
    tubelet stands for the tubelet, so that token i of both branches is the same place at the same time.
    """
    patches = patches.float()
    deviation, mean = torch.std_mean(patches, dim=2, keepdim=True)
    standardised = (patches - mean) / (deviation + 1e-6)
    mean_frame: Tensor = standardised.unflatten(1, (-1, tubelet_size)).mean(dim=2)
    return mean_frame.flatten(1, 2)


@torch.no_grad()
def explain(teacher: Teacher, prototypes: Prototypes, clips: Tensor) -> Explanation:
    """Maps over the tokens of whole clips [B, 3, T, H, W]."""
    patches = teacher.image(split_frames(clips)).patches.unflatten(0, (len(clips), -1))
    scores = prototypes(tubelet_features(patches, teacher.tubelet_size))
    return Explanation(teacher.video.cls_attention(clips), scores.argmax(dim=-1))
