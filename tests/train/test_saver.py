"""Saves go on behind the training's back, fail without harm, and whatever is killed leaves a complete checkpoint."""

from __future__ import annotations

import glob
import logging
import multiprocessing
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import saver_runs
from faulty_proxy import WRITE_FAULTS, FaultyProxy, Schedule
from gloo_ranks import run_ranks
from saver_runs import SIZES, content, copy_of, state

from discovr_ray.config.sections import CheckpointConfig, StorageConfig
from discovr_ray.data import storage
from discovr_ray.errors import CheckpointError, RunTakenError
from discovr_ray.train import checkpoint, saver
from discovr_ray.train.checkpoint import MANIFEST, folder_name
from discovr_ray.train.claim import begin_attempt
from discovr_ray.train.saver import Saver
from discovr_ray.train.upload import Save, Times, Upload, Writer

SAVE = Save(state(1), copy_of(1)())


@pytest.fixture(autouse=True)
def no_pause_before_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saver, "RETRY_PAUSE_S", 0.0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """The local folder of saves."""
    return tmp_path / "disk"


def saver_of(run: Path | str, disk: Path, **changes: Any) -> Saver:
    return Saver(str(run), CheckpointConfig(local_folder=str(disk), **changes))


def steps_of(run: Path | str) -> list[int]:
    return [found.state.step for found in checkpoint.find_checkpoints(str(run))]


def blocked(run: Path, step: int) -> Path:
    """A file where the folder of the step should be."""
    run.mkdir(exist_ok=True)
    (run / folder_name(step)).write_text("no folder")
    return run / folder_name(step)


class Held:
    """A save whose file is not written before `go` is set."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.go = threading.Event()

    def copy(self) -> Any:
        write = copy_of(self.step)()

        def wait_and_write(folder: Path) -> None:
            assert self.go.wait(30)
            write(folder)

        return wait_and_write


def test_training_goes_on_while_a_save_is_on_its_way(run: Path, disk: Path) -> None:
    held, one = Held(1), saver_of(run, disk)
    one.save(state(1), held.copy)  # returns though nothing is written yet
    assert steps_of(run) == []
    held.go.set()
    one.finish()
    assert steps_of(run) == [1]
    assert (run / folder_name(1) / "file_0.bin").read_bytes() == content(1, 0, 4096)
    assert list(disk.iterdir()) == []


def test_the_next_save_waits_and_the_wait_is_counted(run: Path, disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The state may only be copied again when nobody reads the copy before."""
    held, one, order = Held(1), saver_of(run, disk), []
    one.save(state(1), held.copy)
    timer = threading.Timer(1.2, lambda: (order.append("released"), held.go.set()))
    timer.start()

    def copy() -> Any:
        order.append("copied")
        assert steps_of(run) == [1]
        return copy_of(2)()

    with caplog.at_level(logging.WARNING):
        one.save(state(2), copy)
    one.finish()
    assert order == ["released", "copied"]
    assert one.waited_s > 1
    assert "step 2: training waited 1." in caplog.text
    assert steps_of(run) == [2, 1]


def test_what_a_save_writes_is_what_was_there_when_it_began(run: Path, disk: Path) -> None:
    """Old and new files of the same name never make one checkpoint."""
    folder = run / folder_name(3)
    folder.mkdir(parents=True)
    (folder / "file_0.bin").write_bytes(b"of a killed attempt")
    (folder / "file_1_of_3.bin").write_bytes(b"of a killed attempt with other files")
    (folder / "stored_0123abcd_1_of_2.json").write_text("[]")
    one = saver_of(run, disk)
    one.save(state(3), copy_of(3))
    one.finish()
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, "file_0.bin"]
    local = checkpoint.restore(str(run), run / "unused", lambda name: True)
    assert local is not None
    assert (local.directory / "file_0.bin").read_bytes() == content(3, 0, 4096)


def test_an_old_file_in_a_sealed_checkpoint_is_found_out(run: Path, disk: Path) -> None:
    """As when a killed attempt's machine comes back and goes on writing."""
    one = saver_of(run, disk)
    for step in (1, 2):
        one.save(state(step), copy_of(step))
    one.finish()
    (run / folder_name(2) / "file_0.bin").write_bytes(content(7, 0, 4096))  # of the same size
    local = checkpoint.restore(str(run), run / "unused", lambda name: True)
    assert local is not None
    assert local.state.step == 1


def test_a_failed_save_is_a_warning_and_the_next_one_succeeds(
    run: Path, disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = saver_of(run, disk)
    file = blocked(run, 1)
    with caplog.at_level(logging.WARNING):
        one.save(state(1), copy_of(1))
        one._upload.join()  # type: ignore[union-attr]
    assert "checkpoint of step 1 was not saved, training goes on" in caplog.text
    assert "cannot write: " in caplog.text
    assert str(file) in caplog.text
    one.save(state(2), copy_of(2))
    one.finish()
    assert steps_of(run) == [2]


def test_only_failures_in_a_row_stop_the_run(run: Path, disk: Path) -> None:
    one = saver_of(run, disk, max_failed_saves=2)
    for step in (1, 2, 3):
        if step == 1:
            blocked(run, 1)
        one.save(state(step), copy_of(step))
        one._settle()
    blocked(run, 4)
    blocked(run, 5)
    one.save(state(4), copy_of(4))
    one.save(state(5), copy_of(5))
    with pytest.raises(
        CheckpointError, match=r"step 5: 2 saves in a row .*max_failed_saves = 2\): rank 0: .*00000005/"
    ):
        one.save(state(6), copy_of(6))
    one.close()
    assert steps_of(run) == [3, 2]


def test_the_last_save_is_tried_again(run: Path, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No later save will make up for it."""
    file = blocked(run, 8)
    monkeypatch.setattr(saver.time, "sleep", lambda seconds: file.unlink())  # somebody mends it meanwhile
    one = saver_of(run, disk)
    one.save(state(8), copy_of(8))
    one.finish()
    assert steps_of(run) == [8]


def test_the_last_save_has_its_own_tries_and_the_patience_of_the_storage(
    run: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure before does not count, nor do more than checkpoint.max_failed_saves until the patience is over."""
    blocked(run, 7)
    file = blocked(run, 8)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 4:
            file.unlink()

    monkeypatch.setattr(saver.time, "sleep", pause)
    one = saver_of(run, disk, max_failed_saves=2)
    one.save(state(7), copy_of(7))
    one.save(state(8), copy_of(8))
    one.finish()
    assert len(pauses) == 4
    assert steps_of(run) == [8]


def test_the_last_save_is_given_up_when_the_patience_is_over(
    run: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISCOVR_STORAGE", "")  # so that the next line is undone
    storage.configure(StorageConfig(outage_patience_s=0))
    blocked(run, 8)
    one = saver_of(run, disk, max_failed_saves=2)
    one.save(state(8), copy_of(8))
    with pytest.raises(CheckpointError, match="step 8: 2 saves in a row have failed"):
        one.finish()
    one.close()


def test_a_list_of_an_earlier_try_seals_nothing(run: Path, disk: Path) -> None:
    """Rank 1 had stored its files at the first try; at the second they are about to be written anew."""
    attempt = begin_attempt(str(run))
    first = [Upload(Writer(attempt, disk / str(rank), rank, 2, 3), SAVE, Times()) for rank in (0, 1)]
    first[1].run()
    again = [Upload(one._writer, SAVE._replace(number=2), Times()) for one in first]
    again[0].outcome.abandoned.set()  # else it waits for rank 1
    again[0].run()
    assert "rank 1 did not store its files" in again[0].outcome.failure
    assert steps_of(run) == []
    again[1].run()
    again[0].run()
    assert steps_of(run) == [1]


def test_a_group_that_others_have_replaced_stores_nothing(run: Path, disk: Path) -> None:
    """As when a machine that was cut off from the network comes back: at its next save its group ends."""
    old = saver_of(run, disk / "old")
    old.save(state(1), copy_of(1))
    old._settle()
    new = saver_of(run, disk / "new")
    old.save(state(2), copy_of(2))
    with pytest.raises(RunTakenError, match="another group of workers has taken the place"):
        old.finish()
    old.close()
    assert steps_of(run) == [1]
    assert not (run / folder_name(2)).exists()
    new.save(state(2), copy_of(2))
    new.finish()
    assert steps_of(run) == [2, 1]


def test_what_a_replaced_group_is_just_storing_harms_nobody(
    run: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had looked a moment before the others came. Both save step 1; neither file ends in the other's checkpoint."""
    groups: list[Saver] = []
    put_file = storage.put_file

    def put(local_path: str, uri: str) -> None:
        if not groups:
            groups.append(saver_of(run, disk / "new"))
            groups[0].save(state(1), copy_of(7))
            groups[0].finish()
        put_file(local_path, uri)

    old = saver_of(run, disk / "old")
    monkeypatch.setattr(storage, "put_file", put)
    old.save(state(1), copy_of(1))
    with pytest.raises(RunTakenError):
        old.finish()
    old.close()
    (found,) = checkpoint.find_checkpoints(str(run))
    assert found.uri.endswith(f"{folder_name(1)}_{groups[0].attempt.number}")
    assert (Path(found.uri) / "file_0.bin").read_bytes() == content(7, 0, 4096)
    assert (run / folder_name(1) / "file_0.bin").read_bytes() == content(1, 0, 4096)
    checkpoint.remove_orphans(str(run))
    assert not (run / folder_name(1)).exists()


def test_a_defect_is_no_failed_save(run: Path, disk: Path) -> None:
    def write(folder: Path) -> None:
        raise ZeroDivisionError("of our own making")

    one = saver_of(run, disk)
    one.save(state(1), lambda: write)
    with pytest.raises(ZeroDivisionError):
        one.finish()


def test_a_run_that_ends_with_an_error_lets_its_save_end(run: Path, disk: Path) -> None:
    held, one = Held(1), saver_of(run, disk)
    one.save(state(1), held.copy)
    threading.Timer(0.3, held.go.set).start()
    one.close()
    assert steps_of(run) == [1]
    assert list(disk.iterdir()) == []


def test_local_files_of_a_killed_attempt_are_removed(run: Path, disk: Path) -> None:
    first = saver_of(run, disk)
    first.save(state(1), copy_of(1))
    first._upload.join()  # type: ignore[union-attr]
    (left,) = disk.iterdir()  # as a kill leaves it
    (left / "half.bin").write_bytes(b"half")
    (disk / "discovr-save-of-another-run").mkdir()
    first.local_folder("restore").mkdir()
    second = saver_of(run, disk)
    assert [path.name for path in disk.iterdir()] == ["discovr-save-of-another-run"]
    second.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_local_disk_is_named_and_survived(run: Path, small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = saver_of(run, small_disk)
    with caplog.at_level(logging.WARNING):
        one.save(state(1), copy_of(1, (100_000,)))
        one.save(state(2), copy_of(2))
    one.finish()
    assert "No space left on device" in caplog.text
    assert "MiB free on that disk; checkpoint.local_folder names another" in caplog.text
    assert steps_of(run) == [2]


def test_a_full_run_folder_is_survived_too(disk: Path, small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = small_disk / "run"
    one = saver_of(run, disk)
    with caplog.at_level(logging.WARNING):
        for step, size in ((1, 4096), (2, 100_000), (3, 4096)):
            one.save(state(step), copy_of(step, (size,)))
    one.finish()
    assert "step_00000002/file_0.bin: cannot write: No space left on device" in caplog.text
    assert steps_of(run) == [3, 1]
    assert not (run / folder_name(2)).exists()  # removed with what is old


@pytest.mark.dist
def test_a_checkpoint_counts_when_all_ranks_have_stored(tmp_path: Path) -> None:
    """Rank 1 cannot write at step 2: that checkpoint never counts, and the others do on both ranks."""
    run = tmp_path / "run"
    none, failures = run_ranks(2, saver_runs.save_on_two_ranks, tmp_path / "ranks", run, tmp_path)
    assert none == []
    assert len(failures) == 1
    assert "disk1" in failures[0]
    assert steps_of(run) == [3, 1]
    names = ["checkpoint.json", "rank0_0.bin", "rank1_0.bin"]
    assert [sorted(path.name for path in (run / folder_name(step)).iterdir()) for step in (1, 3)] == [names, names]


@pytest.mark.dist
def test_all_ranks_stop_together_with_the_cause(tmp_path: Path) -> None:
    results = run_ranks(2, saver_runs.fail_on_one_rank, tmp_path / "ranks", tmp_path / "run", tmp_path)
    assert [begun for begun, _ in results] == [3, 3]
    for _, message in results:
        assert "2 saves in a row have failed (checkpoint.max_failed_saves = 2)" in message
        assert "rank 1: " in message
        assert "disk1" in message


@pytest.fixture
def proxy(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """Between this process and the S3 server."""
    with FaultyProxy(int(s3_server.environment["AWS_ENDPOINT_URL"].rsplit(":", 1)[-1])) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{between.port}")
        monkeypatch.setenv("DISCOVR_STORAGE", "")  # so that the next line is undone
        storage.configure(StorageConfig(attempts=2, outage_patience_s=0))
        yield between


@pytest.mark.s3
def test_storage_that_answers_503(
    s3_server: Any, proxy: FaultyProxy, disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One file of step 2 is refused for ever, then of every step."""
    run = storage.join(s3_server.uri, "refusing")
    one = saver_of(run, disk, max_failed_saves=2, keep=9)
    proxy.use(Schedule(WRITE_FAULTS[:1], 1.0, only=lambda target: "step_00000002/file_1" in target))
    with caplog.at_level(logging.WARNING):
        for step in (1, 2, 3):
            one.save(state(step), copy_of(step, (4096, 4096)))
        one._settle()
    assert "checkpoint of step 2 was not saved" in caplog.text
    assert "file_1.bin: cannot write" in caplog.text
    assert steps_of(run) == [3, 1]
    proxy.use(Schedule(WRITE_FAULTS[:1], 1.0, only=lambda target: "/file_1" in target))
    one.save(state(4), copy_of(4, (4096, 4096)))
    with pytest.raises(CheckpointError, match=r"2 saves in a row have failed .* rank 0: .*file_1.bin: cannot write"):
        one.finish()
    one.close()


@pytest.mark.s3
def test_uploads_that_were_cut_are_given_up(s3_server: Any) -> None:
    s3 = storage.s3.client("write")
    for key in ("bucket/cut/step_00000001/a.bin", "bucket/cut_other/step_00000001/a.bin"):
        s3.call_s3("create_multipart_upload", Bucket="bucket", Key=key.partition("/")[2])
    assert storage.abort_uploads(storage.join(s3_server.uri, "cut")) == 1
    assert storage.abort_uploads(storage.join(s3_server.uri, "cut")) == 0
    assert storage.abort_uploads(storage.join(s3_server.uri, "cut_other")) == 1


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.parametrize("place", ["local", "s3"])
def test_kill_9_at_random_moments_of_20_uploads(place: str, s3_server: Any, tmp_path: Path, disk: Path) -> None:
    """Each attempt goes on from what the one before left; a complete sound checkpoint must always be found."""
    run = str(tmp_path / "run") if place == "local" else storage.join(s3_server.uri, "killed")
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["saver_runs", "s3fs"])
    draw = random.Random(5)
    before, cut = 0, 0
    for trial in range(20):
        process = forks.Process(target=saver_runs.save_for_ever, args=(run, str(disk), SIZES[place], trial))
        process.start()
        wait_for(lambda step=before + 2: max(written(disk), default=0) >= step)  # one is complete, one on its way
        time.sleep(draw.uniform(0, 0.3))
        if trial % 4:  # three of four while files are on their way, whatever the machine's speed; one at any moment
            wait_for(lambda: written(disk))
        process.kill()
        process.join()
        cut += bool(written(disk))
        local = checkpoint.restore(run, tmp_path / "restored", lambda name: True)
        assert local is not None
        step = local.state.step
        assert step == newest(run)
        assert step > before
        for number, size in enumerate(SIZES[place]):
            assert (local.directory / f"file_{number}.bin").read_bytes() == content(step + 10_000 * trial, number, size)
        before = step
    assert cut >= 10  # else the kills did not meet uploads
    checkpoint.remove_orphans(run)
    left = [folder for folder in checkpoint._folders(run) if storage.list_sizes(folder)]  # rclone keeps empty folders
    assert all(checkpoint.is_complete(folder) for folder in left)
    assert storage.abort_uploads(run) == 0
    saver_of(run, disk).close()
    assert os.listdir(disk) == []


def written(disk: Path) -> list[int]:
    """Steps whose files lie on the local disk, about to be stored."""
    # `glob` passes over a folder that is removed meanwhile; Path.glob raises
    found = glob.glob(f"{disk}/*/step_*/file_2.bin")
    return [int(Path(path).parent.name.removeprefix("step_")) for path in found]


def newest(run: str) -> int | None:
    return max(steps_of(run), default=None)


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
