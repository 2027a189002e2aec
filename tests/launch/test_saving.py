"""Saves of the real job that fail: training goes on, up to a limit."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from pretrain_runs import complete_steps, tiny_run

from discovr_ray.errors import CheckpointError
from discovr_ray.launch.trainer import pretrain
from discovr_ray.train import claim
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


@pytest.mark.chaos
def test_a_save_that_hangs_is_reported_and_the_group_starts_again(echo_manifest: str, tmp_path: Path) -> None:
    """After the first step the run folder stops answering to who reads one file, which the next group writes anew."""
    run = tmp_path / "demo"

    def hang() -> None:
        while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
            time.sleep(0.005)
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "pipe").replace(run / claim.WRITER)

    thread = threading.Thread(target=hang)
    thread.start()
    limits = {"checkpoint__hang_timeout_s": 3, "storage__outage_patience_s": 1, "run__log_every_steps": 1000}
    assert pretrain(tiny_run(echo_manifest, tmp_path, **limits)).steps == 8
    thread.join()
    assert complete_steps(run)[0] == 8
    stacks = [path.read_text() for path in (run / "stacks").iterdir()]
    assert any("in _settle" in text for text in stacks)  # training waits
    assert any("/claim.py" in text and "in check" in text for text in stacks)  # for the thread that saves


def test_saves_that_all_fail_end_the_run_with_the_cause(echo_manifest: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    blocked = str(tmp_path / "file" / "saves")
    cause = r"step 6: 3 saves in a row have failed .* rank 0: .*file/saves.* rank 1: .*checkpoint\.local_folder names"
    with pytest.raises(CheckpointError, match=cause):
        pretrain(tiny_run(echo_manifest, tmp_path, checkpoint__local_folder=blocked))
    assert complete_steps(tmp_path / "demo") == []
