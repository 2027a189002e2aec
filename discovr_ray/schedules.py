"""Everything that changes during a run, as pure functions of the optimiser step (0-based)."""

from __future__ import annotations

import math
from typing import NamedTuple

from discovr_ray.config import Config, RunPlan


class StepValues(NamedTuple):
    lr: float
    teacher_temperature: float
    ema_momentum: float


def step_values(config: Config, plan: RunPlan, step: int) -> StepValues:
    """Values in force at optimiser step `step`: warm-up and cosine (lr), linear ramp (temperature), cosine (EMA)."""
    schedule, loss = config.schedule, config.loss
    ramp_steps = round(schedule.teacher_temperature_epochs * plan.steps_per_epoch)
    share = min(1.0, step / ramp_steps) if ramp_steps else 1.0
    temperature = loss.teacher_temperature_start + share * (loss.teacher_temperature - loss.teacher_temperature_start)
    momentum = cosine(schedule.ema_momentum, schedule.ema_momentum_end, step, plan.schedule_steps)
    return StepValues(_learning_rate(config, plan, step), temperature, momentum)


def cosine(start: float, end: float, step: int, num_steps: int) -> float:
    """Half a cosine from `start` at step 0 to `end` at step `num_steps`, constant after it."""
    share = min(1.0, step / num_steps) if num_steps > 0 else 1.0
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * share))


def _learning_rate(config: Config, plan: RunPlan, step: int) -> float:
    warmup_steps = min(round(config.schedule.warmup_epochs * plan.steps_per_epoch), plan.schedule_steps)
    if step < warmup_steps:
        return plan.peak_lr * (step + 1) / warmup_steps
    return cosine(plan.peak_lr, config.schedule.min_lr, step - warmup_steps, plan.schedule_steps - warmup_steps)
