"""Signs of collapse are named, in plain words, at the limits where a run has failed."""

from __future__ import annotations

import math
from typing import Any

import pytest

from discovr_ray.report.health import Finding, findings
from discovr_ray.report.run_files import RunFiles

SOUND = {
    "step": 0,
    "epoch": 0.0,
    "loss": 9.0,
    "feature_std": 0.6,
    "rank_me": 20.0,
    "prototype_perplexity": 30.0,
    "video_teacher_entropy": 4.0,
    "image_teacher_entropy": 4.0,
    "data_wait_share": 0.02,
    "padded_share": 0.0,
    "bad_clips": 0,
}


def run_with(
    total_steps: int = 100,
    quarantine: int = 0,
    losses: tuple[float | None, ...] = (),
    health: dict[str, Any] | None = None,
    **last: Any,
) -> RunFiles:
    losses = losses or tuple(10 - 0.1 * place for place in range(10))
    metrics = [{**SOUND, **last, "step": 10 * (place + 1), "loss": loss} for place, loss in enumerate(losses)]
    model = {"width": 96, "head_outputs": 512, "num_prototypes": 64}
    rejected = [{"clip_id": f"clip{place}", "reason": "cut"} for place in range(quarantine)]
    config = {"model": model} | ({"health": health} if health else {})
    return RunFiles("run", "run", config, metrics, rejected, [], None, 10 * len(losses), total_steps, 8)


def titled(run: RunFiles, part: str) -> Finding:
    return next(finding for finding in findings(run) if part in finding.title)


def test_a_sound_run_has_only_good_signs() -> None:
    found = findings(run_with())
    assert [finding.level for finding in found] == ["good"] * len(found)
    assert len(found) == 7


def test_nothing_is_judged_before_the_first_record() -> None:
    assert findings(run_with()._replace(metrics=[])) == []


@pytest.mark.parametrize(
    ("title", "values", "level", "words"),
    [
        ("Spread", {"feature_std": 0.01}, "bad", "collapse"),
        ("Spread", {"feature_std": 0.1}, "watch", "close together"),
        ("RankMe", {"rank_me": 1.2}, "bad", "one direction"),
        ("RankMe", {"rank_me": 3.0}, "watch", "few"),
        ("Prototypes", {"prototype_perplexity": 1.1}, "bad", "same prototype"),
        ("Prototypes", {"prototype_perplexity": 5.0}, "watch", "small part"),
        ("video teacher", {"video_teacher_entropy": 0.99 * math.log(512)}, "bad", "nothing to learn"),
        ("image teacher", {"image_teacher_entropy": 0.99 * math.log(512)}, "bad", "nothing to learn"),
        ("image teacher", {"image_teacher_entropy": 0.01}, "watch", "nearly all weight"),
        ("Waiting", {"data_wait_share": 0.4}, "watch", "data.decode_cpus"),
        ("Repeated", {"padded_share": 0.5}, "watch", "short_clip"),
    ],
)
def test_each_bad_sign_is_explained(title: str, values: dict[str, float], level: str, words: str) -> None:
    finding = titled(run_with(**values), title)
    assert finding.level == level
    assert words in finding.sentence


def test_uniform_teachers_are_normal_in_the_beginning() -> None:
    young = run_with(total_steps=1000, video_teacher_entropy=math.log(512))
    assert titled(young, "video teacher").level == "watch"


def test_the_worst_sign_comes_first() -> None:
    levels = [finding.level for finding in findings(run_with(rank_me=3.0, feature_std=0.0))]
    assert levels == sorted(levels, key=["bad", "watch", "good"].index)
    assert levels[:2] == ["bad", "watch"]


def test_a_loss_that_is_no_number_is_the_first_thing_said() -> None:
    first = findings(run_with(losses=(10.0, 9.0, None)))[0]
    assert (first.level, first.title, first.value) == ("bad", "Loss", "not a number")


def test_a_rising_loss_is_watched() -> None:
    finding = titled(run_with(losses=tuple(5.0 + place for place in range(10))), "Loss")
    assert finding.level == "watch"
    assert "from 5.500 to 13.500" in finding.sentence  # means of the first and last two


def test_limits_are_those_that_the_run_had() -> None:
    limits = {"min_rank_me": 30.0, "early_share": 0.0, "of_another_version": 1}
    assert titled(run_with(health=limits), "RankMe").level == "bad"
    young = run_with(total_steps=1000, health=limits, video_teacher_entropy=math.log(512))
    assert titled(young, "video teacher").level == "bad"


def test_skipped_steps_and_spikes_are_told() -> None:
    run = run_with(skipped_steps=2, loss_spikes=1)
    assert titled(run, "skipped").value == "2"
    assert "near step 100" in titled(run, "spikes").sentence


def test_clips_left_out_are_counted_once_each() -> None:
    assert titled(run_with(quarantine=3), "left out").value == "3"
