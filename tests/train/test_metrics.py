from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from gloo_ranks import run_ranks
from loop_runs import NUM_CLIPS, tiny_config

from discovr_ray.config import derive_plan
from discovr_ray.model.discovr import Teacher, TeacherOutput
from discovr_ray.schedules import StepValues
from discovr_ray.train import metrics
from discovr_ray.train.metrics import Metrics, feature_std, rank_me, teacher_entropy, usage_perplexity
from discovr_ray.train.objective import Pass


def test_teacher_entropy_of_equal_and_of_certain_outputs() -> None:
    equal = torch.full((3, 8), 5.0)
    assert teacher_entropy(equal, torch.zeros(8), 0.07) == pytest.approx(math.log(8))
    certain = torch.eye(8)[:2] * 100
    assert teacher_entropy(certain, torch.zeros(8), 0.07) == pytest.approx(0.0, abs=1e-6)
    # a centre that equals the logits leaves nothing but a uniform answer
    assert teacher_entropy(certain[:1], certain[0], 0.07) == pytest.approx(math.log(8))


def test_prototype_perplexity() -> None:
    assert usage_perplexity(torch.tensor([5.0, 5.0, 5.0, 5.0])) == pytest.approx(4.0)
    assert usage_perplexity(torch.tensor([7.0, 0.0, 0.0])) == pytest.approx(1.0)
    # shares 1/2, 1/4, 1/4: entropy 1.5 ln 2
    assert usage_perplexity(torch.tensor([2.0, 1.0, 1.0])) == pytest.approx(2**1.5)


def test_feature_std_is_one_when_spread_out_and_zero_when_collapsed() -> None:
    spread = torch.randn(4000, 32, generator=torch.Generator().manual_seed(0))
    assert feature_std(spread) == pytest.approx(1.0, abs=0.02)  # sampling error of 4000 rows
    assert feature_std(torch.ones(10, 32)) == pytest.approx(0.0, abs=1e-6)
    assert math.isnan(feature_std(torch.ones(1, 32)))


def test_rank_me_counts_equal_directions() -> None:
    assert rank_me(torch.eye(6)) == pytest.approx(6.0, rel=1e-4)
    assert rank_me(torch.ones(6, 1) @ torch.arange(1.0, 5.0)[None]) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.dist
def test_records_of_two_ranks(tmp_path: Path) -> None:
    (first, second), nothing = run_ranks(2, two_windows, tmp_path)
    assert nothing == [None, None]  # rank 0 alone makes records
    expected = {
        "step": 4,
        "epoch": 4 / 3,
        "loss": 2.0,  # means over the window's two steps
        "loss_vid": 0.75,
        "lr": 0.5,
        "ema_momentum": 0.99,
        "teacher_temperature": 0.07,
        "grad_norm": 6.0,  # of the last step
        "clips_per_s": 2 * 8 / 12,
        "data_wait_share": 3 / 12,
        "video_teacher_entropy": math.log(40),
        "image_teacher_entropy": 0.0,
        "prototype_perplexity": 4.0,  # rank 0 alone has tokens at two prototypes
        "feature_std": feature_std(torch.eye(24)[:6]),
        "rank_me": 6.0,
        "padded_share": 8 / 32,
        "bad_clips": 1,
    }
    assert first == pytest.approx(expected, rel=1e-4, abs=1e-5)
    anew = {"step": 5, "loss": 7.0, "grad_norm": 7.0, "clips_per_s": 8 / 5, "data_wait_share": 1.0}
    anew |= {"prototype_perplexity": 2.0, "padded_share": 2 / 16, "rank_me": 9.0}  # features outlive the window
    assert {name: second[name] for name in anew} == pytest.approx(anew, rel=1e-4)


def two_windows(rank: int) -> list[dict[str, float] | None]:
    """Two steps and a record, one step and a record, by a clock that is set by hand."""
    config = tiny_config(engine={"micro_batch": 4}, run={"workers": 2})
    clock = SimpleNamespace(now=100.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: clock.now))
        collected = Metrics(config, derive_plan(config, NUM_CLIPS), Teacher(config), rank)
        values = StepValues(lr=0.5, teacher_temperature=0.07, ema_momentum=0.99)
        for step, counts in enumerate(([[2, 0, 0, 1], [0, 2, 0, 0]], [[0, 0, 0, 1], [0, 0, 2, 0]])):
            collected.waited(1.0 + step)
            losses = {"loss": 1.0 + 2 * step, "loss_vid": 0.5 + step / 2}
            collected.observe(
                [made_up_pass(step, 3 + 2 * step)], losses, torch.tensor(counts[rank]).float(), 5.0 + step
            )
        clock.now += 12.0
        first = collected.record(4, values, num_bad=1)
        collected.waited(6.0)  # more than has passed: two clocks
        counts_of_step = torch.tensor([[3.0, 0.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0]])[rank]
        collected.observe([made_up_pass(2, 2)], {"loss": 7.0, "loss_vid": 0.0}, counts_of_step, 7.0)
        clock.now += 5.0
        return [first, collected.record(5, values, num_bad=1)]


def made_up_pass(step: int, num_padded: int) -> Pass:
    """Four clips of four frames; three have features of their own, the fourth failed."""
    features = torch.eye(24)[[3 * step, 3 * step + 1, 3 * step + 2, 23]]
    teacher = TeacherOutput(
        video_logits=torch.zeros(4, 40),
        video_features=features,
        image_logits=100.0 * torch.eye(40)[:16],
        image_features=torch.zeros(0),
    )
    clips, weights = torch.zeros(4, 3, 4, 2, 2), torch.tensor([1.0, 1.0, 1.0, 0.0])
    return Pass(clips, weights, torch.zeros(0), torch.zeros(0), teacher, num_padded)
