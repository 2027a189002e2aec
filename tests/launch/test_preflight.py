from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from discovr_ray.config import Config, load_config
from discovr_ray.data.manifest import fingerprint
from discovr_ray.errors import ConfigError, ManifestError, RunExistsError, StorageError
from discovr_ray.launch.dry_run import describe_run
from discovr_ray.launch.preflight import absolute_paths, claim_run_folder, differences, run_uri
from discovr_ray.train import checkpoint

CLIPS = pa.table({"clip_id": ["a", "b"], "sha256": ["00", "01"]})


def demo(storage_path: Path, *overrides: str) -> Config:
    return absolute_paths(load_config("demo", [f"run.storage_path={storage_path}", *overrides]))


def test_the_first_claim_writes_the_resolved_config(tmp_path: Path) -> None:
    config = demo(tmp_path)
    claim_run_folder(config, CLIPS)
    stored = yaml.safe_load((tmp_path / "demo" / "config.yaml").read_text())
    assert stored["model"]["width"] == config.model.width
    assert stored["data"]["mean"] == list(config.data.mean)


def test_a_second_run_of_the_name_is_refused_without_resume(tmp_path: Path) -> None:
    claim_run_folder(demo(tmp_path), CLIPS)
    with pytest.raises(RunExistsError, match=r"run\.name = 'demo'.*run\.resume=true"):
        claim_run_folder(demo(tmp_path), CLIPS)
    claim_run_folder(demo(tmp_path, "run.resume=true"), CLIPS)
    claim_run_folder(demo(tmp_path, "run.name=other"), CLIPS)


def test_resume_starts_a_run_that_is_not_there(tmp_path: Path) -> None:
    """One command for the first start and for every retry, as backoffs of a scheduler need it."""
    config = demo(tmp_path, "run.resume=true")
    claim_run_folder(config, CLIPS)
    assert (tmp_path / "demo" / "config.yaml").exists()
    claim_run_folder(config, CLIPS)


def test_an_unwritable_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/runs/demo"):
        claim_run_folder(demo(tmp_path / "file" / "runs"), CLIPS)


@pytest.mark.parametrize(
    ("override", "free"),
    [
        ("checkpoint.every_steps=7", True),
        ("run.max_failures=9", True),
        ("schedule.max_steps=50", True),
        ("engine.micro_batch=2", True),
        ("engine.zero_stage=3", True),
        ("data.manifest=elsewhere/manifest.parquet", True),
        ("run.seed=1", False),
        ("data.num_frames=8", False),
        ("loss.w_scd=2", False),
        ("engine.global_batch=16", False),
    ],
)
def test_what_a_continued_run_may_change(tmp_path: Path, override: str, free: bool) -> None:
    stored: dict[str, Any] = demo(tmp_path).to_dict()
    problems = differences(stored, demo(tmp_path, override).to_dict())
    assert (problems == []) is free
    assert free or problems[0].startswith(override.partition("=")[0])


def seal_checkpoint(storage_path: Path, step: int = 4, clips: pa.Table = CLIPS) -> Path:
    """A complete checkpoint of the demo with one file."""
    folder = storage_path / "demo" / checkpoint.folder_name(step)
    folder.mkdir(parents=True)
    (folder / "encoder.json").write_text("{}")
    config = demo(storage_path)
    state = checkpoint.TrainState(
        step=step,
        samples_seen=step * 8,
        num_clips=clips.num_rows,
        world_size=2,
        zero_stage=2,
        config=config.to_dict(),
        clips_sha256=fingerprint(clips),
    )
    checkpoint.seal(str(folder), checkpoint.describe(folder), state)
    return folder


def test_checkpoints_without_a_config_are_somebodys_run(tmp_path: Path) -> None:
    seal_checkpoint(tmp_path)
    with pytest.raises(RunExistsError):
        claim_run_folder(demo(tmp_path), CLIPS)


def test_a_run_is_continued_by_any_number_of_workers_on_the_same_clips(tmp_path: Path) -> None:
    seal_checkpoint(tmp_path)
    resume = "run.resume=true"
    with pytest.raises(ConfigError, match=r"engine\.global_batch = 8: must be a multiple of run\.workers x"):
        demo(tmp_path, resume, "run.workers=3")  # the global batch stays
    for changes in (["run.workers=1"], ["run.workers=4", "engine.micro_batch=2", "engine.zero_stage=3"], []):
        claim_run_folder(demo(tmp_path, resume, *changes), CLIPS)
    before = (tmp_path / "demo" / "config.yaml").read_text()
    others = pa.table({"clip_id": ["a", "b"], "sha256": ["00", "ff"]})
    with pytest.raises(ConfigError, match=r"data\.manifest = .*: selects other clips \(2\)"):
        claim_run_folder(demo(tmp_path, resume), others)
    assert (tmp_path / "demo" / "config.yaml").read_text() == before  # a refused resume changes nothing


def test_relative_paths_become_absolute_for_the_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = absolute_paths(load_config("demo", ["data.manifest=m/manifest.parquet"]))
    assert config.data.manifest == str(tmp_path / "m" / "manifest.parquet")
    assert run_uri(config) == str(tmp_path / "runs" / "demo")


def test_dry_run_says_what_would_happen_and_writes_nothing(tmp_path: Path) -> None:
    text = describe_run(demo(tmp_path / "runs"))
    assert "180 (9 an epoch" in text  # 96 synthetic clips, 3 in 4 for training, 8 a step, 20 epochs
    assert "8 = 2 CPU workers x 4 clips x 1 passes" in text
    assert "GiB a worker" in text
    assert not (tmp_path / "runs").exists()


def test_dry_run_refuses_what_the_run_refuses(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has only 6 clips"):
        describe_run(demo(tmp_path, "data.synthetic_clips=8"))
    with pytest.raises(ManifestError, match=r"data\.label_filter"):
        describe_run(demo(tmp_path, "data.label_filter={diagnosis: none}"))
    claim_run_folder(demo(tmp_path), CLIPS)
    with pytest.raises(RunExistsError):
        describe_run(demo(tmp_path))


def test_dry_run_counts_the_clips_that_the_filter_leaves(tmp_path: Path) -> None:
    text = describe_run(demo(tmp_path, "data.label_filter={abnormal: 0}"))
    assert "36 from synthetic" in text  # half of the 72 are normal
