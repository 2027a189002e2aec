"""Schedules against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from discovr_ray.config import Config, RunPlan, derive_plan, load_config, parse_config
from discovr_ray.schedules import cosine, step_values


@pytest.fixture(name="run")
def fixture_run() -> tuple[Config, RunPlan]:
    """10 steps an epoch, 10 epochs: warm-up until step 20, temperature ramp until step 30, end at step 100."""
    config = parse_config(
        {
            "optim": {"lr": 0.256},
            "engine": {"global_batch": 4, "micro_batch": 4},
            "schedule": {
                "epochs": 10,
                "warmup_epochs": 2.0,
                "min_lr": 0.001,
                "teacher_temperature_epochs": 3.0,
                "ema_momentum": 0.9,
                "ema_momentum_end": 1.0,
            },
        }
    )
    return config, derive_plan(config, num_clips=43)


def test_learning_rate(run: tuple[Config, RunPlan]) -> None:
    # peak: 0.256 x 4 / 256 = 0.004; the first step already has 1/20 of it
    expected = {0: 0.0002, 9: 0.002, 19: 0.004, 20: 0.004, 60: 0.0025, 100: 0.001, 1000: 0.001}
    # three quarters of the way down: 0.001 + 0.003 * (1 + cos(3 pi / 4)) / 2
    expected[80] = 0.001 + 0.0015 * (1 - math.sqrt(0.5))
    for step, value in expected.items():
        assert step_values(*run, step).lr == pytest.approx(value, rel=1e-12), step


def test_the_last_step_of_a_run_is_just_above_the_minimum(run: tuple[Config, RunPlan]) -> None:
    lr = step_values(*run, 99).lr
    assert 0.001 < lr < 0.00101


def test_teacher_temperature(run: tuple[Config, RunPlan]) -> None:
    for step, value in {0: 0.04, 10: 0.05, 15: 0.055, 30: 0.07, 31: 0.07, 100: 0.07}.items():
        assert step_values(*run, step).teacher_temperature == pytest.approx(value, rel=1e-12), step


def test_ema_momentum(run: tuple[Config, RunPlan]) -> None:
    for step, value in {0: 0.9, 50: 0.95, 100: 1.0, 500: 1.0}.items():
        assert step_values(*run, step).ema_momentum == pytest.approx(value, rel=1e-12), step
    assert step_values(*run, 25).ema_momentum == pytest.approx(1.0 - 0.05 * (1 + math.sqrt(0.5)), rel=1e-12)


def test_a_shortened_run_follows_the_same_schedule(run: tuple[Config, RunPlan]) -> None:
    config, plan = run
    short = parse_config({**config.to_dict(), "schedule": {**config.to_dict()["schedule"], "max_steps": 7}})
    short_plan = derive_plan(short, num_clips=43)
    assert short_plan.total_steps == 7
    assert [step_values(short, short_plan, step) for step in range(7)] == [
        step_values(config, plan, step) for step in range(7)
    ]


def test_no_warmup_and_no_ramp_start_at_the_goal(run: tuple[Config, RunPlan]) -> None:
    values = run[0].to_dict()
    values["schedule"] |= {"warmup_epochs": 0.0, "teacher_temperature_epochs": 0.0}
    config = parse_config(values)
    first = step_values(config, derive_plan(config, 43), 0)
    assert first.lr == pytest.approx(0.004, rel=1e-12)
    assert first.teacher_temperature == 0.07


def test_warmup_longer_than_the_run_never_divides_by_zero(run: tuple[Config, RunPlan]) -> None:
    values = run[0].to_dict()
    values["schedule"]["warmup_epochs"] = 40.0
    config = parse_config(values)
    plan = derive_plan(config, 43)
    assert step_values(config, plan, 99).lr == pytest.approx(plan.peak_lr)
    assert step_values(config, plan, 100).lr == pytest.approx(0.001)


def test_the_papers_schedule_at_an_epoch_of_29_steps() -> None:
    config = load_config("paper_vit_base")
    plan = derive_plan(config, num_clips=7465)  # EchoNet-Dynamic's training split
    assert plan.steps_per_epoch == 29
    assert step_values(config, plan, 29 * 40 - 1).lr == pytest.approx(1.5e-4)
    assert step_values(config, plan, 29 * 220).lr == pytest.approx((1.5e-4 + 1e-6) / 2)
    assert step_values(config, plan, 29 * 15).teacher_temperature == pytest.approx(0.055)
    assert step_values(config, plan, 29 * 200).ema_momentum == pytest.approx(0.998)


def test_cosine_of_no_steps_is_its_end() -> None:
    assert cosine(1.0, 0.25, 0, 0) == 0.25
