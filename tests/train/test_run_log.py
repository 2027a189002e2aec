from __future__ import annotations

import json
import math
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from loop_runs import tiny_config

from discovr_ray.config import RunPlan, derive_plan
from discovr_ray.data.stream import ClipFailure
from discovr_ray.train import publisher, run_log
from discovr_ray.train.run_log import METRICS_FILE, QUARANTINE_FILE, RunLog, progress_line, read_records

CONFIG = tiny_config()
PLAN: RunPlan = derive_plan(CONFIG, 24)


def record(step: int, **values: float) -> dict[str, float]:
    names = [
        "epoch",
        "loss",
        "loss_vid",
        "loss_img",
        "loss_scd",
        "lr",
        "grad_norm",
        "rank_me",
        "clips_per_s",
        "data_wait_share",
    ]
    return {"step": step, **dict.fromkeys(names, 1.0), **values}


def open_log(folder: Path, start_step: int) -> RunLog:
    return RunLog(str(folder), CONFIG, PLAN, start_step, folder / "unused")


def steps(folder: Path) -> list[int]:
    return [line["step"] for line in read_records(str(folder), METRICS_FILE)]


def test_records_survive_and_are_not_doubled_by_a_resume(tmp_path: Path) -> None:
    log = open_log(tmp_path, 0)
    for step in (1, 2, 3, 4):
        log.metrics(record(step))
    log.quarantine(3, 0, [ClipFailure("a", "no such file")])
    log.close()
    resumed = open_log(tmp_path, 2)
    assert steps(tmp_path) == [1, 2]
    resumed.metrics(record(3))
    resumed.close()
    assert steps(tmp_path) == [1, 2, 3]
    assert read_records(str(tmp_path), QUARANTINE_FILE) == [
        {"clip_id": "a", "reason": "no such file", "step": 3, "epoch": 0}
    ]
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_nan_is_null_because_json_has_none(tmp_path: Path) -> None:
    log = open_log(tmp_path, 0)
    log.metrics(record(1, rank_me=math.nan))
    log.close()
    line: dict[str, Any] = json.loads((tmp_path / METRICS_FILE).read_text())
    assert line["rank_me"] is None


def test_progress_line_tells_place_losses_and_time_left() -> None:
    line = progress_line(record(2, clips_per_s=0.02, loss=12.5), PLAN, 8)
    assert f"step 2/{PLAN.total_steps}" in line
    assert "loss 12.5" in line
    assert "left 1:06:40" in line  # 10 steps of 8 clips at 0.02 clips a second


def test_progress_line_tells_the_probe_where_there_was_one() -> None:
    assert "kNN" not in progress_line(record(2), PLAN, 8)
    assert "kNN 62.5%" in progress_line(record(2, knn_balanced_accuracy=0.625), PLAN, 8)


def test_a_line_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_records(str(tmp_path), METRICS_FILE) == [{"step": 1}]
    open_log(tmp_path, 1).close()
    assert steps(tmp_path) == [1]


@pytest.mark.s3
def test_on_an_object_store_files_arrive_whole(s3_server: Any, tmp_path: Path) -> None:
    uri, local = f"{s3_server.uri}/log-run", tmp_path / "log"
    log = RunLog(uri, CONFIG, PLAN, 0, local)
    log.metrics(record(1))
    log.close()
    assert not local.exists()
    again = RunLog(uri, CONFIG, PLAN, 1, local)
    again.metrics(record(2))
    again.close()
    assert [line["step"] for line in read_records(uri, METRICS_FILE)] == [1, 2]


def test_training_does_not_wait_for_a_storage_that_takes_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty steps pass during the first copy of the log, and do not queue up copies of their own."""
    begun, go = threading.Event(), threading.Event()
    copied: list[str] = []

    def slow_put(local_path: str, uri: str) -> None:
        begun.set()
        assert go.wait(30)
        copied.append(uri.rpartition("/")[2])
        shutil.copy(local_path, arrived / copied[-1])

    arrived = tmp_path / "storage"
    arrived.mkdir()
    monkeypatch.setattr(publisher.storage, "put_file", slow_put)
    monkeypatch.setattr(run_log, "read_records", lambda uri, name: [])
    log = RunLog("memory://run", CONFIG, PLAN, 0, tmp_path / "log")
    for step in range(1, 51):
        log.metrics(record(step))
        log.quarantine(step, 0, [ClipFailure(str(step), "broken")])  # asks for a copy
        assert begun.wait(30)
    assert copied == []
    go.set()
    log.close()
    assert copied.count(METRICS_FILE) <= 3  # the first, one that was asked for, that of `close`
    assert [line["step"] for line in read_records(str(arrived), METRICS_FILE)] == list(range(1, 51))
    assert len(read_records(str(arrived), QUARANTINE_FILE)) == 50
