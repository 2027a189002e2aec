"""One full optimiser step for both benchmarks, on torch alone or through the package's DeepSpeed engine.

The order is that of `discovr_ray/train/loop.py` for one worker and one pass: crop and masks, teachers, students,
losses, backward, AdamW, centres, teacher update. Nothing here needs Ray, pydantic or, for `OneStep`, DeepSpeed.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from discovr_ray.config import MODEL_SIZES, Config, DataConfig, EngineConfig, MaskConfig, ModelConfig
from discovr_ray.model.discovr import Student, StudentOutput, Teacher, TeacherOutput
from discovr_ray.model.masks import crop_clips, image_visible, video_visible
from discovr_ray.objective.distillation import distillation_loss, logit_sum, update_centre
from discovr_ray.objective.scd import scd_loss
from discovr_ray.objective.sinkhorn import sinkhorn_scaling
from discovr_ray.train.deepspeed_config import parameter_groups

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
        torch.manual_seed(seed)  # weights are drawn on the CPU, so that all devices start alike
        self.config = config
        self.device = device
        self.student = Student(config).to(device)
        self.teacher = Teacher(config).to(device).eval()
        own = dict(self.student.named_parameters())
        self._followed = [own[name] for name, _ in self.teacher.named_parameters()]
        self._followers = list(self.teacher.parameters())
        self.update_teacher(momentum=0.0)
        self.optimiser = torch.optim.AdamW(
            parameter_groups(self.student, config.optim),
            lr=LEARNING_RATE,
            betas=(config.optim.beta1, config.optim.beta2),
            eps=config.optim.eps,
            fused=True,
        )

    def step(self, frames: Tensor, clip_keys: Tensor) -> Losses:
        inputs = self.prepare(frames, clip_keys)
        targets = self.targets(inputs)
        losses = self.losses(self.run_student(inputs, targets), targets)
        self.backward(losses)
        self.optimise()
        self.update_centres(targets)
        self.update_teacher(EMA_MOMENTUM)
        return losses

    def prepare(self, frames: Tensor, clip_keys: Tensor, epoch: int = 0) -> Inputs:
        """Frames uint8 [B, T, H, W] and clip keys int64 [B], both on the device."""
        return Inputs(
            clips=crop_clips(frames, clip_keys, epoch, self.config),
            video_visible=video_visible(clip_keys, epoch, self.config),
            image_visible=image_visible(clip_keys, epoch, self.config),
        )

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.engine.precision == "bf16")

    def targets(self, inputs: Inputs) -> TeacherOutput:
        with torch.no_grad(), self.autocast():
            output: TeacherOutput = self.teacher(inputs.clips)
            return output

    def run_student(self, inputs: Inputs, targets: TeacherOutput) -> StudentOutput:
        with self.autocast():
            output: StudentOutput = self.student(inputs.clips, targets.image_features, *inputs[1:])
            return output

    def losses(self, output: StudentOutput, targets: TeacherOutput) -> Losses:
        return Losses(*self.distillation(output, targets), self.clusters(output.video_scores, output.image_scores))

    def backward(self, losses: Losses) -> None:
        torch.stack(losses).sum().backward()

    def optimise(self) -> None:
        self.optimiser.step()
        self.optimiser.zero_grad()

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        torch._foreach_lerp_(self._followers, self._followed, 1 - momentum)

    def update_centres(self, targets: TeacherOutput) -> None:
        momentum = self.config.loss.centre_momentum
        for logits, centre in (
            (targets.video_logits, self.teacher.video_centre),
            (targets.image_logits, self.teacher.image_centre),
        ):
            update_centre(centre, logit_sum(logits, self._ones(len(logits))), len(logits), momentum)

    def distillation(self, output: StudentOutput, targets: TeacherOutput) -> list[Tensor]:
        """Losses of the video and of the image branch."""
        temperatures = (TEACHER_TEMPERATURE, self.config.loss.student_temperature)
        return [
            distillation_loss(teacher, student, centre, *temperatures, self._ones(len(teacher)), len(teacher))
            for teacher, student, centre in (
                (targets.video_logits, output.video_logits, self.teacher.video_centre),
                (targets.image_logits, output.image_logits, self.teacher.image_centre),
            )
        ]

    def clusters(self, video: Tensor, image: Tensor) -> Tensor:
        """Assignment of scores [B, N, K] of both branches, and its loss."""
        loss = self.config.loss
        tokens = self._ones(video.shape[:2].numel())
        scalings = [
            sinkhorn_scaling([side.detach().flatten(0, 1)], [tokens], loss.sinkhorn_epsilon, loss.sinkhorn_iterations)
            for side in (video, image)
        ]
        return scd_loss(video, image, *scalings, self._ones(len(video)), len(video), loss)

    def _ones(self, count: int) -> Tensor:
        return torch.ones(count, device=self.device)


class DeepSpeedStep(OneStep):
    """The same step through `discovr_ray.train.engine`, alone in its process group.

    Errors:
        ImportError: DeepSpeed, or what the engine needs beside it, is not installed.
    """

    def __init__(self, config: Config, device: torch.device, seed: int = 0) -> None:
        from discovr_ray.train.engine import Engine

        torch.manual_seed(seed)
        self.config = config
        self.device = device
        self.student, self.teacher = Student(config).to(device), Teacher(config)
        self.engine = Engine(self.student, self.teacher, config, world_size=1, device=device)

    def targets(self, inputs: Inputs) -> TeacherOutput:
        return self.engine.forward_teacher(inputs.clips)

    def run_student(self, inputs: Inputs, targets: TeacherOutput) -> StudentOutput:
        return self.engine.forward_student(inputs.clips, targets.image_features, *inputs[1:])

    def backward(self, losses: Losses) -> None:
        self.engine.backward(torch.stack(losses).sum())

    def optimise(self) -> None:
        self.engine.step(LEARNING_RATE)

    def update_teacher(self, momentum: float) -> None:
        self.engine.update_teacher(momentum)


def paper_config(precision: str, num_clips: int, zero_stage: int = 0) -> Config:
    """The preset paper_vit_base for one worker, made without pydantic: every model default is the paper's."""
    width, depth, heads, mlp_ratio = MODEL_SIZES["base"]
    model = dataclasses.replace(ModelConfig(), width=width, depth=depth, heads=heads, mlp_ratio=mlp_ratio)
    return Config(model=model, engine=_engine(precision, num_clips, zero_stage))


def tiny_config(precision: str, num_clips: int, zero_stage: int = 0) -> Config:
    """Every part at a size that takes a fraction of a second on a CPU."""
    return Config(
        data=DataConfig(num_frames=8, image_size=48),
        mask=MaskConfig(video_views=2, image_views=2, video_ratio=0.75, image_ratio=0.75),
        model=ModelConfig(
            width=48,
            depth=2,
            heads=3,
            mlp_ratio=4.0,
            decoder_width=24,
            decoder_depth=1,
            decoder_heads=2,
            head_hidden=64,
            head_bottleneck=16,
            head_outputs=128,
            num_prototypes=40,
        ),
        engine=_engine(precision, num_clips, zero_stage),
    )


def random_batch(config: Config, num_clips: int, device: torch.device, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise as frames (uint8 [B, T, H, W]) and clip keys (int64 [B]), drawn on the CPU so that devices agree."""
    generator = torch.Generator().manual_seed(seed)
    size = config.data.image_size
    shape = (num_clips, config.data.num_frames, size, size)
    frames = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    keys = torch.randint(0, 2**62, (num_clips,), generator=generator)
    return frames.to(device), keys.to(device)


def _engine(precision: str, num_clips: int, zero_stage: int) -> EngineConfig:
    return dataclasses.replace(
        EngineConfig(), precision=precision, zero_stage=zero_stage, global_batch=num_clips, micro_batch=num_clips
    )
