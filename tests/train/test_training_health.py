"""Steps that cannot be used, losses that jump, features that collapse, and processes that hang."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import run_ranks
from health_runs import Broken, run_broken
from loop_runs import NUM_CLIPS, tiny_config

from discovr_ray.config import Config, derive_plan
from discovr_ray.errors import NonFiniteError
from discovr_ray.train.health import Health

HERE = Path(__file__).parent


def assert_same_bits(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def run_alone(code: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", f"import health_runs, pathlib; {code}"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])]), "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def healthy(**changes: Any) -> Health:
    """Of a run of 12 steps."""
    config = tiny_config(health=changes)
    return Health(config, derive_plan(config, NUM_CLIPS))


@pytest.fixture(scope="module")
def skipping(tmp_path_factory: pytest.TempPathFactory) -> Broken:
    """Steps 3 and 5 go wrong; checkpoints of 3, 6, 9 and 12."""
    base = tmp_path_factory.mktemp("skipping")
    return run_broken(0, tiny_config(engine={"zero_stage": 1}), (3, 5), base=base)


def test_a_step_that_is_not_finite_changes_nothing_and_the_run_goes_on(skipping: Broken) -> None:
    calm = run_broken(0, tiny_config(engine={"zero_stage": 1}), ())
    assert (skipping.error, skipping.skipped) == ("", [3, 5])
    assert_same_bits(skipping.trained[2], calm.trained[2])
    assert_same_bits(skipping.trained[3], skipping.trained[2])  # students, teachers and centres
    assert not torch.equal(skipping.trained[4]["teacher.video_centre"], skipping.trained[3]["teacher.video_centre"])
    assert skipping.seen == calm.seen  # the order of clips
    assert [record["step"] for record in skipping.records] == [1, 2, 4, *range(6, 13)]
    assert [record["skipped_steps"] for record in skipping.records] == [0, 0, 1, *[2] * 7]
    by_step = {record["step"]: record for record in calm.records}
    for record in skipping.records:
        assert all(math.isfinite(value) for value in record.values())
        for name in ("lr", "ema_momentum", "teacher_temperature", "epoch"):
            assert record[name] == by_step[record["step"]][name]


@pytest.mark.parametrize("first", [3, 6])
def test_resume_around_a_skipped_step_is_bit_for_bit(tmp_path: Path, first: int) -> None:
    """From the checkpoint of a step that was itself skipped, and from one of a step after."""
    config = tiny_config(engine={"zero_stage": 1}, schedule={"max_steps": 7})
    straight = run_broken(0, config, (3, 5, 7), base=tmp_path)
    resumed = run_broken(0, config, (3, 5, 7), base=tmp_path, first=first)
    assert resumed.skipped == straight.skipped == [3, 5, 7]
    for step in range(first, 8):
        assert_same_bits(resumed.trained[step], straight.trained[step])
    losses = {record["step"]: record["loss"] for record in straight.records}
    assert {record["step"]: record["loss"] for record in resumed.records}.items() <= losses.items()


@pytest.mark.dist
def test_too_many_in_a_row_stop_all_ranks_with_term_and_steps(tmp_path: Path) -> None:
    config = tiny_config(engine={"micro_batch": 2}, run={"workers": 2}, health={"max_skipped_in_row": 2})
    first, second = run_ranks(2, run_broken, tmp_path, config, (2, 4, 5, 6))
    assert first.error == second.error
    assert first.error.startswith("step 6: loss_vid is nan; 3 steps in a row could not be used, from step 4 on")
    assert "health.max_skipped_in_row = 2" in first.error
    assert first.skipped == second.skipped == [2, 4, 5, 6]
    assert_same_bits(first.trained[6], first.trained[3])


def test_at_none_allowed_the_first_one_stops_the_run() -> None:
    with pytest.raises(
        NonFiniteError, match=r"^step 3: grad_norm is inf; 1 step in a row.*weights are those of step 2"
    ):
        healthy(max_skipped_in_row=0).skip(3, {"loss": 2.0, "grad_norm": math.inf})


def test_steps_before_a_restart_count_into_the_row() -> None:
    config = tiny_config(health={"max_skipped_in_row": 2})
    health = Health(config, derive_plan(config, NUM_CLIPS), [2, 5, 6])
    with pytest.raises(NonFiniteError, match="3 steps in a row could not be used, from step 5 on"):
        health.skip(7, {"loss": math.nan})


def test_a_loss_that_jumps_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    health = healthy(spike_factor=2.0, spike_window_steps=3)
    for step, loss in enumerate((1.0, 9.0, 3.0, 4.0, 6.0, 8.1, 8.1, 16.3), start=1):
        health.observe(step, loss)
    # medians of the three before: 3, 4, 4, 6, 8.1; the jump of step 8 follows too soon to be news
    assert [record.getMessage() for record in caplog.records] == [
        "step 6: the loss is 8.1000; its median over the steps before was 4.0000"
    ]
    added = health.judge({"step": 8})
    assert (added["loss_spikes"], added["health_warnings"]) == (2, 1)
    assert health.judge({"step": 9})["loss_spikes"] == 0


SOUND = {"feature_std": 0.6, "rank_me": 20.0, "prototype_perplexity": 15.0}
SOUND |= {"video_teacher_entropy": 2.0, "image_teacher_entropy": 2.0}


@pytest.mark.parametrize(
    ("figure", "sound", "bad"),
    [
        ("feature_std", 0.05, 0.049),
        ("rank_me", 2.0, 1.9),
        ("prototype_perplexity", 2.0, 1.9),  # of 20 prototypes, 2 % are less than two
        ("video_teacher_entropy", 0.97 * math.log(40), 0.99 * math.log(40)),
        ("image_teacher_entropy", 0.03 * math.log(40), 0.01 * math.log(40)),
    ],
)
def test_a_sign_of_collapse_that_lasts_is_a_warning(
    caplog: pytest.LogCaptureFixture, figure: str, sound: float, bad: float
) -> None:
    caplog.set_level(logging.WARNING)
    health = healthy(patience_steps=4, early_share=0.25)
    warned = {}
    for step in range(1, 13):
        record = SOUND | {figure: sound if step == 6 else bad, "step": step}
        warned[step] = health.judge(record)["health_warnings"]
    # the first three steps are early; the good record at step 6 begins the patience anew
    assert [step for step, count in warned.items() if count] == [11, 12]
    assert len(caplog.records) == 1
    assert f"step 11: {figure} is" in caplog.text
    assert "(since step 7)" in caplog.text


@pytest.mark.dist
def test_a_lasting_collapse_stops_all_ranks_when_asked_to(tmp_path: Path) -> None:
    health = {"on_collapse": "stop", "min_rank_me": 1e6, "patience_steps": 2, "early_share": 0.25}
    config: Config = tiny_config(engine={"micro_batch": 4}, run={"workers": 2}, health=health)
    first, second = run_ranks(2, run_broken, tmp_path, config, ())
    assert first.error.startswith("step 6: rank_me is")
    assert second.error  # it does not see the figures
    assert len(first.seen) == len(second.seen) == 6
    assert first.records[-1]["health_warnings"] >= 1


def test_a_process_that_hangs_tells_where_and_ends(tmp_path: Path) -> None:
    """But not at its first step, in a save, or while it works."""
    done = run_alone(f"health_runs.hang(0, pathlib.Path({str(tmp_path)!r}))")
    assert done.returncode == 1, done.stderr
    assert (tmp_path / "alive").exists()
    assert [path.name for path in tmp_path.glob("stacks_*")] == ["stacks_2.txt"]
    assert "in stand_still" in (tmp_path / "stacks_2.txt").read_text()
    assert "no step was done for 1 s after step 2" in done.stderr


def test_a_save_that_hangs_tells_where_and_ends_the_process(tmp_path: Path) -> None:
    """Training does step 2, then waits for the save of step 1. A hang elsewhere is not looked for here."""
    done = run_alone(f"health_runs.hang_in_save(pathlib.Path({str(tmp_path)!r}))")
    assert done.returncode == 1, done.stderr
    assert [path.name for path in tmp_path.glob("stacks_*")] == ["stacks_2.txt"]
    stacks = (tmp_path / "stacks_2.txt").read_text()
    assert "in write_for_ever" in stacks  # the thread that saves
    assert "in _settle" in stacks  # training
    assert "no save was done for 1 s after step 2" in done.stderr
