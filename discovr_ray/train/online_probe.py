"""When a run under way is asked what it has learnt, and that this costs the run nothing but time."""

from __future__ import annotations

import time

from discovr_ray.config import Config, RunPlan
from discovr_ray.train.context import Context
from discovr_ray.train.hang import HangWatch
from discovr_ray.train.metrics import Metrics


def probe_if_due(
    config: Config, plan: RunPlan, step: int, context: Context, watch: HangWatch, metrics: Metrics
) -> dict[str, float]:
    """Figures of the probe every `probe.every_steps` steps and at the end, the same on all ranks; else none.

    Its time counts neither as a hang nor in the run's speed.
    """
    every = config.probe.every_steps
    if not every or (step % every and step != plan.total_steps):
        return {}
    started = time.perf_counter()
    with watch.paused():
        figures = context.probe(step)
    metrics.leave_out(time.perf_counter() - started)
    return figures
