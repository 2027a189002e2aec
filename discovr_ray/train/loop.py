"""The training loop: the paper's algorithm box (section 3), without Ray. DeepSpeed is behind `engine`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from discovr_ray.config import Config, RunPlan
from discovr_ray.schedules import step_values
from discovr_ray.train.context import Context
from discovr_ray.train.engine import Engine
from discovr_ray.train.hang import HangWatch, limited
from discovr_ray.train.health import Health
from discovr_ray.train.metrics import Metrics
from discovr_ray.train.objective import (
    Losses,
    pass_losses,
    prepare_pass,
    scalings_of_all_passes,
    update_centres,
)
from discovr_ray.train.online_probe import probe_if_due
from discovr_ray.train.quarantine import Quarantine

if TYPE_CHECKING:  # the stream imports Ray, which the loop does not need
    from discovr_ray.data.stream import MicroBatch


def train(
    config: Config,
    plan: RunPlan,
    engine: Engine,
    context: Context,
    start_step: int,
    quarantine: Quarantine,
    health: Health,
) -> int:
    """Run optimiser steps `start_step` .. `plan.total_steps`; returns the number of steps done, fewer after a stop.

    A checkpoint is saved every `checkpoint.every_steps` steps, at the end, and when a stop is requested.
    A step whose loss or gradient is not finite changes nothing that is trained; order and schedules go on.

    Errors:
        NonFiniteError: more such steps in a row than `health.max_skipped_in_row`, on all ranks at the same step.
        CollapseError: see `Health.refuse_collapse`; on all ranks at the same step.
        TooManyBadClipsError: more clips failed than `data.max_bad_fraction` allows, on all ranks at the same step.
    """
    teacher = engine.teacher
    metrics = Metrics(config, plan, teacher, context.rank)
    step = start_step
    with HangWatch(config.run.hang_timeout_s, context.hung) as watch:
        for batches in _timed(context.steps(start_step), metrics):
            agreed = quarantine.agree(step, batches, context)
            values = step_values(config, plan, step)

            passes = [prepare_pass(config, engine, batch, context.device) for batch in batches]
            scalings = scalings_of_all_passes(config, engine, passes)
            total, counts = Losses.zero(context.device), torch.zeros(config.model.num_prototypes, device=context.device)
            for one in passes:
                losses, pass_counts = pass_losses(config, engine, teacher, one, values, scalings, agreed.total_weight)
                # DeepSpeed averages over ranks and passes, while the losses are shares of a global sum
                engine.backward(losses.to_differentiate() * (context.world_size * len(passes)))
                total, counts = total.plus(losses), counts + pass_counts
            global_losses = total.over_ranks()

            grad_norm = engine.step(values.lr)
            step += 1
            if math.isfinite(grad_norm):
                engine.update_teacher(values.ema_momentum)
                update_centres(config, teacher, passes, agreed.total_weight)
                metrics.observe(passes, global_losses, counts, grad_norm)
                health.observe(step, global_losses["loss"])
            else:
                health.skip(step, {**global_losses, "grad_norm": grad_norm})
            watch.step_done(step)

            probed = probe_if_due(config, plan, step, context, watch, metrics)
            if step % config.run.log_every_steps == 0 or step in (start_step + 1, plan.total_steps) or probed:
                record = metrics.record(step, values, agreed.num_bad)
                if record is not None:
                    context.record(record | probed | health.judge(record))
                health.refuse_collapse()
            if step % config.checkpoint.every_steps == 0 or step == plan.total_steps or agreed.stop:
                with watch.paused(), limited(config.checkpoint.hang_timeout_s, step, context.hung, "save"):
                    context.save(step)
            if agreed.stop:
                break
    return step


def _timed(steps: Iterator[list[MicroBatch]], metrics: Metrics) -> Iterator[list[MicroBatch]]:
    while True:
        started = time.perf_counter()
        batches = next(steps, None)
        metrics.waited(time.perf_counter() - started)
        if batches is None:
            return
        yield batches
