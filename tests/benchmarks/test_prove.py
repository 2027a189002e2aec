"""`make prove`: the verdict's arithmetic, the variants, the reference's pairing, and the whole way on a few clips."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from discovr_ray.config import derive_plan, load_config
from discovr_ray.data.synthetic import write_dataset
from discovr_ray.errors import ConfigError, StorageError
from discovr_ray.evaluate.bootstrap import Estimate
from discovr_ray.launch.preflight import CONFIG_FILE, config_text
from discovr_ray.model.decoder import Decoder
from discovr_ray.model.discovr import Teacher, tubelet_features
from discovr_ray.model.masks import video_visible
from discovr_ray.model.weights import CARD_FILE

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = [
    *("data.num_frames=8", "data.image_size=32", "model.width=24", "model.depth=1", "model.decoder_width=24"),
    *("model.decoder_depth=1", "model.num_prototypes=20", "model.head_hidden=32", "model.head_outputs=40"),
]


@pytest.fixture
def misaligned(in_benchmarks: None) -> Iterator[ModuleType]:
    """The experiment's module; what it changes in this process is put back."""
    import misaligned

    from discovr_ray.model import discovr

    before = discovr.tubelet_features, Decoder.forward
    yield misaligned
    discovr.tubelet_features, Decoder.forward = before  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("own", "random", "pixels", "answer"),
    [
        (Estimate(0.70, 0.66, 0.74), Estimate(0.50, 0.46, 0.54), Estimate(0.60, 0.56, 0.65), "proven"),
        (Estimate(0.70, 0.66, 0.74), Estimate(0.50, 0.46, 0.54), Estimate(0.60, 0.56, 0.66), "better, not proven"),
        (Estimate(0.70, 0.66, 0.74), Estimate(0.50, 0.46, 0.54), Estimate(0.70, 0.66, 0.74), "not better"),
        (Estimate(0.70, 0.66, 0.74), Estimate(0.72, 0.68, 0.76), Estimate(0.50, 0.46, 0.54), "not better"),
        (Estimate(-0.1, -0.2, 0.0), Estimate(-0.9, -1.2, -0.3), Estimate(-0.5, -0.8, -0.21), "proven"),
    ],
)
def test_the_verdict_is_that_of_the_harder_floor(
    in_benchmarks: None, own: Estimate, random: Estimate, pixels: Estimate, answer: str
) -> None:
    from verdicts import Measure, judge, markdown, plain, table

    measure = Measure("kNN", "balanced_accuracy", {"encoder": own, "random": random, "pixels": pixels})
    assert judge(measure).answer == answer
    assert table([measure])[1][-1] == answer
    assert markdown(table([measure])).splitlines()[2].endswith(f"| {answer} |")
    assert plain([measure])[0]["encoder"] == {"value": own.value, "low": own.low, "high": own.high}


def test_a_missing_floor_is_no_proof(in_benchmarks: None) -> None:
    from verdicts import Measure, judge

    with pytest.raises(KeyError, match="pixels"):
        judge(Measure("kNN", "r2", {"encoder": Estimate(1, 1, 1), "random": Estimate(0, 0, 0)}))


def test_the_references_order_is_visible_then_masked(misaligned: ModuleType) -> None:
    visible = torch.tensor([[1, 4], [0, 2]])
    assert misaligned.reading_order(visible, 5).tolist() == [[1, 4, 0, 2, 3], [0, 2, 1, 3, 4]]
    features = torch.arange(10.0).view(2, 5, 1)
    assert misaligned.visible_first(features, visible)[..., 0].tolist() == [[1, 4, 0, 2, 3], [5, 7, 6, 8, 9]]


def test_the_reference_keeps_every_other_token(misaligned: ModuleType) -> None:
    patches = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(0))  # [B, T, n, D]
    standard = tubelet_features(patches, 1)[0]
    assert torch.equal(misaligned.every_other_token(patches, 2)[0], standard[[0, 2, 4, 6, 8, 10]])
    assert misaligned.every_other_token(patches, 2).shape == tubelet_features(patches, 2).shape


def test_hardly_a_token_of_the_reference_meets_its_own(misaligned: ModuleType) -> None:
    """At the paper's sizes 0.19 % of the pairs are of the same patch and tubelet: counted over 64 clips' masks."""
    config = load_config("paper_vit_base")
    patches, tokens = 49, 1568
    keys = torch.arange(64)
    order = misaligned.reading_order(video_visible(keys, 0, config)[-1], tokens)
    image = 2 * torch.arange(tokens)  # token of a frame, (t n)
    same = (order % patches == image % patches) & (order // patches == image // patches // 2)
    assert 0.001 < same.float().mean() < 0.003


def test_misalign_changes_teacher_and_decoder(misaligned: ModuleType) -> None:
    """The hook that Ray's workers run does reach what a step computes; without it the two were equal to the bit."""
    config = load_config("prove", TINY)
    torch.manual_seed(0)
    teacher, decoder = Teacher(config).eval(), Decoder(config).eval()
    clips = torch.randn(1, 3, 8, 32, 32)
    visible = video_visible(torch.tensor([3]), 0, config)[-1]
    tokens = torch.randn(1, visible.shape[1], 24)
    with torch.no_grad():
        before = teacher(clips).image_features, decoder(tokens, visible)
        misaligned.misalign()
        after = teacher(clips).image_features, decoder(tokens, visible)
    assert torch.equal(after[1], misaligned.visible_first(before[1], visible))
    assert not torch.equal(after[0], before[0])
    assert not torch.equal(after[1], before[1])


def test_variants_differ_in_what_they_are_named_for(in_benchmarks: None, tmp_path: Path) -> None:
    from ablations import ABLATIONS
    from trial import Trial
    from variants import WHOLE, changed

    trial = Trial(load_config("prove"), tmp_path, "labelled")
    variants = [WHOLE, *ABLATIONS]
    configs = {variant.name: changed(trial, variant, epochs=2).config for variant in variants}
    assert len({variant.folder for variant in variants}) == len(variants) == 5
    assert [config.schedule.epochs for config in configs.values()] == [2] * 5
    whole = configs["whole method"]
    assert configs["without SCD"].loss.w_scd == 0 != whole.loss.w_scd
    assert configs["50 % masks"].mask.video_ratio == 0.5 < whole.mask.video_ratio
    assert [config.data.num_frames for config in configs.values()].count(whole.data.num_frames // 4) == 1
    assert configs["the reference's misaligned SCD"].model == whole.model
    assert configs["the reference's misaligned SCD"].loss == whole.loss


def test_a_finished_run_of_another_configuration_is_not_taken_for_this_one(in_benchmarks: None, tmp_path: Path) -> None:
    from trial import Trial, pretrained

    config = load_config("prove", [f"run.storage_path={tmp_path}"])
    folder = tmp_path / config.run.name
    folder.mkdir()
    (folder / CARD_FILE).write_text("{}")  # written last
    (folder / CONFIG_FILE).write_text(config_text(config))
    assert pretrained(Trial(config, tmp_path, "labelled")) == str(folder)
    other = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, epochs=2))
    with pytest.raises(ConfigError, match=r"is finished: schedule\.epochs = 2: the run to be continued has 36"):
        pretrained(Trial(other, tmp_path, "labelled"))


@pytest.mark.parametrize(("num_labelled", "seed"), [(3, 0), (2, 1)])
def test_videos_of_another_number_or_seed_are_not_taken_for_these(
    in_benchmarks: None, tmp_path: Path, num_labelled: int, seed: int
) -> None:
    from trial import SPLITS, _make

    manifest = tmp_path / "labelled" / "manifest" / "manifest.parquet"
    manifest.parent.mkdir(parents=True)
    write_dataset(tmp_path / "labelled" / "echo", 2, 0)
    manifest.write_bytes(b"there")
    _make(manifest, 2, 0, SPLITS)
    with pytest.raises(StorageError, match="choose another folder"):
        _make(manifest, num_labelled, seed, SPLITS)


def test_the_preset_fits_two_cores(in_benchmarks: None) -> None:
    config = load_config("prove")
    assert config.run.workers * config.run.cpus_per_worker + config.data.decode_cpus <= 2
    assert derive_plan(config, config.data.synthetic_clips).total_steps > config.checkpoint.every_steps


@pytest.mark.ray
@pytest.mark.slow
def test_the_whole_way_on_a_few_clips(tmp_path: Path) -> None:
    """k = 20 needs 20 training videos. Two epochs teach nothing, and nothing is called proven."""
    command = [sys.executable, str(BENCHMARKS / "prove.py"), "--output", str(tmp_path), "--labelled", "110"]
    changes = [*TINY, "data.synthetic_clips=32", "schedule.epochs=2"]
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent), "RAY_ADDRESS": ""}
    done = subprocess.run(
        [*command, *changes], env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "prove.json").read_text())
    assert result["videos"]["unlabelled"] == 32
    assert sum(result["videos"][split] for split in ("TRAIN", "VAL", "TEST")) == 110
    assert [item["metric"] for item in result["measures"]] == ["balanced_accuracy", "r2", "dice"]
    for item in result["measures"]:
        assert item["answer"] != "proven"
        for model in ("encoder", "random", "pixels"):
            assert item[model]["low"] <= item[model]["value"] <= item[model]["high"]
    assert set(result["knows"]) == {"encoder", "random", "pixels"}
    assert all(math.isfinite(value) for of in result["knows"].values() for value in of.values())
    assert len((tmp_path / "prove.md").read_text().splitlines()) == 5 + 1 + 5  # two tables
    assert (tmp_path / "evaluation" / "report.html").exists()
