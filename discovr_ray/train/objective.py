"""One accumulation pass of the objective: inputs on the device, teacher targets, and this pass's share of each loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.distributed as dist

from discovr_ray.config import Config
from discovr_ray.model.discovr import StudentOutput, Teacher, TeacherOutput
from discovr_ray.model.masks import crop_clips, image_visible, video_visible
from discovr_ray.objective.distillation import distillation_loss, logit_sum, update_centre
from discovr_ray.objective.scd import scd_loss
from discovr_ray.objective.sinkhorn import sinkhorn_scaling
from discovr_ray.schedules import StepValues
from discovr_ray.train.engine import Engine

if TYPE_CHECKING:  # the stream imports Ray, which the loop does not need
    from discovr_ray.data.stream import MicroBatch


class Pass(NamedTuple):
    """One micro-batch on the device, with what the students are taught by."""

    clips: torch.Tensor  # [B, 3, T, H, W] normalised
    weights: torch.Tensor  # [B], 0 for clips that failed
    video_visible: torch.Tensor  # [V+1, B, n]; the last view is the one of semantic cluster distillation
    image_visible: torch.Tensor  # [V, B*T, m]
    teacher: TeacherOutput
    num_padded: int  # frames of all clips that repeat another one


class Scalings(NamedTuple):
    """Prototype scalings [K] of the global batch's two Sinkhorn assignments."""

    video: torch.Tensor
    image: torch.Tensor


class Losses(NamedTuple):
    """The three terms (scalars) and their weighted sum; shares of the global mean, which `over_ranks` adds up."""

    vid: torch.Tensor
    img: torch.Tensor
    scd: torch.Tensor
    total: torch.Tensor

    @staticmethod
    def zero(device: torch.device) -> Losses:
        return Losses(*torch.zeros(4, device=device).unbind())

    def plus(self, other: Losses) -> Losses:
        return Losses(*(mine + theirs.detach() for mine, theirs in zip(self, other, strict=True)))

    def to_differentiate(self) -> torch.Tensor:
        """The total; its whole gradient is NaN where the total is not finite, so that the step cannot go unnoticed."""
        return self.total * torch.where(self.total.isfinite(), 1.0, torch.nan)

    def over_ranks(self) -> dict[str, float]:
        """Sums over ranks under their names in the log; waits for the device. Every rank must call it."""
        sums = torch.stack(list(self))
        dist.all_reduce(sums)
        return dict(zip(("loss_vid", "loss_img", "loss_scd", "loss"), sums.tolist(), strict=True))


def prepare_pass(config: Config, engine: Engine, batch: MicroBatch, device: torch.device) -> Pass:
    """Crop, mask and run both teachers once on the whole clips (method: section 2)."""
    frames = batch.frames.to(device)
    keys = torch.from_numpy(batch.clip_keys).to(device)
    clips = crop_clips(frames, keys, batch.epoch, config)
    return Pass(
        clips=clips,
        weights=torch.from_numpy(batch.weights).to(device),
        video_visible=video_visible(keys, batch.epoch, config),
        image_visible=image_visible(keys, batch.epoch, config),
        teacher=engine.forward_teacher(clips),
        num_padded=int(batch.padded_frames.sum()),
    )


def scalings_of_all_passes(config: Config, engine: Engine, passes: Sequence[Pass]) -> Scalings | None:
    """Assignment over the global batch when it is spread over several passes, so that 2 x 4 clips equal 1 x 8.

    Costs one more forward pass of the cheapest view, without gradient. None for a single pass: its own forward pass
    already holds all scores.

    Memory does not shrink with the micro-batch here: for all clips of this rank's share of the global batch, the fp32
    scores of both sides and the plan of one are held at once, 12 * N * K bytes a clip (56 MB at N 1568 and K 3000).
    They are freed before the first pass with gradient.
    """
    if len(passes) == 1:
        return None
    outputs = []
    with torch.no_grad():
        for one in passes:
            no_image_views = one.image_visible[:0]
            outputs.append(
                engine.forward_student(one.clips, one.teacher.image_features, one.video_visible[-1:], no_image_views)
            )
    return _scalings(config, outputs, [one.weights for one in passes])


def pass_losses(
    config: Config,
    engine: Engine,
    teacher: Teacher,
    one: Pass,
    values: StepValues,
    scalings: Scalings | None,
    total_weight: float,
) -> tuple[Losses, torch.Tensor]:
    """Students on the masked views, then this pass's share of the three losses and of their weighted sum.

    Also returns how many tokens [K] are nearest to each prototype.
    """
    loss = config.loss
    output = engine.forward_student(one.clips, one.teacher.image_features, one.video_visible, one.image_visible)
    if scalings is None:
        scalings = _scalings(config, [output], [one.weights])
    num_frames = one.clips.shape[2]
    temperatures = (values.teacher_temperature, loss.student_temperature)
    frame_weights = one.weights.repeat_interleave(num_frames)
    vid = distillation_loss(
        one.teacher.video_logits, output.video_logits, teacher.video_centre, *temperatures, one.weights, total_weight
    )
    img = distillation_loss(
        one.teacher.image_logits,
        output.image_logits,
        teacher.image_centre,
        *temperatures,
        frame_weights,
        total_weight * num_frames,
    )
    scd = scd_loss(output.video_scores, output.image_scores, *scalings, one.weights, total_weight, loss)
    total = loss.w_vid * vid + loss.w_img * img + loss.w_scd * scd
    return Losses(vid, img, scd, total), _nearest_counts(output.video_scores.detach(), one.weights)


def update_centres(config: Config, teacher: Teacher, passes: Sequence[Pass], total_weight: float) -> None:
    """Centres follow the mean teacher logits of the global batch (method: trap 3). Every rank must call it."""
    momentum, group = config.loss.centre_momentum, dist.group.WORLD
    num_frames = passes[0].clips.shape[2]
    video_sum = torch.stack([logit_sum(one.teacher.video_logits, one.weights) for one in passes]).sum(0)
    image_sum = torch.stack(
        [logit_sum(one.teacher.image_logits, one.weights.repeat_interleave(num_frames)) for one in passes]
    ).sum(0)
    update_centre(teacher.video_centre, video_sum, total_weight, momentum, group)
    update_centre(teacher.image_centre, image_sum, total_weight * num_frames, momentum, group)


def _nearest_counts(scores: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """[K]: tokens of scores [B, N, K] by their nearest prototype, without those of clips of weight [B] 0.

    The scores are neither copied nor waited for; bincount would wait for the GPU to learn the length of its answer.
    """
    nearest = scores.argmax(-1)
    token_weights = weights.float()[:, None].expand(nearest.shape)
    return torch.zeros(scores.shape[-1], device=scores.device).index_add_(0, nearest.flatten(), token_weights.flatten())


def _scalings(config: Config, outputs: Sequence[StudentOutput], weights: Sequence[torch.Tensor]) -> Scalings:
    loss = config.loss

    def scaling(scores: Sequence[torch.Tensor]) -> torch.Tensor:
        rows = [score.detach().flatten(0, 1) for score in scores]  # [B * N, K]
        row_weights = [weight.repeat_interleave(score.shape[1]) for weight, score in zip(weights, scores, strict=True)]
        group = dist.group.WORLD
        return sinkhorn_scaling(rows, row_weights, loss.sinkhorn_epsilon, loss.sinkhorn_iterations, group)

    return Scalings(
        video=scaling([output.video_scores for output in outputs]),
        image=scaling([output.image_scores for output in outputs]),
    )
