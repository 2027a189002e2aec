"""What follows from a configuration and the number of clips, in one pure function."""

from __future__ import annotations

from dataclasses import dataclass

from discovr_ray.config.rules import check_clips
from discovr_ray.config.sections import Config
from discovr_ray.errors import ConfigError


@dataclass(frozen=True)
class RunPlan:
    """What follows from a config and the number of clips; nothing here can be set."""

    num_clips: int
    steps_per_epoch: int
    total_steps: int  # where the run stops
    schedule_steps: int  # where the schedules end: epochs * steps_per_epoch
    accumulation: int  # with the most workers that the run may have
    peak_lr: float


def derive_plan(config: Config, num_clips: int) -> RunPlan:
    """Steps, accumulation and peak learning rate of a run over `num_clips` clips.

    Errors:
        ConfigError: there are fewer clips than one global batch.
    """
    problems = check_clips(config, num_clips)
    if problems:
        raise ConfigError(problems)
    engine, schedule = config.engine, config.schedule
    steps_per_epoch = num_clips // engine.global_batch
    schedule_steps = steps_per_epoch * schedule.epochs
    total_steps = min(schedule_steps, schedule.max_steps) if schedule.max_steps else schedule_steps
    return RunPlan(
        num_clips=num_clips,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        schedule_steps=schedule_steps,
        accumulation=engine.global_batch // (config.run.max_workers * engine.micro_batch),
        peak_lr=config.optim.lr * engine.global_batch / 256,
    )
