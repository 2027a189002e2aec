"""What the ranks of test_engine.py do: a tiny student and teacher, trained on data that follows from the step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from discovr_ray.config import Config
from discovr_ray.train import ranks
from discovr_ray.train.checkpoint import LocalCheckpoint, TrainState
from discovr_ray.train.engine import Engine

GLOBAL_BATCH = 8
WIDTH = 16


class Output(NamedTuple):
    scores: torch.Tensor
    features: torch.Tensor


class Branch(nn.Module):
    """A small stack with what matters: linears, norms, a token, and a sub-module returning a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, WIDTH))
        self.first = nn.Linear(WIDTH, 33)
        self.norm = nn.LayerNorm(33)
        self.last = nn.Linear(33, WIDTH, bias=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.last(nn.functional.gelu(self.norm(self.first(inputs + self.cls_token))))


class Prototypes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(7, WIDTH))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(features.float(), dim=-1) @ nn.functional.normalize(self.weight, dim=-1).T


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.video = Branch()
        self.prototypes = Prototypes()

    def forward(self, inputs: torch.Tensor) -> Output:
        features = self.video(inputs)
        return Output(self.prototypes(features), features)


class Teacher(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.video = Branch()
        self.register_buffer("video_centre", torch.zeros(WIDTH))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.video(inputs) - self.video_centre


def configure(stage: int, precision: str = "fp32", micro_batch: int = 4, clip: float = 0.0) -> Config:
    config = Config()
    engine = dataclasses.replace(
        config.engine, zero_stage=stage, precision=precision, global_batch=GLOBAL_BATCH, micro_batch=micro_batch
    )
    return dataclasses.replace(config, engine=engine, optim=dataclasses.replace(config.optim, grad_clip_norm=clip))


def build(config: Config, seed: int = 0) -> Engine:
    torch.manual_seed(seed)
    return Engine(Student(), Teacher(), config, ranks.world_size(), torch.device("cpu"))


def train(engine: Engine, config: Config, first: int, last: int, momentum: float = 0.9) -> list[tuple[float, float]]:
    """Steps first .. last - 1; returns (global loss, gradient norm) of each."""
    trace = []
    size, world = config.engine.micro_batch, ranks.world_size()
    passes = GLOBAL_BATCH // (size * world)
    for step in range(first, last):
        batch = torch.randn(GLOBAL_BATCH, WIDTH, generator=torch.Generator().manual_seed(step))
        total = torch.zeros(())
        for index in range(passes):
            start = (index * world + ranks.rank()) * size
            mine = batch[start : start + size]
            target = engine.forward_teacher(mine).float()
            output = engine.forward_student(mine + 0.1)
            share = ((output.features.float() - target.roll(1, 1)) ** 2).mean(1).sum() / GLOBAL_BATCH
            share = share + nn.functional.softplus(output.scores.float()).mean(1).sum() / GLOBAL_BATCH
            engine.backward(share * (world * passes))
            total += share.detach()
        torch.distributed.all_reduce(total)
        norm = engine.step(1e-2)
        engine.update_teacher(momentum)
        engine.teacher.video_centre.lerp_(torch.full((WIDTH,), float(step)), 0.1)
        trace.append((float(total), norm))
    return trace


class Result(NamedTuple):
    trace: list[tuple[float, float]]
    student: dict[str, torch.Tensor]
    teacher: dict[str, torch.Tensor]


def result(engine: Engine, trace: list[tuple[float, float]]) -> Result:
    return Result(trace, engine.student_state(), engine.teacher_state())


def run(rank: int, config: Config, steps: int) -> Result:
    engine = build(config)
    return result(engine, train(engine, config, 0, steps))


def run_and_save(rank: int, config: Config, steps: int, directory: Path) -> Result:
    engine = build(config)
    trace = train(engine, config, 0, steps)
    engine.save(directory)
    return result(engine, trace)


def load_and_run(rank: int, config: Config, first: int, steps: int, directory: Path) -> Result:
    engine = build(config, seed=99)
    engine.load(LocalCheckpoint(directory, state_of(config, first)))
    return result(engine, train(engine, config, first, steps))


def state_of(config: Config, step: int, **changes: Any) -> TrainState:
    values: dict[str, Any] = {
        "step": step,
        "samples_seen": step * GLOBAL_BATCH,
        "world_size": ranks.world_size(),
        "zero_stage": config.engine.zero_stage,
        "config": config.to_dict(),
    }
    return TrainState(**{**values, **changes})
