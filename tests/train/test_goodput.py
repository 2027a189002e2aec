from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from discovr_ray.errors import ConfigError
from discovr_ray.train.goodput import FailureCosts, best_interval_s, expected_goodput

COSTS = FailureCosts(failure_interval_s=1000, restart_s=50, save_pause_s=10)


def test_a_value_by_hand() -> None:
    # 1000 * e^0.05 * (e^0.11 - 1) = 1000 * 1.051271 * 0.116278 = 122.240 s for 100 s of progress
    assert expected_goodput(100, COSTS) == pytest.approx(100 / 122.240, rel=1e-4)
    # 20 s more for each failure: 1000 * e^0.07 * 0.116278 = 1000 * 1.072508 * 0.116278 = 124.709 s
    slower = FailureCosts(1000, 50, 10, save_delay_s=20)
    assert expected_goodput(100, slower) == pytest.approx(100 / 124.709, rel=1e-4)


def test_without_failures_only_pauses_cost() -> None:
    assert expected_goodput(90, FailureCosts(1e15, 50, 10)) == pytest.approx(0.9)


def test_small_costs_add_up() -> None:
    """1 % of pauses, 0.5 % of steps done twice, 1 % of restarts, 0.5 % for checkpoints on their way."""
    costs = FailureCosts(failure_interval_s=10_000, restart_s=100, save_pause_s=1, save_delay_s=50)
    assert expected_goodput(100, costs) == pytest.approx(1 - 0.01 - 0.005 - 0.01 - 0.005, abs=5e-4)


def test_the_best_interval_is_near_youngs_and_better_than_its_neighbours() -> None:
    costs = FailureCosts(failure_interval_s=10_800, restart_s=180, save_pause_s=2, save_delay_s=60)
    best = best_interval_s(costs)
    assert best == pytest.approx(math.sqrt(2 * 2 * 10_800), rel=0.01)  # 207.8 s
    assert expected_goodput(best, costs) > max(expected_goodput(best * factor, costs) for factor in (0.9, 1.1))


def test_checkpoints_are_no_closer_than_one_takes() -> None:
    assert best_interval_s(FailureCosts(10_800, 180, save_pause_s=0.01, save_delay_s=60)) == 60


def test_failures_faster_than_any_progress() -> None:
    assert expected_goodput(1e6, FailureCosts(1, 0, 0)) == 0
    assert expected_goodput(1, FailureCosts(1, 1e6, 0)) == 0


@pytest.mark.parametrize(("interval_s", "delay_s"), [(40.0, 0.0), (40.0, 30.0), (100.0, 60.0)])
def test_runs_that_are_drawn_agree(interval_s: float, delay_s: float) -> None:
    """20,000 failures; a checkpoint is begun after each interval and counts `delay_s` later."""
    costs = FailureCosts(failure_interval_s=600, restart_s=20, save_pause_s=2, save_delay_s=delay_s)
    progress, time, draw = 0.0, 0.0, random.Random(1)
    for _ in range(20_000):
        until_failure = draw.expovariate(1 / costs.failure_interval_s)
        time += until_failure
        # the nth checkpoint counts at restart + n * (interval + pause) + delay
        counted = (until_failure - costs.restart_s - delay_s) // (interval_s + costs.save_pause_s)
        progress += max(0.0, counted) * interval_s
    assert expected_goodput(interval_s, costs) == pytest.approx(progress / time, rel=0.02)


@pytest.mark.parametrize(
    ("values", "named"),
    [((0, 1, 1), "failure_interval_s = 0"), ((1, -1, 1), "restart_s = -1"), ((1, 1, math.nan), "save_pause_s = nan")],
)
def test_impossible_times_are_refused(values: tuple[float, float, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        FailureCosts(*values)


def test_no_interval_is_refused() -> None:
    with pytest.raises(ConfigError, match="interval_s = 0"):
        expected_goodput(0, COSTS)


@pytest.mark.parametrize(("restart_s", "why"), [(120, "a spare node is there"), (300, "a node must be started")])
def test_the_page_has_the_day_on_64_gpus(restart_s: float, why: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
    costs = FailureCosts(failure_interval_s=3 * 3600, restart_s=restart_s, save_pause_s=2, save_delay_s=60)
    best = best_interval_s(costs)
    shares = [f"{expected_goodput(interval, costs):.3f}" for interval in (best, 60, 600, 1800)]
    assert f"| {restart_s} s, {why} | {best:.0f} s | {' | '.join(shares)} |" in page
