"""The arithmetic of docs/scaling.md, by hand-computed values, and the table of jobs/plan.py."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from discovr_ray.config import derive_plan, load_config
from discovr_ray.data.plan import plan_stream
from discovr_ray.data.stream import feeder
from discovr_ray.errors import ConfigError
from discovr_ray.launch import capacity
from discovr_ray.launch.capacity import GIB, Site, needs
from discovr_ray.train.estimate import estimate_memory

ROOT = Path(__file__).parents[2]
PAPER = load_config("paper_vit_base")
SITE = Site(clips_per_gpu_s=100.0)


def test_rates_follow_from_one_gpus_speed() -> None:
    need = needs(PAPER, SITE, gpus=8, clips=10_000, epochs=400)
    rate = 8 * 100 * 0.9
    assert need.decode_cpus == math.ceil(rate * 9.1 / 1000 / 0.9) == 8
    assert need.read_bytes_per_s == pytest.approx(rate * 0.7e6)
    assert need.node_bytes_per_s == pytest.approx(rate / 2 * 64 * 112 * 112)  # two nodes of four GPUs
    assert need.steps == 10_000 // 256 * 400
    step_s = 256 / rate
    assert need.gradient_bytes_per_s == pytest.approx(2 * 4 * 202_796_000 * 7 / 8 / step_s, rel=1e-3)
    assert need.hours == pytest.approx(need.steps * step_s / 3600 / (1 - need.lost_share))
    assert need.price == pytest.approx(need.hours * (8 * 1.0 + 8 * 0.03 + 0.2))


def test_a_single_gpu_loses_nothing_to_others_and_shards_nothing() -> None:
    need = needs(PAPER, SITE, gpus=1, clips=10_000, epochs=1)
    assert (need.zero_stage, need.gradient_bytes_per_s) == (0, 0)
    assert need.hours == pytest.approx(39 * 256 / 100 / 3600 / (1 - need.lost_share))


@pytest.mark.parametrize(
    ("gpus", "micro_batch", "global_batch"), [(1, 16, 256), (8, 16, 256), (64, 4, 256), (256, 4, 1024)]
)
def test_the_global_batch_stays_until_micro_batches_are_dwarfs(gpus: int, micro_batch: int, global_batch: int) -> None:
    need = needs(PAPER, SITE, gpus, 1_000_000, 1)
    assert (need.micro_batch, need.global_batch) == (micro_batch, global_batch)


def test_the_lowest_stage_that_fits_is_taken() -> None:
    """ViT-Base at 16 clips on 8 GPUs: 18.0 GiB at stage 1, and the framework's 2.5."""
    stages = {gib: needs(PAPER, dataclasses.replace(SITE, gpu_gib=gib), 8, 10_000, 1).zero_stage for gib in (24, 20.2)}
    assert stages == {24: 1, 20.2: 2}
    with pytest.raises(ConfigError, match=r"gpu_gib = 12: the run needs 1\d\.\d GiB on each of 8 GPUs"):
        needs(PAPER, dataclasses.replace(SITE, gpu_gib=12), 8, 10_000, 1)


def test_a_checkpoint_is_as_large_as_the_measured_one() -> None:
    """benchmarks/checkpoint.py: 3.55 GB for paper_vit_base."""
    assert needs(PAPER, SITE, 8, 10_000, 1).checkpoint_bytes == pytest.approx(3.55e9, rel=0.02)


def test_the_interval_is_near_youngs_and_no_shorter_than_an_upload() -> None:
    """8 GPUs on 2 nodes: a node is lost every 12 hours."""
    need = needs(PAPER, dataclasses.replace(SITE, upload_bytes_per_s=1e9), 8, 1_000_000, 2)
    step_s, pause_s = 256 / (8 * 100 * 0.9), need.checkpoint_bytes / 8 / 1.8e9
    young_s = math.sqrt(2 * pause_s * 12 * 3600)
    assert need.interval_steps == pytest.approx(young_s / step_s, rel=0.01)
    upload_s = need.checkpoint_bytes / 2 / 1e9
    # each loss costs the restart, half an interval, and what was on its way
    assert need.lost_share == pytest.approx(pause_s / young_s + (300 + young_s / 2 + upload_s) / (12 * 3600), rel=0.02)
    slow = needs(PAPER, dataclasses.replace(SITE, upload_bytes_per_s=1e6), 8, 1_000_000, 2)
    assert slow.interval_steps == pytest.approx(slow.checkpoint_bytes / 2 / 1e6 / step_s, rel=0.01)


def test_more_losses_cost_more() -> None:
    steady = needs(PAPER, dataclasses.replace(SITE, node_mtbf_h=1000), 64, 1_000_000, 4)
    shaky = needs(PAPER, dataclasses.replace(SITE, node_mtbf_h=10), 64, 1_000_000, 4)
    assert steady.lost_share < shaky.lost_share < 1
    assert steady.hours < shaky.hours


def test_what_is_read_ahead_is_what_the_feeder_allows() -> None:
    config = dataclasses.replace(PAPER, run=dataclasses.replace(PAPER.run, workers=8))
    plan = plan_stream(config, derive_plan(config, 10_000), 8, 0)
    spec = feeder.StreamSpec(config, plan, 1024, None, None)
    length = spec.micro_batches_per_block(spec.segments()[0])
    need = needs(PAPER, SITE, 8, 10_000, 400)
    assert need.object_store_bytes == feeder._read_ahead_bytes(spec, need.decode_cpus, length)
    assert (capacity.BLOCK_BYTES, capacity.MIN_READ_AHEAD) == (feeder.BLOCK_BYTES, feeder.MIN_READ_AHEAD_BYTES)


def test_memory_is_the_presets_estimate() -> None:
    expected = estimate_memory(PAPER).total + 2.5 * GIB
    assert needs(PAPER, SITE, 8, 10_000, 1).gpu_bytes == expected


@pytest.mark.parametrize(
    ("change", "gpus", "clips", "words"),
    [
        ({"source": "vhs"}, 8, 1000, "source = 'vhs': one of mjpeg-disk"),
        ({"clips_per_gpu_s": 0.0}, 8, 1000, "clips_per_gpu_s = 0: must be above 0"),
        ({}, 0, 1000, "gpus = 0: must be at least 1"),
        ({}, 8, 100, "clips = 100: fewer than one global batch of 256 on 8 GPUs"),
    ],
)
def test_impossible_numbers_are_refused(change: dict[str, object], gpus: int, clips: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        needs(PAPER, dataclasses.replace(SITE, **change), gpus, clips, 1)  # type: ignore[arg-type]


def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / "plan.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_job_prints_the_same_numbers() -> None:
    done = plan("--clips-per-gpu-second", "100", "--gpus", "8", "--clips", "10_000", "--epochs", "400", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row == needs(PAPER, SITE, 8, 10_000, 400)._asdict()
    refused = plan("--clips-per-gpu-second", "100", "--clips", "10,20", "--epochs", "1,2,3")
    assert refused.returncode == 2
    assert "--epochs" in refused.stderr


def test_the_page_holds_the_table_that_the_job_prints() -> None:
    """docs/scaling.md names its command."""
    page = (ROOT / "docs" / "scaling.md").read_text()
    done = plan("--clips-per-gpu-second", "60")
    assert "python jobs/plan.py --clips-per-gpu-second 60\n" in page
    assert done.stdout.strip() in page
