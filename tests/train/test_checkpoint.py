"""Only whole checkpoints count: the newest sound one is used, the rest is skipped, kept or removed by rule."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import checkpoint_runs
import pytest
from gloo_ranks import run_ranks

from discovr_ray.data import storage
from discovr_ray.errors import CheckpointError, StorageError
from discovr_ray.train import checkpoint
from discovr_ray.train.checkpoint import MANIFEST, TrainState, folder_name

FILES = {"shard_0.bin": b"first" * 300, "shard_1.bin": b"other" * 300, "common.bin": b"both" * 100}


def state(step: int) -> TrainState:
    return TrainState(
        step=step,
        samples_seen=8 * step,
        num_clips=64,
        world_size=2,
        zero_stage=1,
        config={"optim": {"lr": 1e-4}},
        quarantined=["clip_7"],
        versions={"torch": "2"},
    )


def write_files(run: Path, step: int) -> Path:
    folder = run / folder_name(step)
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content + str(step).encode())
    return folder


def write_checkpoint(run: Path, step: int) -> Path:
    folder = write_files(run, step)
    checkpoint.seal(str(folder), checkpoint.describe(folder), state(step))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with complete checkpoints of the steps 10, 20 and 30."""
    folder = tmp_path / "run"
    for step in (10, 20, 30):
        write_checkpoint(folder, step)
    return folder


def steps_of(run: Path) -> list[int]:
    return [found.state.step for found in checkpoint.find_checkpoints(str(run))]


def cut_in_half(folder: Path) -> None:
    shard = folder / "shard_1.bin"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])


def flip_a_bit(folder: Path) -> None:
    shard = folder / "shard_1.bin"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)


def remove_shard(folder: Path) -> None:
    (folder / "shard_1.bin").unlink()


def remove_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def cut_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes((folder / MANIFEST).read_bytes()[:100])


def point_outside(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    content["files"][0]["name"] = "../secret"
    (folder / MANIFEST).write_text(json.dumps(content))


def other_format(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, "format": 1}))


def test_state_and_files_survive(run: Path) -> None:
    newest = next(checkpoint.find_checkpoints(str(run)))
    assert newest.state == state(30)
    assert [record.name for record in newest.files] == sorted(FILES)
    local = checkpoint.fetch(newest, run / "unused")
    assert local.directory == run / folder_name(30)  # local storage is read in place
    assert local.state.step == 30


def test_newest_first(run: Path) -> None:
    write_checkpoint(run, 123_456_789)  # more than eight digits
    (run / "tensorboard").mkdir()
    assert steps_of(run) == [123_456_789, 30, 20, 10]


def test_no_run_no_checkpoints(tmp_path: Path) -> None:
    assert steps_of(tmp_path / "nothing") == []
    assert checkpoint.restore(str(tmp_path / "nothing"), tmp_path, lambda name: True) is None


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut_in_half, "shard_1.bin: size is 751, checkpoint.json says 1502"),
        (flip_a_bit, "shard_1.bin: SHA-256 is"),
        (remove_shard, "shard_1.bin: missing"),
        (remove_manifest, "checkpoint.json: missing, so the checkpoint was never completed"),
        (cut_manifest, "checkpoint.json: not readable"),
        (point_outside, "'../secret' lies outside the checkpoint"),
        (other_format, "format 1, this version reads 2; only the version that wrote it can go on from it"),
    ],
)
def test_damage_is_skipped_with_a_warning(
    run: Path, damage: Callable[[Path], None], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(run / folder_name(30))
    with caplog.at_level(logging.WARNING):
        restored = checkpoint.restore(str(run), run / "local", lambda name: True)
    assert restored is not None
    assert restored.state.step == 20
    assert any(reason in message and folder_name(30) in message for message in caplog.messages), caplog.messages


def test_all_damaged_is_none(run: Path) -> None:
    for step in (10, 20, 30):
        flip_a_bit(run / folder_name(step))
    assert checkpoint.restore(str(run), run / "local", lambda name: True) is None


def test_only_needed_files_are_read(run: Path) -> None:
    flip_a_bit(run / folder_name(30))
    restored = checkpoint.restore(str(run), run / "local", lambda name: name == "shard_0.bin")
    assert restored is not None
    assert restored.state.step == 30


@pytest.mark.dist
def test_ranks_agree_on_an_older_one(run: Path, tmp_path: Path) -> None:
    """Only rank 1 reads the damaged shard; both go back to step 20."""
    flip_a_bit(run / folder_name(30))
    assert run_ranks(2, checkpoint_runs.restore, tmp_path / "ranks", run, tmp_path) == [20, 20]


@pytest.mark.dist
def test_an_outage_on_one_rank_is_no_reason_to_go_back(run: Path, tmp_path: Path) -> None:
    errors = run_ranks(2, checkpoint_runs.restore_in_an_outage, tmp_path / "ranks", run, tmp_path)
    assert errors == [
        "another rank cannot reach the run's checkpoints",
        "common.bin: cannot read: connection refused",
    ]


@pytest.mark.s3
def test_s3_files_are_fetched_and_verified(s3_server: Any, tmp_path: Path) -> None:
    run = storage.join(s3_server.uri, "run")
    for step in (1, 2, 3):
        folder = write_files(tmp_path, step)
        for record in checkpoint.describe(folder):
            storage.put_file(str(folder / record.name), storage.join(run, folder.name, record.name))
        if step < 3:
            checkpoint.seal(storage.join(run, folder.name), checkpoint.describe(folder), state(step))
    flip_a_bit(s3_server.folder / "run" / folder_name(2))
    assert [found.state.step for found in checkpoint.find_checkpoints(run)] == [2, 1]
    restored = checkpoint.restore(run, tmp_path / "local", lambda name: name != "common.bin")
    assert restored is not None
    assert restored.state == state(1)
    assert sorted(path.name for path in restored.directory.iterdir()) == ["shard_0.bin", "shard_1.bin"]
    assert (restored.directory / "shard_1.bin").read_bytes() == FILES["shard_1.bin"] + b"1"
    checkpoint.prune(run, keep=1)
    assert [uri.rsplit("/", 1)[-1] for uri in storage.list_folders(run)] == [folder_name(2), folder_name(3)]


def test_ranks_must_not_disagree_on_a_name(run: Path) -> None:
    folder = run / folder_name(30)
    records = checkpoint.describe(folder)
    same = [records[0], records[0]]
    other = records[0]._replace(sha256="0" * 64)
    checkpoint.seal(str(folder), [*records, *same], state(30))  # the same file seen by two ranks of one node
    with pytest.raises(CheckpointError, match=r"two ranks wrote common\.bin"):
        checkpoint.seal(str(folder), [*records, other], state(30))


def test_a_retracted_checkpoint_neither_counts_nor_crowds_out_new_ones(run: Path) -> None:
    flip_a_bit(run / folder_name(30))
    flip_a_bit(run / folder_name(20))  # sizes are right: only `restore` can tell
    checkpoint.retract(str(run), newer_than=10)
    assert steps_of(run) == [10]
    assert (run / folder_name(30) / "shard_1.bin").exists()  # nothing is lost
    write_checkpoint(run, 15)
    checkpoint.prune(str(run), keep=1)
    assert steps_of(run) == [15]


@pytest.mark.parametrize(("keep", "left"), [(1, [30]), (2, [30, 20]), (5, [30, 20, 10]), (0, [30])])
def test_prune_keeps_the_newest(run: Path, keep: int, left: list[int]) -> None:
    checkpoint.prune(str(run), keep)
    assert steps_of(run) == left
    assert len([path for path in run.iterdir() if path.name.startswith("step_")]) == len(left)


def test_prune_removes_orphans_but_not_what_may_be_on_its_way(run: Path) -> None:
    write_files(run, 15)  # a crash left it
    write_files(run, 40)  # newer than every complete one
    cut_in_half(run / folder_name(20))
    checkpoint.prune(str(run), keep=2)
    assert sorted(path.name for path in run.iterdir()) == [folder_name(step) for step in (10, 30, 40)]


def test_prune_removes_nothing_without_a_complete_one(run: Path) -> None:
    for step in (10, 20, 30):
        remove_manifest(run / folder_name(step))
    checkpoint.prune(str(run), keep=1)
    assert len(list(run.iterdir())) == 3


def test_prune_leaves_the_rest_of_the_run_alone(run: Path) -> None:
    (run / "metrics.jsonl").write_text("{}")
    (run / "step_notes").mkdir()
    checkpoint.prune(str(run), keep=1)
    assert sorted(path.name for path in run.iterdir()) == ["metrics.jsonl", folder_name(30), "step_notes"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB, for the whole run folder."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_leaves_older_checkpoints_alone(small_disk: Path, tmp_path: Path) -> None:
    run = small_disk / "run"
    write_checkpoint(run, 10)
    big = tmp_path / "shard_0.bin"
    big.write_bytes(bytes(200_000))
    with pytest.raises(StorageError, match=r"step_00000020/shard_0.bin: cannot write: No space left on device"):
        storage.put_file(str(big), str(run / folder_name(20) / "shard_0.bin"))
    assert steps_of(run) == [10]
    assert checkpoint.restore(str(run), tmp_path / "local", lambda name: True) is not None
