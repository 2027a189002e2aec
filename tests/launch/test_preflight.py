from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from discovr_ray.config import Config, load_config
from discovr_ray.errors import ConfigError, RunExistsError, StorageError
from discovr_ray.launch.dry_run import describe_run
from discovr_ray.launch.preflight import absolute_paths, claim_run_folder, differences, run_uri


def demo(storage_path: Path, *overrides: str) -> Config:
    return absolute_paths(load_config("demo", [f"run.storage_path={storage_path}", *overrides]))


def test_the_first_claim_writes_the_resolved_config(tmp_path: Path) -> None:
    config = demo(tmp_path)
    claim_run_folder(config, 72)
    stored = yaml.safe_load((tmp_path / "demo" / "config.yaml").read_text())
    assert stored["model"]["width"] == config.model.width
    assert stored["data"]["mean"] == list(config.data.mean)


def test_a_second_run_of_the_name_is_refused_without_resume(tmp_path: Path) -> None:
    claim_run_folder(demo(tmp_path), 72)
    with pytest.raises(RunExistsError, match=r"run\.name = 'demo'.*run\.resume=true"):
        claim_run_folder(demo(tmp_path), 72)
    claim_run_folder(demo(tmp_path, "run.resume=true"), 72)
    claim_run_folder(demo(tmp_path, "run.name=other"), 72)


def test_an_unwritable_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/runs/demo"):
        claim_run_folder(demo(tmp_path / "file" / "runs"), 72)


@pytest.mark.parametrize(
    ("override", "free"),
    [
        ("checkpoint.every_steps=7", True),
        ("run.max_failures=9", True),
        ("schedule.max_steps=50", True),
        ("engine.micro_batch=2", True),
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
    claim_run_folder(demo(tmp_path), 72)
    with pytest.raises(RunExistsError):
        describe_run(demo(tmp_path))
