"""One full optimiser step on torch alone, for both benchmarks: no Ray, no DeepSpeed, no process group.

The order is that of `discovr_ray/train/loop.py` for one worker and one pass: crop and masks, teachers, students,
losses, backward, AdamW, centres, teacher update.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from discovr_ray.config import Config
from discovr_ray.model.discovr import Student, StudentOutput, Teacher, TeacherOutput
from discovr_ray.model.masks import crop_clips, image_visible, video_visible
from discovr_ray.objective.distillation import distillation_loss, logit_sum, update_centre
from discovr_ray.objective.scd import scd_loss
from discovr_ray.objective.sinkhorn import sinkhorn_scaling

TEACHER_TEMPERATURE = 0.04
EMA_MOMENTUM = 0.996
LEARNING_RATE = 1e-5


class Inputs(NamedTuple):
    clips: Tensor  # [B, 3, T, H, W]
    video_visible: Tensor  # [V + 1, B, n]
    image_visible: Tensor  # [V, B * T, m]


class Losses(NamedTuple):
    vid: Tensor
    img: Tensor
    scd: Tensor


class OneStep:
    """Students, teachers and optimiser on one device; parameters are fp32, the computation is autocast for bf16."""

    def __init__(self, config: Config, device: torch.device, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.config = config
        self.device = device
        self.student = Student(config).to(device)
        self.teacher = Teacher(config).to(device).eval()
        own = dict(self.student.named_parameters())
        self._followed = [own[name] for name, _ in self.teacher.named_parameters()]
        self._followers = list(self.teacher.parameters())
        self.update_teacher(momentum=0.0)
        kept = self.student.no_weight_decay()
        self.optimiser = torch.optim.AdamW(
            [
                {
                    "params": [p for name, p in own.items() if name not in kept],
                    "weight_decay": config.optim.weight_decay,
                },
                {"params": [p for name, p in own.items() if name in kept], "weight_decay": 0.0},
            ],
            lr=LEARNING_RATE,
            betas=(config.optim.beta1, config.optim.beta2),
            eps=config.optim.eps,
            fused=True,
        )

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.engine.precision == "bf16")

    def prepare(self, frames: Tensor, clip_keys: Tensor, epoch: int = 0) -> Inputs:
        """Frames uint8 [B, T, H, W] and clip keys int64 [B], both on the device."""
        return Inputs(
            clips=crop_clips(frames, clip_keys, epoch, self.config),
            video_visible=video_visible(clip_keys, epoch, self.config),
            image_visible=image_visible(clip_keys, epoch, self.config),
        )

    def targets(self, inputs: Inputs) -> TeacherOutput:
        with torch.no_grad(), self.autocast():
            output: TeacherOutput = self.teacher(inputs.clips)
            return output

    def losses(self, inputs: Inputs, targets: TeacherOutput) -> Losses:
        with self.autocast():
            output: StudentOutput = self.student(inputs.clips, targets.image_features, *inputs[1:])
        return Losses(*self._distillation(output, targets), self._clusters(output))

    def update(self, losses: Losses, targets: TeacherOutput) -> None:
        """Backward, AdamW, centres, teachers."""
        torch.stack(losses).sum().backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.update_centres(targets)
        self.update_teacher(EMA_MOMENTUM)

    def step(self, frames: Tensor, clip_keys: Tensor) -> Losses:
        inputs = self.prepare(frames, clip_keys)
        targets = self.targets(inputs)
        losses = self.losses(inputs, targets)
        self.update(losses, targets)
        return losses

    def update_centres(self, targets: TeacherOutput) -> None:
        for logits, centre in (
            (targets.video_logits, self.teacher.video_centre),
            (targets.image_logits, self.teacher.image_centre),
        ):
            ones = torch.ones(len(logits), device=self.device)
            update_centre(centre, logit_sum(logits, ones), len(logits), self.config.loss.centre_momentum)

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        torch._foreach_lerp_(self._followers, self._followed, 1 - momentum)

    def _distillation(self, output: StudentOutput, targets: TeacherOutput) -> list[Tensor]:
        temperatures = (TEACHER_TEMPERATURE, self.config.loss.student_temperature)
        return [
            distillation_loss(
                teacher, student, centre, *temperatures, torch.ones(len(teacher), device=self.device), len(teacher)
            )
            for teacher, student, centre in (
                (targets.video_logits, output.video_logits, self.teacher.video_centre),
                (targets.image_logits, output.image_logits, self.teacher.image_centre),
            )
        ]

    def _clusters(self, output: StudentOutput) -> Tensor:
        loss = self.config.loss
        video, image = output.video_scores, output.image_scores
        tokens = torch.ones(video.shape[:2].numel(), device=self.device)
        scalings = [
            sinkhorn_scaling([scores.detach().flatten(0, 1)], [tokens], loss.sinkhorn_epsilon, loss.sinkhorn_iterations)
            for scores in (video, image)
        ]
        return scd_loss(video, image, *scalings, torch.ones(len(video), device=self.device), len(video), loss)


def random_batch(config: Config, num_clips: int, device: torch.device, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise as frames (uint8 [B, T, H, W]) and clip keys (int64 [B]), drawn on the CPU so that devices agree."""
    generator = torch.Generator().manual_seed(seed)
    size = config.data.image_size
    shape = (num_clips, config.data.num_frames, size, size)
    frames = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    keys = torch.randint(0, 2**62, (num_clips,), generator=generator)
    return frames.to(device), keys.to(device)
