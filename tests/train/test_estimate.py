"""The estimate of --dry-run against a real engine's tensors and a real forward pass."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import pytest
import torch
from loop_runs import NUM_CLIPS, LocalContext, build_engine, tiny_config

from discovr_ray.config import Config, derive_plan, parse_config
from discovr_ray.model.discovr import Student
from discovr_ray.model.masks import image_visible, video_visible
from discovr_ray.objective.distillation import distillation_loss
from discovr_ray.objective.scd import scd_loss
from discovr_ray.objective.sinkhorn import sinkhorn_scaling
from discovr_ray.train.estimate import estimate_memory
from discovr_ray.train.health import Health
from discovr_ray.train.loop import train
from discovr_ray.train.quarantine import Quarantine

FACTOR = 1.2  # shapes are exact; which copies autocast and the kernels keep is not
CLIPS, FRAMES, SIZE = 4, 8, 64
SMALL: dict[str, dict[str, Any]] = {
    "data": {"num_frames": FRAMES, "image_size": SIZE},
    "mask": {"video_ratio": 0.75, "image_ratio": 0.75},
    "model": {
        "width": 96,
        "depth": 4,
        "heads": 4,
        "patch_size": 8,
        "decoder_width": 48,
        "decoder_depth": 2,
        "decoder_heads": 2,
        "head_hidden": 256,
        "head_bottleneck": 64,
        "head_outputs": 4096,
        "num_prototypes": 500,
    },
}


def size(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_the_static_part_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config()
    config = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, max_steps=1))
    engine = build_engine(config)
    parameters = list(engine.student.parameters())
    gradients: list[torch.Tensor] = []
    step = engine.step

    def watched(lr: float) -> float:
        gradients.extend(p.grad for p in parameters if p.grad is not None)
        return step(lr)

    monkeypatch.setattr(engine, "step", watched)
    plan = derive_plan(config, NUM_CLIPS)
    train(config, plan, engine, LocalContext(config), 0, Quarantine(config, NUM_CLIPS), Health(config, plan))
    moments = [state[name] for state in engine._engine.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    estimate = estimate_memory(config)
    assert estimate.student_parameters == sum(parameter.numel() for parameter in parameters)
    assert estimate.weights == size(parameters)
    assert estimate.gradients == size(gradients)
    assert estimate.optimizer == size(moments)
    assert estimate.teachers == size(list(engine.teacher.parameters()))


class Kept(NamedTuple):
    """Bytes at the start of the backward pass."""

    total: int
    image_encoder: int  # its part


def measure(config: Config) -> Kept:
    """Forward pass of the students and the losses; tensors that share memory count once, parameters not at all."""
    torch.manual_seed(0)
    student = Student(config)
    weights = {parameter.untyped_storage().data_ptr() for parameter in student.parameters()}
    kept: dict[int, torch.Tensor] = {}  # the tensors themselves, so that no address is used twice
    marks: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def mark(*_: Any) -> None:
        marks.append(held(kept))

    student.image.register_forward_pre_hook(mark)
    student.image.register_forward_hook(mark)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = forward_and_losses(student, config)
    for tensor in output:
        keep(tensor)  # the loop still holds them
    gradients = sum(4 * tensor.numel() for tensor in output)  # the first that backward makes, fp32
    return Kept(held(kept) + gradients, marks[1] - marks[0])


def held(kept: dict[int, torch.Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def forward_and_losses(student: Student, config: Config) -> tuple[torch.Tensor, ...]:
    loss, outputs = config.loss, config.model.head_outputs
    keys, ones = torch.arange(CLIPS), torch.ones(CLIPS)
    tokens = FRAMES // 2 * (SIZE // 8) ** 2
    inputs = (torch.randn(CLIPS, 3, FRAMES, SIZE, SIZE), torch.randn(CLIPS, tokens, config.model.width))
    with torch.autocast("cpu", torch.bfloat16, enabled=config.engine.precision == "bf16"):
        output = student(*inputs, video_visible(keys, 0, config), image_visible(keys, 0, config))
    for logits, rows in ((output.video_logits, CLIPS), (output.image_logits, CLIPS * FRAMES)):
        target = torch.randn(rows, outputs)
        distillation_loss(target, logits, torch.zeros(outputs), 0.04, 0.1, torch.ones(rows), rows)
    scores = (output.video_scores, output.image_scores)
    scalings = [sinkhorn_scaling([s.detach().flatten(0, 1)], [torch.ones(CLIPS * tokens)], 0.05, 2) for s in scores]
    scd_loss(*scores, *scalings, ones, CLIPS, loss)
    return tuple(output)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations(precision: str) -> None:
    engine = {"global_batch": CLIPS, "micro_batch": CLIPS, "precision": precision}
    config = parse_config({**SMALL, "engine": engine})
    plain = measure(config)
    assert plain.total / FACTOR < estimate_memory(config).activations < plain.total * FACTOR

    config = parse_config({**SMALL, "engine": {**engine, "recompute_activations": True}})
    inputs = measure(config)
    assert inputs.total < plain.total / 2
    # while a block of the largest encoder is computed again, all that it would have kept is there
    peak = inputs.total + (plain.image_encoder - inputs.image_encoder) / config.model.depth
    assert peak / FACTOR < estimate_memory(config).activations < peak * FACTOR
