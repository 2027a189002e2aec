"""Shards: what goes where, what a clip loses, and that every clip can be cut out and read alone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from barcode import barcode_frames, encode, read_barcodes

from discovr_ray.config import DataConfig
from discovr_ray.data import shards
from discovr_ray.data.clip import load_clip
from discovr_ray.data.decode import probe
from discovr_ray.data.formats.avi_writer import write_avi
from discovr_ray.data.formats.riff import read_avi
from discovr_ray.data.manifest import SCHEMA
from discovr_ray.data.shards import Shard, ShardSettings, convert_clip, plan_shards, write_shard
from discovr_ray.errors import ClipError, ConfigError, StorageError

NUM_FRAMES = 40


def manifest_row(path: Path, **more: Any) -> dict[str, Any]:
    content = path.read_bytes()
    unknown = {"patient_id": "p", "split": "TRAIN", "view": "A4C", "labels": '{"ef": 55.0}'}
    nothing = {"offset": None, "region": None, "sector": None, "cm_per_pixel": None}
    size = {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return {"clip_id": path.stem, "uri": str(path), **probe(content)._asdict(), **size, **unknown, **nothing, **more}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips of 40 frames: H.264 of 144 x 176 and of 112 x 112 pixels, Motion-JPEG of 64 x 64."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "wide.mp4").write_bytes(encode(barcode_frames(NUM_FRAMES, 144, 176), "libx264", "mp4", fps=50))
    (folder / "fits.mp4").write_bytes(encode(barcode_frames(NUM_FRAMES, 112, 112), "libx264", "mp4", fps=25))
    (folder / "small.avi").write_bytes(encode(barcode_frames(NUM_FRAMES), fps=30))
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [manifest_row(path) for path in sorted(folder.iterdir())]


def planned(rows: list[dict[str, Any]], settings: ShardSettings | None = None, at_once: int = 2) -> list[Shard]:
    clips = pa.Table.from_pylist(rows, SCHEMA).sort_by("clip_id")
    parts = [clips.slice(start, at_once) for start in range(0, clips.num_rows, at_once)]
    return list(plan_shards(parts, settings or ShardSettings()))


def write(rows: list[dict[str, Any]], output: Path, settings: ShardSettings) -> list[dict[str, Any]]:
    """Shards of the rows -> the rows that point into them."""
    found = []
    for shard in planned(rows, settings):
        write_shard(shard, str(output), settings)
        found += shards.manifest_rows(shard, shards.read_shard(shard.name, str(output)), str(output), settings)
    return found


@pytest.mark.parametrize("codec", ["jpeg", "lossless"])
def test_a_shard_gives_the_frames_of_its_sources(folder: Path, tmp_path: Path, codec: Any) -> None:
    data = DataConfig(num_frames=16, frame_stride=2)
    before = rows_of(folder)
    after = write(before, tmp_path, ShardSettings(codec=codec))
    assert [row["clip_id"] for row in after] == ["fits", "small", "wide"]
    assert {row["uri"] for row in after} == {str(path) for path in tmp_path.glob("*.clips")}
    for old, new in zip(before, after, strict=True):
        for position in (0.0, 0.5):
            expected = load_clip(old, data, position)
            found = load_clip(new, data, position)
            assert found.num_padded == expected.num_padded
            off = np.abs(found.frames.astype(int) - expected.frames)
            if codec == "lossless":
                assert off.max() == 0
            else:
                # quality 95 divides by steps of at most 20 / 10 levels; bars and blobs are as hard as pictures get
                assert off.max() <= 16
                assert off.mean() < 1.0
        assert {name: new[name] for name in ("num_frames", "fps", "labels", "split", "patient_id", "view")} == {
            name: old[name] for name in ("num_frames", "fps", "labels", "split", "patient_id", "view")
        }


@pytest.mark.parametrize("codec", ["jpeg", "lossless"])
def test_a_clip_that_is_cut_out_is_a_video_of_its_own(folder: Path, tmp_path: Path, codec: Any) -> None:
    for row in write(rows_of(folder), tmp_path, ShardSettings(size=64, codec=codec)):
        part = Path(row["uri"]).read_bytes()[row["offset"] : row["offset"] + row["num_bytes"]]
        assert hashlib.sha256(part).hexdigest() == row["sha256"]
        assert probe(part)._asdict() == {name: row[name] for name in probe(part)._fields}
        # any player reads it; decord stands for them
        clip = load_clip(row, DataConfig(num_frames=NUM_FRAMES, frame_stride=1, image_size=64, decoder="decord"), 0.0)
        own = load_clip(row, DataConfig(num_frames=NUM_FRAMES, frame_stride=1, image_size=64), 0.0)
        assert np.abs(clip.frames.astype(int) - own.frames).max() <= (1 if codec == "jpeg" else 0)
        if row["clip_id"] != "wide":  # whose bars are cut off with its sides
            assert read_barcodes(own.frames) == list(range(NUM_FRAMES))


def test_region_sector_and_scale(folder: Path, tmp_path: Path) -> None:
    kept = {"region": [20, 10, 148, 138], "sector": [84, 10, 148, 138, 20, 138], "cm_per_pixel": 0.05}
    (old,) = [manifest_row(folder / "wide.mp4", **kept)]
    (new,) = write([old], tmp_path, ShardSettings(size=64, codec="lossless"))
    assert (new["region"], new["sector"], new["height"], new["width"]) == (None, None, 64, 64)
    assert new["cm_per_pixel"] == pytest.approx(0.1)  # 128 pixels became 64
    data = DataConfig(num_frames=8, frame_stride=1, image_size=64)
    assert np.array_equal(load_clip(new, data, 0.0).frames, load_clip(old, data, 0.0).frames)
    assert load_clip(new, data, 0.0).frames[:, 0, 0].max() == 0  # outside of the triangle


def test_where_a_clip_goes_depends_on_ids_and_lengths_alone() -> None:
    # 0.45 bytes for each of 100 x 100 pixels x 100 frames: 450 kB a clip, so the third one starts beyond 1 MB
    rows = [fake_row(f"clip{number}", num_frames=100) for number in range(7)]
    settings = ShardSettings(size=100, shard_mb=1)
    plan = planned(rows, settings)
    assert [shard.clips["clip_id"].to_pylist() for shard in plan] == [
        ["clip0", "clip1", "clip2"],
        ["clip3", "clip4"],
        ["clip5", "clip6"],
    ]
    for at_once in (1, 3, 7):
        again = planned(rows[::-1], settings, at_once)
        assert [shard.name for shard in again] == [shard.name for shard in plan]
    assert plan[0].name.startswith("shard-00000-")


def test_names_change_with_all_that_changes_the_bytes() -> None:
    row = fake_row("a")

    def name(row: dict[str, Any], settings: ShardSettings | None = None) -> str:
        return planned([row], settings)[0].name

    others = [
        name(row, ShardSettings(size=128)),
        name(row, ShardSettings(codec="lossless")),
        name(row, ShardSettings(quality=90)),
        name(row | {"sha256": "1" * 64}),
        name(row | {"clip_id": "b"}),
        name(row | {"region": [0, 0, 5, 5]}),
        name(row | {"sector": [0, 0, 5, 5, 0, 5]}),
        name(row | {"fps": 49.0}),
    ]
    assert len({name(row), *others}) == 9
    # who and what a clip shows, and where its file lies, does not
    assert name(row | {"labels": '{"ef": 1}', "split": "TEST", "uri": "/elsewhere/x.avi"}) == name(row)


def fake_row(clip_id: str, **more: Any) -> dict[str, Any]:
    size = {"format": "mp4", "num_frames": 100, "fps": 50.0, "height": 600, "width": 800}
    file = {"uri": f"/{clip_id}.mp4", "num_bytes": 1, "sha256": "0" * 64, "offset": None}
    who = {"patient_id": "p", "split": "TRAIN", "view": "", "labels": "{}"}
    return {"clip_id": clip_id, **size, **file, **who, "region": None, "sector": None, "cm_per_pixel": None, **more}


def test_a_clip_that_fails_is_refused_and_the_others_stay(folder: Path, tmp_path: Path) -> None:
    rows = rows_of(folder)
    rows[1] |= {"sha256": "0" * 64}
    (shard,) = planned(rows)
    write_shard(shard, str(tmp_path), ShardSettings())
    facts = shards.read_shard(shard.name, str(tmp_path))
    assert [bool(reason) for reason in facts["reason"].to_pylist()] == [False, True, False]
    assert facts["reason"][1].as_py().startswith("may pass another time: the source: the file has changed since ingest")
    found = shards.manifest_rows(shard, facts, str(tmp_path), ShardSettings())
    assert [row["clip_id"] for row in found] == ["fits", "wide"]
    # nothing in the folder tells where the clips came from
    for path in tmp_path.iterdir():
        assert str(folder).encode() not in path.read_bytes()


def test_an_outage_leaves_no_shard(folder: Path, tmp_path: Path) -> None:
    (shard,) = planned(rows_of(folder))
    outage = shards.Attempt(outage="nobody answers")
    with pytest.raises(StorageError, match="nobody answers"):
        write_shard(shard, str(tmp_path), ShardSettings(), lambda row, settings: outage)
    assert list(tmp_path.iterdir()) == []
    assert shards.finished_shards(str(tmp_path)) == set()
    assert shards.finished_shards(str(tmp_path / "missing")) == set()


def test_a_shard_without_its_table_is_not_finished(folder: Path, tmp_path: Path) -> None:
    write(rows_of(folder), tmp_path, ShardSettings())
    (name,) = shards.finished_shards(str(tmp_path))
    (tmp_path / f"{name}.parquet").unlink()
    assert shards.finished_shards(str(tmp_path)) == set()


@pytest.mark.parametrize("fps", [50.0, 29.97, 30000 / 1001, 1000 / 33.333, 0.5, 143.99])
def test_frame_rates_survive(fps: float) -> None:
    assert read_avi(write_avi([b"frame"], fps, 64, 64)).fps == pytest.approx(fps, rel=1e-9)


def test_more_than_an_avi_can_hold() -> None:
    with pytest.raises(ValueError, match="4 GiB"):
        write_avi([bytes(2**16)] * 2**16, 50.0, 64, 64)


def test_settings_are_checked_together() -> None:
    with pytest.raises(ConfigError) as caught:
        ShardSettings(size=8, codec="gif", quality=0, shard_mb=0)  # type: ignore[arg-type]
    assert len(caught.value.problems) == 4
    assert "convert: quality = 0: must be 1 to 100" in caught.value.problems


def test_a_damaged_source_is_no_clip(folder: Path, tmp_path: Path) -> None:
    data = bytearray((folder / "small.avi").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = bytes(300)
    path = tmp_path / "damaged.avi"
    path.write_bytes(data)
    with pytest.raises(ClipError, match=r"frame \d+ is damaged"):
        convert_clip(manifest_row(path), ShardSettings())
    assert "damaged" in shards.try_clip(manifest_row(path), ShardSettings()).reason
