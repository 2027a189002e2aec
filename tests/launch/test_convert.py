"""--convert on a real Ray: rows in == rows out + rejected, restartable, always the same bytes."""

from __future__ import annotations

import ctypes
import hashlib
import io
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from broken_videos import SIDE, broken_avis, broken_mp4s, mjpeg, pictures, video

from discovr_ray.config import DataConfig
from discovr_ray.data import shards, storage, watchdog
from discovr_ray.data.adapters.listing import Trace
from discovr_ray.data.clip import load_clip
from discovr_ray.data.formats.nifti import encode_mask, read_mask
from discovr_ray.data.manifest import read_manifest
from discovr_ray.data.shards import ShardSettings
from discovr_ray.launch.convert import Converted, convert
from discovr_ray.launch.convert_traces import convert_traces
from discovr_ray.launch.ingest import ingest
from discovr_ray.launch.ledger import TracedClip

ROOT = Path(__file__).parents[2]
SETTINGS = ShardSettings(size=SIDE, codec="lossless")


def rejected(output: object) -> dict[str, str]:
    rows = pq.read_table(io.BytesIO(storage.read_bytes(f"{output}/rejected.parquet"))).to_pylist()
    return {Path(row["uri"]).name: row["reason"] for row in rows}


def digests(output: Path) -> dict[str, str]:
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.rglob("*"))
        if path.is_file()
    }


def converted(clips: pa.Table, output: Path, settings: ShardSettings, **more: Any) -> Converted:
    """All parts as one."""
    parts = list(convert([clips.slice(0, 4), clips.slice(4)], clips.num_rows, str(output), settings, **more))
    clips = pa.concat_tables([part.clips for part in parts])
    return Converted(clips, [item for part in parts for item in part.rejected])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six good videos, every other one H.264."""
    folder = tmp_path_factory.mktemp("source")
    for number in range(6):
        content = video("libx264", "mp4", pictures(20 + number, 72, 88)) if number % 2 else mjpeg()
        (folder / f"clip{number}.{'mp4' if number % 2 else 'avi'}").write_bytes(content)
    return folder


@pytest.mark.ray
def test_rows_in_are_rows_out_and_rejected(
    source: Path, ray_cluster: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    broken = broken_avis() | broken_mp4s()
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for path in source.iterdir():
        (mixed / path.name).write_bytes(path.read_bytes())
    for name, (content, _) in broken.items():
        (mixed / name).write_bytes(content)
    plain = ingest([str(mixed)], str(tmp_path / "plain"))
    done = ingest([str(mixed)], str(tmp_path / "out"), shards=SETTINGS)
    assert done.num_clips == plain.num_clips == 6
    assert re.search(r"converted (\d+) of \1 clips, [\d.]+/s", caplog.text)
    # the frames behind the first one are looked at while they are converted: the same files fail
    assert rejected(tmp_path / "out").keys() == rejected(tmp_path / "plain").keys()
    assert set(rejected(tmp_path / "out")) == set(broken)
    data = DataConfig(num_frames=8, frame_stride=2, image_size=SIDE)
    before, after = read_manifest(plain.manifest_uri), read_manifest(done.manifest_uri)
    for old, new in zip(before.to_pylist(), after.to_pylist(), strict=True):
        assert np.array_equal(load_clip(new, data, 0.5).frames, load_clip(old, data, 0.5).frames)
        assert new["uri"].startswith(f"{tmp_path}/out/shards/shard-00000-")
        changed = {name for name in old if old[name] != new[name]}
        assert changed <= {"uri", "format", "height", "width", "num_bytes", "sha256", "offset"}
    assert str(mixed).encode() not in storage.read_bytes(done.manifest_uri)
    assert any(note.startswith("clips converted to lossless, 64 pixels a side, in ") for note in done.notes)


@pytest.mark.ray
def test_the_folder_can_be_moved(source: Path, ray_cluster: None, tmp_path: Path) -> None:
    ingest([str(source)], str(tmp_path / "out"), shards=SETTINGS)
    (tmp_path / "out").rename(tmp_path / "moved")
    row = read_manifest(f"{tmp_path}/moved/manifest.parquet").to_pylist()[0]
    assert load_clip(row, DataConfig(num_frames=4), 0.0).frames.shape == (4, 112, 112)


@pytest.mark.ray
@pytest.mark.s3
def test_from_s3_to_s3_with_one_get_a_clip(source: Path, ray_cluster: None, s3_server: Any) -> None:
    for path in source.iterdir():
        storage.put_file(str(path), f"s3://bucket/videos/{path.name}")
    done = ingest(["s3://bucket/videos"], "s3://bucket/converted", shards=SETTINGS)
    rows = read_manifest(done.manifest_uri).to_pylist()
    assert len({row["uri"] for row in rows}) == 1
    for row, path in zip(rows, sorted(source.iterdir()), strict=True):
        expected = shards.convert_clip({**row, **facts_of(path)}, SETTINGS)[1]
        assert storage.read_range(row["uri"], row["offset"], row["num_bytes"]) == expected
    again = ingest(["s3://bucket/videos"], "s3://bucket/converted", shards=SETTINGS)
    assert read_manifest(again.manifest_uri).to_pylist() == rows


def facts_of(path: Path) -> dict[str, Any]:
    from discovr_ray.data.decode import probe

    content = path.read_bytes()
    where = {"uri": str(path), "offset": None, "num_bytes": len(content)}
    return {**probe(content)._asdict(), **where, "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.ray
@pytest.mark.parametrize("part", ["clips", "parquet"])
def test_what_is_done_is_not_done_again(source: Path, ray_cluster: None, tmp_path: Path, part: str) -> None:
    small = ShardSettings(size=224, shard_mb=1)  # four shards
    ingest([str(source)], str(tmp_path), shards=small)
    first = digests(tmp_path)
    assert len([name for name in first if name.endswith(".clips")]) == 4
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()}
    lost, *others = sorted(times)[:: 1 if part == "clips" else -1]
    assert lost.suffix == f".{part}"
    lost.unlink()
    ingest([str(source)], str(tmp_path), shards=small)
    assert digests(tmp_path) == first
    assert all(path.stat().st_mtime_ns == times[path] for path in others if lost.stem != path.stem)
    # other settings make other shards, and leave the old ones alone
    ingest([str(source)], str(tmp_path), shards=ShardSettings(size=32))
    assert first.items() - {(name, first[name]) for name in ("manifest.parquet",)} <= digests(tmp_path).items()
    assert read_manifest(f"{tmp_path}/manifest.parquet")["height"].to_pylist() == [32] * 6


@pytest.mark.ray
def test_traces_follow_the_frames(ray_cluster: None, tmp_path: Path) -> None:
    # 72 x 88 pixels: 8 columns go on either side, then 72 pixels become 36
    corners = {"x": [8.0, 79.0], "y": [0.0, 71.0]}
    rows, columns = np.indices((72, 88))
    source = {"plain": columns // 2 % 200 + 20, "cut": np.where(columns < 44, 1, 3) + (rows < 20)}
    for name, values in source.items():
        (tmp_path / f"{name}.nii.gz").write_bytes(encode_mask(values.astype(np.uint8)))
    (tmp_path / "small.nii.gz").write_bytes(encode_mask(np.ones((36, 44), np.uint8)))
    traces = [
        TracedClip(Trace("a", 3, "lv", **corners), 9, None, 72, 88),
        *(mask_of("a", 4, value, f"{tmp_path}/plain.nii.gz") for value in (30, 40)),
        mask_of("a", 5, 1, f"{tmp_path}/missing.nii.gz"),
        mask_of("b", 4, 1, f"{tmp_path}/small.nii.gz"),
        # of the region's 24 rows and 44 columns the middle 24 columns stay
        mask_of("b", 5, 3, f"{tmp_path}/cut.nii.gz", region=[22, 10, 66, 34]),
    ]
    (moved,) = convert_traces(traces, str(tmp_path / "out"), ShardSettings(size=36))
    outline, first, second, cut = moved.traces
    assert outline == Trace("a", 3, "lv", [-0.25, 35.25], [-0.25, 35.25])
    assert (first.mask_value, second.mask_value, cut.mask_value) == (30, 40, 3)
    assert first.mask_uri == second.mask_uri != cut.mask_uri
    assert moved.lost == {
        f"{tmp_path}/missing.nii.gz": moved.lost[f"{tmp_path}/missing.nii.gz"],
        f"{tmp_path}/small.nii.gz": "mask of 36 x 44 pixels for a frame of 72 x 88",
    }
    assert "no such file" in moved.lost[f"{tmp_path}/missing.nii.gz"]
    kept = read_mask(storage.read_bytes(first.mask_uri), 36, 36)
    assert np.array_equal(kept, source["plain"][1::2, 9:80:2])  # the pixel under each pixel's centre
    kept = read_mask(storage.read_bytes(cut.mask_uri), 36, 36)
    # 24 pixels become 36, and column 44 is the 12th of them: pixel 18
    assert set(np.unique(kept[:, :18])) == {1, 2}
    assert set(np.unique(kept[:, 18:])) == {3, 4}
    assert np.array_equal(kept[:, 0] == 2, np.arange(36) < 15)  # rows 10 to 19 of the source
    names = {path.name for path in (tmp_path / "out" / "masks").iterdir()}
    assert len(names) == 2
    assert all(re.fullmatch(r"[0-9a-f]{32}\.nii\.gz", name) for name in names)


def mask_of(clip_id: str, frame: int, value: int, uri: str, region: list[int] | None = None) -> TracedClip:
    return TracedClip(Trace(clip_id, frame, "lv", mask_uri=uri, mask_value=value), 9, region, 72, 88)


@pytest.mark.ray
@pytest.mark.chaos
def test_decoders_that_crash_or_hang_cost_only_their_clips(
    source: Path, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(row: Any, settings: ShardSettings) -> shards.Attempt:  # local, so that it travels to the workers by value
        with watchdog.end_process_after(watchdog.limit_s(0)):
            if row["clip_id"] == "clip2":
                os.kill(os.getpid(), signal.SIGSEGV)
            if row["clip_id"] == "clip3":
                ctypes.PyDLL(None).pause()
        return shards.try_clip(row, settings)

    plain = read_manifest(ingest([str(source)], str(tmp_path)).manifest_uri)
    monkeypatch.setenv(watchdog.LIMIT_VARIABLE, "1.5")
    found = converted(plain, tmp_path, SETTINGS, attempt=dies)
    assert found.clips["clip_id"].to_pylist() == ["clip0", "clip1", "clip4", "clip5"]
    reasons = {Path(item.uri).stem: item.reason for item in found.rejected}
    assert reasons["clip2"] == "the decoder crashed: SIGSEGV"
    assert reasons["clip3"].startswith("may pass another time: decoding took longer than 1.5 s")
    assert set(reasons) == {"clip2", "clip3"}


@pytest.mark.ray
def test_what_may_pass_another_time_is_tried_again(source: Path, ray_cluster: None, tmp_path: Path) -> None:
    videos, plain = tmp_path / "videos", tmp_path / "plain"
    shutil.copytree(source, videos)
    clips = read_manifest(ingest([str(videos)], str(plain)).manifest_uri)
    small = ShardSettings(size=224, shard_mb=1)  # four shards
    converted(clips, tmp_path / "whole", small)
    output, content = tmp_path / "out", (videos / "clip1.mp4").read_bytes()
    (videos / "clip1.mp4").unlink()
    (refused,) = converted(clips, output, small).rejected
    assert refused.uri == str(videos / "clip1.mp4")
    assert re.fullmatch("may pass another time: the source: .*no such file or folder", refused.reason)
    times = {path: path.stat().st_mtime_ns for path in (output / "shards").iterdir()}
    (videos / "clip1.mp4").write_bytes(content)
    assert converted(clips, output, small).rejected == []
    assert digests(output) == digests(tmp_path / "whole")  # as if nothing had been missing
    assert sum(path.stat().st_mtime_ns != time for path, time in times.items()) == 2  # one shard and its table
    assert converted(clips, output, small).clips.num_rows == 6


JOB = [sys.executable, str(ROOT / "jobs" / "ingest.py")]


def job(source: Path, output: Path, *more: str) -> list[str]:
    return [*JOB, str(source), "--output", str(output), "--convert", "--shard-mb", "1", *more]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


@pytest.mark.chaos
@pytest.mark.slow
def test_a_killed_driver_goes_on_where_it_was(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    frames = pictures(60, 240, 320)
    for number in range(24):
        (videos / f"v{number:02d}.mp4").write_bytes(video("libx264", "mp4", frames[: 40 + number % 20]))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(job(videos, whole), env=environment(), check=True, capture_output=True, timeout=300)
    assert len(list((whole / "shards").glob("*.clips"))) >= 4

    driver = subprocess.Popen(job(videos, killed), env=environment(), stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        end = time.monotonic() + 200
        while not list(killed.glob("shards/*.parquet")):
            assert driver.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)  # Ray and all
        driver.wait()
    assert not (killed / "manifest.parquet").exists()
    done = {path.name: path.stat().st_mtime_ns for path in killed.glob("shards/*.parquet")}

    subprocess.run(job(videos, killed), env=environment(), check=True, capture_output=True, timeout=300)
    assert {path.name: path.stat().st_mtime_ns for path in killed.glob("shards/*.parquet") if path.name in done} == done
    visible = {name: digest for name, digest in digests(killed).items() if not Path(name).name.startswith(".")}
    assert visible == digests(whole)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--convert-size", "64"], 2, "need --convert"),
        (["--convert", "--convert-quality", "0"], 2, "quality = 0: must be 1 to 100"),
        (["--convert", "--convert-codec", "gif"], 2, "invalid choice"),
    ],
)
def test_arguments_of_the_job(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    command = [*JOB, str(tmp_path), "--output", str(tmp_path / "out"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment(), check=False)
    assert done.returncode == code
    assert message in done.stderr
