"""Everything that archives do to videos: each file is rejected with its reason, no decoder ends or stops the job."""

from __future__ import annotations

import ctypes
import io
import os
import re
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from broken_videos import NUM_FRAMES, SIDE, broken_avis, broken_mp4s, h264, lying_headers, mjpeg

from discovr_ray.data import storage, watchdog
from discovr_ray.data.manifest import read_manifest
from discovr_ray.launch import inspection
from discovr_ray.launch.apart import call_apart
from discovr_ray.launch.blocks import map_blocks
from discovr_ray.launch.ingest import ingest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def rejected(output: Path) -> dict[str, str]:
    rows = pq.read_table(io.BytesIO(storage.read_bytes(f"{output}/rejected.parquet"))).to_pylist()
    return {Path(row["uri"]).name: row["reason"] for row in rows}


def test_each_broken_file_is_rejected_with_its_reason(tmp_path: Path) -> None:
    broken = broken_avis() | broken_mp4s()
    fine = {"good.avi": mjpeg(), "good.mp4": h264()} | {f"lying_{name}": data for name, data in lying_headers().items()}
    source = tmp_path / "source"
    source.mkdir()
    for name, content in fine.items() | {(name, content) for name, (content, _) in broken.items()}:
        (source / name).write_bytes(content)
    summary = ingest([str(source)], str(tmp_path / "out"))
    reasons = rejected(tmp_path / "out")
    assert set(reasons) == set(broken)
    wrong = {name: reasons[name] for name, (_, wanted) in broken.items() if not re.search(wanted, reasons[name])}
    assert wrong == {}
    table = read_manifest(summary.manifest_uri).to_pylist()
    assert {Path(row["uri"]).name for row in table} == set(fine)
    for row in table:  # what is counted and decoded, not what a header says
        assert (row["num_frames"], row["height"], row["width"]) == (NUM_FRAMES, SIDE, SIDE)


def files_of(uris: Iterable[str]) -> list[inspection.FileToLook]:
    return [inspection.FileToLook(number, uri) for number, uri in enumerate(uris)]


@pytest.mark.chaos
def test_decoders_that_crash_or_hang_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(uri: str, fps: float) -> inspection.Facts:  # local, so that it travels to the workers by value
        with watchdog.end_process_after(watchdog.limit_s(0)):
            if uri == "hangs":
                time.sleep(10_000)
            if uri == "hangs outside of Python":
                ctypes.PyDLL(None).pause()  # with the interpreter's lock held
            if uri == "crashes":
                os.kill(os.getpid(), signal.SIGSEGV)
            if uri == "ends":
                os._exit(7)
            return inspection.Facts("avi", 2, 1.0, 1, 1, num_bytes=int(uri), sha256="0" * 64)

    monkeypatch.setenv(watchdog.LIMIT_VARIABLE, "1.5")
    monkeypatch.setattr(inspection, "FILES_PER_BLOCK", 4)
    uris = [str(number) for number in range(40)]
    uris[5], uris[6], uris[20], uris[38] = bad = ["hangs", "crashes", "hangs outside of Python", "ends"]
    found = dict(inspection.inspect_files(files_of(uris), len(uris), look))
    answers = {uri: found[number] for number, uri in enumerate(uris)}
    assert "took longer than 1.5 s" in answers["hangs"].reason
    assert "took longer than 1.5 s" in answers["hangs outside of Python"].reason
    assert answers["crashes"].reason == "the decoder crashed: SIGSEGV"
    assert answers["ends"].reason.startswith("the process ended with code 7")
    others = [uri for uri in uris if uri not in bad]
    assert [answers[uri].num_bytes for uri in others] == [int(uri) for uri in others]  # to each file its own answer
    assert {answers[uri].reason for uri in others} == {""}


def test_a_call_apart_reaches_the_storage_and_prints_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(name: str) -> str:
        os.write(1, b"a library's remark")
        return f"{name} {os.environ[name]} {storage.environment()[name]}"

    monkeypatch.setenv("AWS_DEFAULT_REGION", "moon-1")
    assert call_apart(look, "AWS_DEFAULT_REGION").value == "AWS_DEFAULT_REGION moon-1 moon-1"


@pytest.mark.chaos
def test_many_files_of_which_each_block_holds_one_that_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(uri: str, fps: float) -> inspection.Facts:  # local, so that it travels to the workers by value
        if int(uri) % 2 == 0:
            os.kill(os.getpid(), signal.SIGSEGV)
        return inspection.Facts("avi", 2, 1.0, 1, 1, num_bytes=int(uri), sha256="0" * 64)

    def counted(work: Any, blocks: Sequence[pa.Table], *more: Any, **others: Any) -> Iterator[pa.Table]:
        num_blocks.append(len(blocks))
        return map_blocks(work, blocks, *more, **others)

    num_blocks: list[int] = []
    monkeypatch.setattr(inspection, "map_blocks", counted)
    monkeypatch.setattr(inspection, "FILES_PER_BLOCK", 2)
    monkeypatch.setattr(inspection, "MAX_BLOCKS", 5)
    files = files_of(str(number) for number in range(12))
    answers = dict(inspection.inspect_files(iter(files), 12, look))
    assert [answers[number].reason for number in range(12)] == ["the decoder crashed: SIGSEGV", ""] * 6
    assert [answers[number].num_bytes for number in range(1, 12, 2)] == [1, 3, 5, 7, 9, 11]
    # a data set of five blocks, one file to see whether anybody can look, all of them again; then the other two files
    assert num_blocks == [5, 1, 5, 1, 2]


def test_a_read_that_hangs_is_no_files_fault(tmp_path: Path) -> None:
    def look(uri: str, fps: float) -> inspection.Facts:
        with watchdog.end_process_after(1.5):
            return inspection.inspect_file(uri)

    os.mkfifo(tmp_path / "pipe")  # reading waits for somebody to write, for ever
    facts = inspection._inspect_apart(look, {"uri": str(tmp_path / "pipe"), "fps": 0.0})
    assert facts == inspection.Facts(reason="reading did not end", outage=True)
