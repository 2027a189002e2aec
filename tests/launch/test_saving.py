"""Saves of the real job that fail: training goes on, up to a limit."""

from __future__ import annotations

from pathlib import Path

import pytest
from pretrain_runs import complete_steps, tiny_run

from discovr_ray.errors import CheckpointError
from discovr_ray.launch.trainer import pretrain
from discovr_ray.train.run_log import read_records

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_save_that_fails_does_not_end_the_run(echo_manifest: str, tmp_path: Path) -> None:
    """A file stands where the folder of step 4 should be."""
    run = tmp_path / "demo"
    run.mkdir()
    (run / "step_00000004").write_text("no folder")
    assert pretrain(tiny_run(echo_manifest, tmp_path, checkpoint__keep=9)).steps == 8
    assert complete_steps(run) == [8, 6, 2]
    assert [record["step"] for record in read_records(str(run), "metrics.jsonl")] == list(range(1, 9))


def test_saves_that_all_fail_end_the_run_with_the_cause(echo_manifest: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    blocked = str(tmp_path / "file" / "saves")
    cause = r"step 6: 3 saves in a row have failed .* rank 0: .*file/saves.* rank 1: .*checkpoint\.local_folder names"
    with pytest.raises(CheckpointError, match=cause):
        pretrain(tiny_run(echo_manifest, tmp_path, checkpoint__local_folder=blocked))
    assert complete_steps(tmp_path / "demo") == []
