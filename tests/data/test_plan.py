"""Every partition of a run into steps, passes and ranks, without Ray."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest

from discovr_ray.config import Config, derive_plan, parse_config
from discovr_ray.data.plan import Segment, StreamPlan, plan_stream
from discovr_ray.errors import ConfigError
from discovr_ray.randomness import permutation


def make_plan(**changes: int) -> StreamPlan:
    values = {
        "seed": 3,
        "num_clips": 53,
        "steps_per_epoch": 3,
        "total_steps": 8,
        "global_batch": 16,
        "micro_batch": 2,
        "world_size": 2,
        "start_step": 0,
    }
    return StreamPlan(**{**values, **changes})


def step_rows(plan: StreamPlan, step: int) -> list[int]:
    """The global batch of a step, put together from what each pass and rank takes."""
    segment = Segment(step, step + 1)
    per_rank = [plan.rank_numbers(segment, rank) for rank in range(plan.world_size)]
    passes = range(plan.accumulation)
    return [int(row) for a in passes for numbers in per_rank for row in plan.assignment(numbers[a]).rows]


@pytest.mark.parametrize(
    ("world_size", "micro_batch"), [(w, b) for w, b in product([1, 2, 4, 8], [1, 2, 4]) if w * b <= 16]
)
def test_the_global_batch_does_not_depend_on_ranks_and_passes(world_size: int, micro_batch: int) -> None:
    plan = make_plan(world_size=world_size, micro_batch=micro_batch)
    assert plan.accumulation * world_size * micro_batch == 16
    for step in range(plan.total_steps):
        epoch, in_epoch = divmod(step, 3)
        order = permutation(3, epoch, 53)
        assert step_rows(plan, step) == order[in_epoch * 16 : (in_epoch + 1) * 16].tolist()


@pytest.mark.parametrize("num_clips", [16, 17, 31, 32, 53, 97])
def test_an_epoch_holds_every_clip_at_most_once_and_leaves_out_less_than_a_batch(num_clips: int) -> None:
    steps = num_clips // 16
    plan = make_plan(num_clips=num_clips, steps_per_epoch=steps, total_steps=2 * steps)
    for epoch in (0, 1):
        rows = Counter(row for step in range(epoch * steps, (epoch + 1) * steps) for row in step_rows(plan, step))
        assert max(rows.values()) == 1
        assert len(rows) == num_clips - num_clips % 16
        assert set(rows) <= set(range(num_clips))


def test_epochs_have_different_orders() -> None:
    plan = make_plan(num_clips=48)
    assert step_rows(plan, 0) != step_rows(plan, 3)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 40, 10_000])
@pytest.mark.parametrize("start_step", [0, 1, 5, 8])
def test_segments_cover_the_rest_of_the_run_once(length: int, start_step: int) -> None:
    plan = make_plan(start_step=start_step)
    segments = list(plan.segments(length))
    steps = [step for segment in segments for step in range(segment.first_step, segment.end_step)]
    assert steps == list(range(start_step, 8))
    assert all(len(plan.numbers(segment)) <= max(length, 8) for segment in segments)
    numbers = sorted(n for segment in segments for rank in range(2) for n in plan.rank_numbers(segment, rank))
    assert numbers == list(range(start_step * 8, 8 * 8))


def test_blocks_are_dealt_out_in_turn_and_equally_long_side_by_side() -> None:
    plan = make_plan()  # 8 micro-batches a step
    blocks = plan.blocks(Segment(1, 2), 3)
    assert [list(block) for block in blocks] == [[8, 10, 12], [9, 11, 13], [14], [15]]
    assert [list(block) for block in plan.blocks(Segment(1, 2), 1)] == [[number] for number in range(8, 16)]


def test_the_first_blocks_of_a_stream_are_short() -> None:
    """So that a run which starts again gets its first clips early."""
    blocks = make_plan().blocks(Segment(0, 3), 5)  # 12 micro-batches of each of 2 ranks
    assert [len(block) for block in blocks] == [1, 1, 2, 2, 4, 4, 5, 5]
    assert [list(block) for block in blocks[:4]] == [[0], [1], [2, 4], [3, 5]]
    assert sorted(number for block in blocks for number in block) == list(range(24))
    later = make_plan(start_step=1).blocks(Segment(1, 4), 5)
    assert [len(block) for block in later] == [1, 1, 2, 2, 4, 4, 5, 5]


def test_assignment_names_step_and_epoch() -> None:
    plan = make_plan()
    assignment = plan.assignment(4 * 8 + 5)
    assert (assignment.step, assignment.epoch) == (4, 1)
    assert assignment.rows.tolist() == permutation(3, 1, 53)[16 + 10 : 16 + 12].tolist()


def test_window_positions_depend_on_clip_and_epoch_only() -> None:
    keys = np.array([5, 2**62, 9], np.int64)
    one, four = make_plan(world_size=1), make_plan(world_size=4)
    np.testing.assert_array_equal(one.positions(2, keys), four.positions(2, keys))
    np.testing.assert_array_equal(one.positions(2, keys)[::-1], one.positions(2, keys[::-1]))
    assert not np.array_equal(one.positions(2, keys), one.positions(3, keys))
    assert ((one.positions(2, keys) >= 0) & (one.positions(2, keys) < 1)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world_size": 3}, "multiple of workers"),
        ({"world_size": 0}, "multiple of workers"),
        ({"micro_batch": 32}, "multiple of workers"),
        ({"start_step": 9}, "start step 9"),
        ({"start_step": -1}, "start step -1"),
        ({"num_clips": 47}, "47 clips"),
    ],
)
def test_impossible_plans_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(**changes)


def test_plan_stream_takes_the_world_size_that_is_there() -> None:
    config: Config = parse_config({"engine": {"global_batch": 16, "micro_batch": 2}, "run": {"workers": 4, "seed": 11}})
    run_plan = derive_plan(config, 53)
    plan = plan_stream(config, run_plan, world_size=2, start_step=3)
    assert (run_plan.accumulation, plan.accumulation) == (2, 4)
    assert (plan.seed, plan.num_clips, plan.steps_per_epoch, plan.start_step) == (11, 53, 3, 3)
    assert plan.total_steps == run_plan.total_steps
