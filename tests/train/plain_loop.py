"""The algorithm box of the paper in plain torch: what test_loop.py holds the engine, the loop and its passes against.

One process, the whole global batch at once, no weights (clips that failed are not in the batch), no DeepSpeed. It
shares with the package only the parts that have tests of their own: modules, masks, crops, the schedule and the losses'
formulas.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from loop_runs import NUM_CLIPS, LocalContext
from torch import nn

from discovr_ray.config import Config, derive_plan
from discovr_ray.data.stream import MicroBatch
from discovr_ray.model.discovr import Student, StudentOutput, Teacher, TeacherOutput
from discovr_ray.model.masks import crop_clips, image_visible, video_visible
from discovr_ray.objective.distillation import distillation_loss
from discovr_ray.objective.scd import scd_loss
from discovr_ray.objective.sinkhorn import sinkhorn_scaling
from discovr_ray.schedules import StepValues, step_values


class PlainOutcome(NamedTuple):
    records: list[dict[str, float]]
    student: dict[str, torch.Tensor]
    teacher: dict[str, torch.Tensor]


def run_plainly(config: Config, bad: tuple[str, ...] = ()) -> PlainOutcome:
    """`config` has one pass per step."""
    torch.manual_seed(config.run.seed)
    student, teacher = Student(config), Teacher(config)
    weights = dict(student.named_parameters())
    for name, parameter in teacher.named_parameters():
        parameter.data.copy_(weights[name].data)
    optimiser = torch.optim.AdamW(
        decay_groups(student, config.optim.weight_decay),
        betas=(config.optim.beta1, config.optim.beta2),
        eps=config.optim.eps,
        fused=False,
    )
    records = []
    for step, batch in enumerate(whole_batches(config, bad)):
        values = step_values(config, derive_plan(config, NUM_CLIPS), step)
        target, losses = forward(config, student, teacher, batch, values)
        optimiser.zero_grad()
        losses["loss"].backward()
        norm = torch.cat([parameter.grad.flatten() for parameter in student.parameters()]).norm()
        for group in optimiser.param_groups:
            group["lr"] = values.lr
        optimiser.step()
        follow(config, student, teacher, target, values.ema_momentum)
        records.append({name: float(value.detach()) for name, value in losses.items()})
        records[-1] |= {"grad_norm": float(norm), "lr": values.lr, "ema_momentum": values.ema_momentum}
        records[-1] |= {"teacher_temperature": values.teacher_temperature}
    return PlainOutcome(records, copied(student), copied(teacher))


def decay_groups(student: Student, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; vectors, tokens and prototypes do not."""
    matrices, others = [], []
    for name, parameter in student.named_parameters():
        spared = parameter.ndim < 2 or name in ("prototypes.weight", "decoder.mask_token")
        (others if spared or name.endswith(".cls_token") else matrices).append(parameter)
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def whole_batches(config: Config, bad: tuple[str, ...]) -> Iterator[MicroBatch]:
    """Global batches without their failed clips."""
    for (batch,) in LocalContext(config, bad).steps(0):
        kept = torch.from_numpy(batch.weights) > 0
        yield batch._replace(frames=batch.frames[kept], clip_keys=batch.clip_keys[kept.numpy()])


def forward(
    config: Config, student: Student, teacher: Teacher, batch: MicroBatch, values: StepValues
) -> tuple[TeacherOutput, dict[str, torch.Tensor]]:
    keys, loss = torch.from_numpy(batch.clip_keys), config.loss
    clips = crop_clips(batch.frames, keys, batch.epoch, config)
    target = teacher(clips)
    views = video_visible(keys, batch.epoch, config), image_visible(keys, batch.epoch, config)
    output = student(clips, target.image_features, *views)

    def distil(teacher_logits: torch.Tensor, student_logits: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
        rows, temperatures = len(teacher_logits), (values.teacher_temperature, loss.student_temperature)
        return distillation_loss(teacher_logits, student_logits, centre, *temperatures, torch.ones(rows), rows)

    losses = {
        "loss_vid": distil(target.video_logits, output.video_logits, teacher.video_centre),
        "loss_img": distil(target.image_logits, output.image_logits, teacher.image_centre),
        "loss_scd": clusters(config, output),
    }
    total = loss.w_vid * losses["loss_vid"] + loss.w_img * losses["loss_img"] + loss.w_scd * losses["loss_scd"]
    return target, {**losses, "loss": total}


def clusters(config: Config, output: StudentOutput) -> torch.Tensor:
    loss, clips = config.loss, len(output.video_scores)
    scalings = []
    for scores in (output.video_scores, output.image_scores):
        rows = scores.detach().flatten(0, 1)
        scalings.append(
            sinkhorn_scaling([rows], [torch.ones(len(rows))], loss.sinkhorn_epsilon, loss.sinkhorn_iterations)
        )
    return scd_loss(output.video_scores, output.image_scores, *scalings, torch.ones(clips), clips, loss)


@torch.no_grad()
def follow(config: Config, student: Student, teacher: Teacher, target: TeacherOutput, momentum: float) -> None:
    """After the optimiser step: teachers towards the new weights, centres towards the mean raw logits."""
    weights, centre_momentum = dict(student.named_parameters()), config.loss.centre_momentum
    for name, parameter in teacher.named_parameters():
        parameter.copy_(momentum * parameter + (1 - momentum) * weights[name])
    for centre, logits in ((teacher.video_centre, target.video_logits), (teacher.image_centre, target.image_logits)):
        centre.copy_(centre_momentum * centre + (1 - centre_momentum) * logits.mean(0))


def copied(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}
