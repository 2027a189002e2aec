"""A storage that pauses is waited for; a file that is not there, or that alone cannot be read, is not."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from barcode import barcode_frames, encode
from clip_table import manifest_of
from rclone_server import client_environment, free_port, start_server, wait_for_server

from discovr_ray.config import DataConfig
from discovr_ray.data import outage, shards
from discovr_ray.data.clip import load_clip
from discovr_ray.data.microbatch import decode_micro_batch
from discovr_ray.data.outage import read_through_outage
from discovr_ray.data.plan import StreamPlan
from discovr_ray.errors import ClipError, MissingFileError, StorageError
from discovr_ray.launch.inspection import inspect_file

NO_ANSWER = "/proc/self/mem"  # reading it is an I/O error on every Linux, as from a disk or an NFS server in trouble
DATA = DataConfig(num_frames=4, frame_stride=1, image_size=64)
BUSY = {"read_timeout_s": 60}  # on a busy machine even a refused connection may take longer than the default


class Server:
    """An S3 server that can be taken away."""

    def __init__(self, root: Path) -> None:
        self.root, self.port = root, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = start_server(self.root, self.port)
        wait_for_server(self.port, self._process)

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait(10)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "a.avi").write_bytes(encode(barcode_frames(10)))
    server = Server(tmp_path)
    for name, value in client_environment(server.port).items():
        monkeypatch.setenv(name, value)
    yield server
    server.stop()


def set_patience(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setenv("DISCOVR_STORAGE", json.dumps({**BUSY, "outage_patience_s": seconds}))


def row_of(path: Path, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = manifest_of([path]).to_pylist()[0]
    return row | changes


@pytest.mark.s3
def test_clips_are_read_when_the_server_is_back(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.2)
    row = row_of(server.root / "bucket" / "a.avi", uri="s3://bucket/a.avi")
    server.start()
    assert load_clip(row, DATA, 0.0).frames.shape == (4, 64, 64)
    server.stop()
    back = threading.Timer(4.0, server.start)  # longer than the S3 client tries by itself
    back.start()
    begin = time.monotonic()
    assert load_clip(row, DATA, 0.0).frames.shape == (4, 64, 64)
    assert inspect_file("s3://bucket/a.avi").reason == ""
    assert time.monotonic() - begin > 3.5  # it was gone
    back.join()


@pytest.mark.s3
def test_a_server_that_stays_away_is_no_clips_fault(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    set_patience(monkeypatch, 0)
    row = row_of(server.root / "bucket" / "a.avi", uri="s3://bucket/a.avi")
    with pytest.raises(StorageError, match=r"s3://bucket/a\.avi: cannot read: Could not connect"):
        load_clip(row, DATA, 0.0)
    facts = inspect_file("s3://bucket/a.avi")
    assert facts.outage
    assert "Could not connect" in facts.reason


@pytest.mark.parametrize("key", ["Doe planted/a.avi", "Doe/planted'&?#é.avi", "p"])
def test_no_key_gets_out_through_a_dead_endpoint(
    key: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setenv("DISCOVR_STORAGE", json.dumps({**BUSY, "outage_patience_s": 0.01, "attempts": 1}))
    for name, value in (client_environment(9) | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}).items():
        monkeypatch.setenv(name, value)
    uri = f"s3://bucket/{key}"
    row = {"uri": uri, "num_bytes": 10, "sha256": "0" * 64}
    said = [inspect_file(uri).reason, shards.try_clip(row, shards.ShardSettings()).outage, *caplog.messages]
    assert len(said) >= 4
    for text in said:
        assert "a file in s3://bucket: cannot read: Could not connect" in text
        assert "127.0.0.1:9" in text
        assert "Doe" not in text
        assert "planted" not in text
        assert "bucket/p" not in text


@pytest.mark.s3
def test_what_concerns_one_object_is_told_from_what_concerns_all(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_patience(monkeypatch, 3600)
    server.start()
    row = row_of(server.root / "bucket" / "a.avi")
    with pytest.raises(ClipError, match="no such file"):
        load_clip(row | {"uri": "s3://bucket/other.avi"}, DATA, 0.0)
    set_patience(monkeypatch, 0)
    for name, value in (("AWS_SECRET_ACCESS_KEY", "wrong"), ("AWS_ACCESS_KEY_ID", "wrong")):
        monkeypatch.setenv(name, value)
        with pytest.raises(StorageError) as caught:
            load_clip(row | {"uri": "s3://bucket/a.avi"}, DATA, 0.0)
        assert not isinstance(caught.value, MissingFileError)


def test_attempts_and_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(outage.time, "sleep", slept.append)
    with pytest.raises(StorageError, match=r"Input/output error \(rounds of attempts: 8, within 120 s or more\)"):
        read_through_outage(NO_ANSWER)
    assert slept == [1, 2, 4, 8, 16, 32, 57, 0]
    slept.clear()
    set_patience(monkeypatch, 3.5)
    with pytest.raises(StorageError, match=r"4, within 3\.5 s or more"):
        read_through_outage(NO_ANSWER)
    assert slept == [1, 2, 0.5, 0]


def test_a_file_that_alone_cannot_be_read_is_at_fault_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(outage, "_readable", {})
    assert read_through_outage("/proc/self/status")  # on the same device as the file that cannot be read
    with pytest.raises(MissingFileError, match=r"Input/output error .*attempts: 3, while other files can be read"):
        read_through_outage(NO_ANSWER)


def test_what_could_be_read_before_is_asked_again_before_a_file_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.01)
    set_patience(monkeypatch, 0.1)
    place = outage._place(NO_ANSWER)
    monkeypatch.setattr(outage, "_readable", {place: "/proc/1/mem"})  # could be read once, now it cannot either
    with pytest.raises(StorageError, match=r"within 0\.1 s") as caught:
        read_through_outage(NO_ANSWER)
    assert not isinstance(caught.value, MissingFileError)


def test_an_empty_file_shows_nothing_of_its_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "_readable", {})
    (tmp_path / "empty").write_bytes(b"")
    assert read_through_outage(str(tmp_path / "empty")) == b""
    assert outage._readable == {}  # S3 refuses to give a byte of it, as if nobody answered


@pytest.mark.parametrize("uri", ["{folder}/missing.avi", "{folder}", "{folder}/file/below", "gs://bucket/a.avi"])
def test_one_file_is_not_waited_for(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_patience(monkeypatch, 3600)
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingFileError):
        read_through_outage(uri.format(folder=tmp_path))


def test_an_outage_ends_the_micro_batch(echo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_patience(monkeypatch, 0)
    paths = sorted((echo_folder / "Videos").glob("*.avi"))[:4]
    clips = manifest_of(paths)
    uris = [NO_ANSWER, *clips["uri"].to_pylist()[1:]]
    clips = clips.set_column(clips.column_names.index("uri"), "uri", [uris])
    plan = StreamPlan(
        seed=5, num_clips=4, steps_per_epoch=1, total_steps=1, global_batch=4, micro_batch=4, world_size=1, start_step=0
    )
    with pytest.raises(StorageError, match="Input/output error"):
        decode_micro_batch(clips, 0, plan, DataConfig(num_frames=4))
