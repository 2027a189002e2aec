"""What follows from a configuration and a number of clips, worked out by hand."""

from __future__ import annotations

import pytest

from discovr_ray.config import (
    derive_plan,
    load_config,
)


def test_plan_by_hand() -> None:
    config = load_config(
        "demo", ["engine.global_batch=16", "engine.micro_batch=2", "schedule.epochs=5", "optim.lr=0.032"]
    )
    plan = derive_plan(config, num_clips=67)
    assert plan.num_clips == 67
    assert plan.steps_per_epoch == 4  # 67 // 16; the last 3 clips make no full batch
    assert plan.schedule_steps == 20
    assert plan.total_steps == 20
    assert plan.accumulation == 4  # 16 / (2 workers x 2 clips)
    assert plan.peak_lr == pytest.approx(0.002)  # 0.032 x 16 / 256


@pytest.mark.parametrize(("max_steps", "total"), [(0, 20), (7, 7), (20, 20), (999, 20)])
def test_max_steps_cuts_the_run_but_not_the_schedule(max_steps: int, total: int) -> None:
    config = load_config("demo", ["schedule.epochs=2", f"schedule.max_steps={max_steps}"])
    plan = derive_plan(config, num_clips=80)
    assert (plan.total_steps, plan.schedule_steps) == (total, 20)
