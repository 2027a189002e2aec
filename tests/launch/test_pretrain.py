"""The whole job on real clips, real Ray and real DeepSpeed shards."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from faulty_proxy import READ_FAULTS, FaultyProxy, Schedule
from pretrain_runs import Job, complete_steps, encoder_bytes, overrides, tiny_run, train_workers
from rclone_server import SECRET

from discovr_ray import load_encoder
from discovr_ray.data import storage
from discovr_ray.data.manifest import read_manifest, write_manifest
from discovr_ray.errors import CheckpointError, ConfigError, RunExistsError, StorageError, TooManyBadClipsError
from discovr_ray.launch.rank_log import session_logs
from discovr_ray.launch.trainer import RunSummary, pretrain
from discovr_ray.train import claim
from discovr_ray.train.run_log import read_records

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def finished(echo_manifest: str, tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    """An undisturbed run that others are compared with."""
    return pretrain(tiny_run(echo_manifest, tmp_path_factory.mktemp("runs")))


def folder(summary: RunSummary) -> Path:
    return Path(summary.run_uri)


def test_a_run_leaves_everything_it_promises(finished: RunSummary) -> None:
    assert (finished.steps, finished.total_steps, finished.stopped_by) == (8, 8, None)
    run = folder(finished)
    records = read_records(str(run), "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, 9))
    assert all(np.isfinite(record["loss"]) for record in records)
    assert complete_steps(run) == [8, 6]  # keep: 2
    assert {path.name for path in run.iterdir()} >= {"config.yaml", "tensorboard", "report.html", "encoder.json"}
    samples = np.load(run / "step_00000008" / "samples.npz")
    assert samples["frames"].shape[1:] == (4, 32, 32)
    assert samples["attention"].shape == samples["prototypes"].shape == (len(samples["frames"]), 2, 2, 2)


def test_the_cost_counts_all_workers_and_clips(finished: RunSummary) -> None:
    (account,) = (folder(finished) / "usage").iterdir()
    record = json.loads(account.read_text())
    assert (record["workers"], record["use_gpu"]) == (2, False)
    assert finished.cost.worker_hours == 2 * record["seconds"] / 3600 > 0
    assert finished.cost.clips == 8 * 4  # steps x global batch


def when_written(path: Path, later_s: int = 0) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(path.stat().st_mtime + later_s))


def test_every_rank_leaves_its_clips_by_step_and_nothing_of_patients(finished: RunSummary, echo_manifest: str) -> None:
    rows = read_manifest(echo_manifest).to_pylist()
    ids = {row["clip_id"] for row in rows}
    seen: dict[int, list[str]] = {}
    begin, end = when_written(folder(finished) / "config.yaml"), when_written(folder(finished) / "encoder.json", 1)
    for rank in (0, 1):
        (path,) = session_logs().glob(f"discovr_demo_rank_{rank:05d}.jsonl")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines = [line for line in lines if begin <= line["time"] <= end]  # runs of other tests have this name, too
        text = json.dumps(lines)
        assert all((line["run"], line["rank"]) == ("demo", rank) for line in lines)
        assert {"time", "level", "node", "step", "message"} <= lines[0].keys()
        for line in lines:
            seen.setdefault(line["step"], []).extend(line.get("clip_ids", []))
        assert not any(row["uri"] in text for row in rows)
        assert "labels" not in text
    assert set(seen) >= set(range(1, 9))
    assert all(len(seen[step]) % 4 == 0 and set(seen[step]) <= ids for step in range(1, 9))  # 2 ranks x 2 clips


def test_the_encoder_works_alone(finished: RunSummary) -> None:
    encoder = load_encoder(finished.encoder_uri)
    tokens = encoder(torch.zeros(3, 4, 32, 32, dtype=torch.uint8))
    assert tokens.cls.shape == (3, 24)
    assert tokens.patches.shape == (3, 8, 24)


def test_the_knn_probe_is_logged_and_changes_nothing(finished: RunSummary, echo_manifest: str, tmp_path: Path) -> None:
    """Every third step and at the end; the same losses and the same encoder as without it, to the bit."""
    probe = {"probe__every_steps": 3, "probe__label": "abnormal", "probe__k": 5, "probe__max_train": 12}
    probed = pretrain(tiny_run(echo_manifest, tmp_path, **probe))
    assert encoder_bytes(folder(probed)) == encoder_bytes(folder(finished))
    records, before = (read_records(summary.run_uri, "metrics.jsonl") for summary in (probed, finished))
    assert [record["loss"] for record in records] == [record["loss"] for record in before]
    found = {record["step"]: record["knn_balanced_accuracy"] for record in records if "knn_balanced_accuracy" in record}
    assert list(found) == [3, 6, 8]
    assert all(value in (0, 0.25, 0.5, 0.75, 1) for value in found.values()), "of VAL's 3 videos, one is abnormal"
    assert "What it has learnt so far" in Path(probed.report_uri).read_text()


def test_a_probe_that_cannot_be_asked_is_refused_before_it_starts(echo_manifest: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"probe\.label = 'sex': label 'sex': no video has it"):
        pretrain(tiny_run(echo_manifest, tmp_path, probe__every_steps=1, probe__label="sex"))
    with pytest.raises(ConfigError, match=r"probe\.k = 20: must be at most the 18 videos of split TRAIN"):
        pretrain(tiny_run(echo_manifest, tmp_path, probe__every_steps=1, probe__label="abnormal"))
    assert not (tmp_path / "demo").exists()


def test_a_taken_name_is_refused(finished: RunSummary, echo_manifest: str) -> None:
    with pytest.raises(RunExistsError, match=r"run\.resume=true"):
        pretrain(tiny_run(echo_manifest, folder(finished).parent))


def test_resuming_a_finished_run_changes_nothing(finished: RunSummary, echo_manifest: str) -> None:
    before = encoder_bytes(folder(finished))
    again = pretrain(tiny_run(echo_manifest, folder(finished).parent, run__resume=True))
    assert again.steps == 8
    assert encoder_bytes(folder(finished)) == before


def test_another_model_cannot_continue_a_run(finished: RunSummary, echo_manifest: str) -> None:
    changed = {"run__resume": True, "model__num_prototypes": 21, "run__seed": 5}
    with pytest.raises(ConfigError) as caught:
        pretrain(tiny_run(echo_manifest, folder(finished).parent, **changed))
    assert [problem.split(" ")[0] for problem in caught.value.problems] == ["model.num_prototypes", "run.seed"]


@pytest.mark.parametrize("harm", ["cut", "flip"])
def test_a_damaged_newest_checkpoint_is_skipped(
    finished: RunSummary, echo_manifest: str, tmp_path: Path, harm: str
) -> None:
    """A flipped bit leaves every size right; then nothing of that checkpoint may reach the result."""
    copy = tmp_path / "demo"
    shutil.copytree(folder(finished), copy)
    shard = next((copy / "step_00000008").glob("student_*_1_of_2.safetensors"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content if harm == "flip" else content[: len(content) // 2])
    again = pretrain(tiny_run(echo_manifest, tmp_path, run__resume=True))
    assert again.steps == 8
    assert encoder_bytes(copy) == encoder_bytes(folder(finished))
    assert complete_steps(copy) == [8, 6]


def test_a_run_without_a_sound_checkpoint_does_not_start_over(
    finished: RunSummary, echo_manifest: str, tmp_path: Path
) -> None:
    copy = tmp_path / "demo"
    shutil.copytree(folder(finished), copy)
    for teacher in copy.glob("step_*/teacher_*.safetensors"):
        content = bytearray(teacher.read_bytes())
        content[-1] ^= 1
        teacher.write_bytes(content)
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints is sound"):
        pretrain(tiny_run(echo_manifest, tmp_path, run__resume=True))
    assert [record["step"] for record in read_records(str(copy), "metrics.jsonl")] == list(range(1, 9))


@pytest.mark.chaos
def test_kill_9_of_a_worker_and_exact_continuation(finished: RunSummary, echo_manifest: str, tmp_path: Path) -> None:
    """Ray restarts the group from the newest complete checkpoint, in the same call."""
    import threading

    def kill_one_worker() -> None:
        for _ in range(600):
            if (tmp_path / "demo" / "step_00000004" / "checkpoint.json").exists():
                break
            threading.Event().wait(0.1)
        for worker in train_workers()[:1]:
            killed.append(worker.pid)
            worker.kill()

    killed: list[int] = []
    thread = threading.Thread(target=kill_one_worker)
    thread.start()
    summary = pretrain(tiny_run(echo_manifest, tmp_path))
    thread.join()
    assert len(killed) == 1
    assert summary.steps == 8
    assert encoder_bytes(tmp_path / "demo") == encoder_bytes(folder(finished))
    steps = [record["step"] for record in read_records(str(tmp_path / "demo"), "metrics.jsonl")]
    assert steps == list(range(1, 9))


@pytest.mark.chaos
def test_kill_9_of_the_driver_and_exact_continuation(finished: RunSummary, echo_manifest: str, tmp_path: Path) -> None:
    job = Job(overrides(echo_manifest, tmp_path), tmp_path / "first.log")
    job.wait_for(lambda: (tmp_path / "demo" / "step_00000002" / "checkpoint.json").exists())
    job.kill()
    resumed = Job(overrides(echo_manifest, tmp_path, run__resume=True), tmp_path / "second.log")
    assert resumed.wait() == 0, resumed.output()
    assert "starting at step 0" not in resumed.output()
    assert encoder_bytes(tmp_path / "demo") == encoder_bytes(folder(finished))


@pytest.mark.chaos
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_and_until_then_nobody_else_gets_the_run(
    ray_cluster: None, echo_manifest: str, tmp_path: Path, number: signal.Signals
) -> None:
    long = {"checkpoint__every_steps": 1000, "schedule__epochs": 500}
    job = Job(overrides(echo_manifest, tmp_path, **long), tmp_path / "job.log")
    job.wait_for(lambda: len(read_records(str(tmp_path / "demo"), "metrics.jsonl")) >= 3)
    with pytest.raises(RunExistsError, match=r"a job already trains this run \(process \d+ on "):
        pretrain(tiny_run(echo_manifest, tmp_path, run__resume=True, **long))
    job.send(number)
    assert job.wait() == 128 + number, job.output()
    (step,) = complete_steps(tmp_path / "demo")
    assert step >= 3
    assert "run.resume=true" in job.output()
    assert claim.claims(str(tmp_path / "demo")) == []


@pytest.mark.chaos
def test_a_run_goes_on_with_other_numbers_of_workers(finished: RunSummary, echo_manifest: str, tmp_path: Path) -> None:
    """2, then 1, then 2 workers: the trace of the fixed run. tests/train/test_elastic.py compares the clips too."""
    for workers, last_step, done in ((2, 3, 3), (1, 6, 6), (2, 0, 8)):
        changes = {"run__resume": True, "run__workers": workers, "schedule__max_steps": last_step}
        assert pretrain(tiny_run(echo_manifest, tmp_path, **changes)).steps == done
    expected, found = (read_records(uri, "metrics.jsonl") for uri in (finished.run_uri, str(tmp_path / "demo")))
    assert [record["step"] for record in found] == list(range(1, 9))
    for step, (one, other) in enumerate(zip(found, expected, strict=True), start=1):
        # until the first change the same bits; then one worker adds up gradients in another order than two, and Adam
        # makes a full step even of a gradient that is all rounding error
        tolerance = 0 if step <= 3 else 2e-3
        for term in ("loss_vid", "loss_img", "loss_scd", "loss"):
            assert one[term] == pytest.approx(other[term], rel=tolerance, abs=0), (step, term)


def damage(manifest: str, folder: Path) -> tuple[str, dict[str, str]]:
    """A copy of the data set with every kind of bad clip, and what each one's reason must say."""
    import pyarrow as pa

    from discovr_ray.data.manifest import read_manifest, write_manifest

    table = read_manifest(manifest)
    rows = table.to_pylist()
    clips = folder / "clips"
    clips.mkdir(parents=True)
    for row in rows:
        copy = clips / Path(row["uri"]).name
        shutil.copy(row["uri"], copy)
        row["uri"] = str(copy)
    train = [row for row in rows if row["split"] == "TRAIN"]
    paths = [Path(row["uri"]) for row in train]
    paths[0].unlink()
    paths[1].write_bytes(b"")
    paths[2].write_bytes(paths[2].read_bytes()[:5000])
    flipped = bytearray(paths[3].read_bytes())
    flipped[len(flipped) // 2] ^= 0xFF
    paths[3].write_bytes(flipped)
    shutil.copy(paths[10], paths[4])  # swapped for another video
    expected = dict(
        zip(
            (row["clip_id"] for row in train),
            ("no such file", "bytes", "bytes", "changed", "bytes"),
            strict=False,
        )
    )
    write_manifest(pa.Table.from_pylist(rows, table.schema), str(folder / "manifest.parquet"))
    return str(folder / "manifest.parquet"), expected


def test_bad_clips_are_left_out_and_recorded(echo_manifest: str, tmp_path: Path) -> None:
    manifest, expected = damage(echo_manifest, tmp_path)
    # one clip a pass: some passes hold nothing but a bad clip
    summary = pretrain(tiny_run(manifest, tmp_path / "runs", data__max_bad_fraction=0.5, engine__micro_batch=1))
    assert summary.steps == 8
    found = {record["clip_id"]: record["reason"] for record in read_records(summary.run_uri, "quarantine.jsonl")}
    assert found.keys() <= expected.keys()
    assert len(found) >= 4  # the last partial batch of an epoch may hide one
    for clip_id, reason in found.items():
        assert expected[clip_id].lower() in reason.lower(), (clip_id, reason)
    assert read_records(summary.run_uri, "metrics.jsonl")[-1]["bad_clips"] == len(found)


def test_too_many_bad_clips_stop_the_run(echo_manifest: str, tmp_path: Path) -> None:
    manifest, _ = damage(echo_manifest, tmp_path)
    with pytest.raises(TooManyBadClipsError, match=r"data\.max_bad_fraction = 0\.06 of 18 clips allows 1"):
        pretrain(tiny_run(manifest, tmp_path / "runs", data__max_bad_fraction=0.06))
    assert len(read_records(str(tmp_path / "runs" / "demo"), "quarantine.jsonl")) >= 2
    assert (tmp_path / "runs" / "demo" / "report.html").exists()  # a failed run has a page too


@pytest.mark.s3
def test_a_run_on_object_storage_under_faults(
    s3_server: Any,
    echo_manifest: str,
    finished: RunSummary,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Clips, manifest and checkpoints, while 5 % of the answers are spoilt; and the secret is nowhere afterwards."""
    root = storage.join(s3_server.uri, "pretrain")
    table = read_manifest(echo_manifest)
    uris = [storage.join(root, "clips", Path(uri).name) for uri in table["uri"].to_pylist()]
    for local, uri in zip(table["uri"].to_pylist(), uris, strict=True):
        storage.put_file(local, uri)
    manifest = storage.join(root, "manifest.parquet")
    write_manifest(table.set_column(table.column_names.index("uri"), "uri", [uris]), manifest)
    port = int(s3_server.environment["AWS_ENDPOINT_URL"].rsplit(":", 1)[-1])
    with caplog.at_level(logging.DEBUG, "discovr_ray"), FaultyProxy(port, Schedule(READ_FAULTS, 0.05)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        summary = pretrain(tiny_run(manifest, root))
        assert len(proxy.spoilt) >= 5
        assert storage.read_bytes(summary.encoder_uri) == encoder_bytes(folder(finished))
        assert [record["step"] for record in read_records(summary.run_uri, "metrics.jsonl")] == list(range(1, 9))

    written = [path for path in (s3_server.folder / "pretrain").rglob("*") if path.is_file()]
    logs = [path for path in Path(ray._private.worker._global_node.get_logs_dir_path()).rglob("*") if path.is_file()]
    assert {"manifest.parquet", "checkpoint.json", "config.yaml", "report.html"} <= {path.name for path in written}
    assert any("runtime_env_agent" in path.name for path in logs)  # where Ray writes what it is asked for
    assert [path for path in [*written, *logs] if SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in caplog.text


def test_an_unwritable_storage_path_is_refused_at_once(echo_manifest: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="file/runs"):
        pretrain(tiny_run(echo_manifest, tmp_path / "file" / "runs"))


def test_more_cpus_than_the_cluster_has_are_refused(echo_manifest: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wait for ever"):
        pretrain(tiny_run(echo_manifest, tmp_path, run__cpus_per_worker=2))
    assert not os.listdir(tmp_path)


def test_the_config_is_stored_with_every_checkpoint(finished: RunSummary) -> None:
    stored = json.loads((folder(finished) / "step_00000008" / "checkpoint.json").read_text())
    assert stored["config"]["model"]["num_prototypes"] == 20
