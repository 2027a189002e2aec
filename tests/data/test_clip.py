"""A manifest row becomes frames, or a ClipError that says why: every bad input of a manifest that was good once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from barcode import barcode_frames, encode, read_barcodes

from discovr_ray.config import DataConfig
from discovr_ray.data import clip, storage
from discovr_ray.data.clip import load_clip, resize_frames
from discovr_ray.data.decode import probe
from discovr_ray.errors import ClipError

DATA = DataConfig(num_frames=8, frame_stride=3, image_size=64)
VIDEO = encode(barcode_frames(40))


@pytest.fixture
def row(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "a.avi"
    path.write_bytes(VIDEO)
    return {
        "clip_id": "a",
        "uri": str(path),
        "num_bytes": len(VIDEO),
        "sha256": hashlib.sha256(VIDEO).hexdigest(),
        **probe(VIDEO)._asdict(),
    }


def test_frames_of_the_window(row: dict[str, Any]) -> None:
    clip = load_clip(row, DATA, 0.5)  # 40 frames, span 22: starts at floor(0.5 * 19)
    assert clip.frames.dtype == np.uint8
    assert clip.frames.shape == (8, 64, 64)
    assert read_barcodes(clip.frames) == list(range(9, 31, 3))
    assert clip.num_padded == 0
    slow = load_clip(row, dataclasses.replace(DATA, decoder="decord"), 0.5)
    assert np.abs(clip.frames.astype(int) - slow.frames).max() <= 1


def test_padding_is_reported(row: dict[str, Any]) -> None:
    clip = load_clip(row, dataclasses.replace(DATA, num_frames=50), 0.0)
    assert clip.num_padded == 10
    assert read_barcodes(clip.frames) == [*range(40), *[39] * 10]


def test_resized_only_when_needed(row: dict[str, Any]) -> None:
    assert load_clip(row, dataclasses.replace(DATA, image_size=32), 0.0).frames.shape == (8, 32, 32)
    frames = np.zeros((2, 10, 10), np.uint8)
    assert resize_frames(frames, 10) is frames


def test_short_side_then_centre() -> None:
    # left third 0, middle third 100, right third 200: only the middle remains
    frames = np.repeat(np.array([0, 100, 200], np.uint8), 8)[None, None, :].repeat(8, 1)
    for size, edge in ((4, 1), (16, 2)):  # the outermost pixels blend with what lies outside
        inner = slice(edge, size - edge)
        assert np.all(resize_frames(frames, size)[:, :, inner] == 100)
        assert np.all(resize_frames(frames.transpose(0, 2, 1), size)[:, inner] == 100)
    # shrinking averages: stripes of one pixel become their mean, not a moire
    stripes = np.tile(np.array([0, 200], np.uint8), 16)[None, None, :].repeat(32, 1)
    assert np.abs(resize_frames(stripes, 4).astype(int)[:, :, 1:3] - 100).max() <= 1


def flip_one_bit(content: bytes) -> bytes:
    return content[:9000] + bytes([content[9000] ^ 1]) + content[9001:]


BAD_FILES = {
    "zero bytes": (b"", "0 bytes"),
    "truncated": (VIDEO[: len(VIDEO) // 2], f"{len(VIDEO) // 2} bytes, {len(VIDEO)} at ingest"),
    "bit flip": (flip_one_bit(VIDEO), "changed since ingest"),
    "other video": (encode(barcode_frames(41)), "at ingest"),
    "one frame": (encode(barcode_frames(1)), "at ingest"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_changed_files(row: dict[str, Any], name: str) -> None:
    content, reason = BAD_FILES[name]
    Path(row["uri"]).write_bytes(content)
    with pytest.raises(ClipError, match=reason):
        load_clip(row, DATA, 0.0)


def test_missing_file(row: dict[str, Any]) -> None:
    Path(row["uri"]).unlink()
    with pytest.raises(ClipError, match=r"a\.avi: cannot read: no such file"):
        load_clip(row, DATA, 0.0)


WRONG_ROWS = {
    "num_frames": (41, "40 frames, 41 expected"),
    "height": (112, "112"),
    "fps": (0.0, "frame rate"),
    "uri": ("gs://bucket/a.avi", "the driver of gs:// is not installed"),
    "format": ("mp4", None),  # a wrong name only means the slower way
}


@pytest.mark.parametrize("column", WRONG_ROWS)
def test_rows_that_do_not_fit_the_file(row: dict[str, Any], column: str) -> None:
    value, reason = WRONG_ROWS[column]
    if reason is None:
        assert load_clip(row | {column: value}, DATA, 0.0).frames.shape == (8, 64, 64)
        return
    with pytest.raises(ClipError, match=reason):
        load_clip(row | {column: value}, DATA, 0.0)


def test_a_still_image(row: dict[str, Any]) -> None:
    with pytest.raises(ClipError, match="too few"):
        load_clip(row | {"num_frames": 1}, DATA, 0.0)


def test_a_read_that_was_damaged_on_the_way_is_read_again(row: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip, "REREAD_PAUSE_S", 0.0)
    answers = [VIDEO[:-5], flip_one_bit(VIDEO), VIDEO[:-6], flip_one_bit(VIDEO[::-1]), VIDEO]
    monkeypatch.setattr(storage, "read_once", lambda uri: answers.pop(0))
    assert load_clip(row, DATA, 0.0).frames.shape == (8, 64, 64)
    assert answers == []


def test_how_often_a_wrong_content_is_read(row: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip, "REREAD_PAUSE_S", 0.0)
    monkeypatch.setenv("DISCOVR_STORAGE", json.dumps({"attempts": 3}))
    answers = [VIDEO[:-5], VIDEO[:-6], VIDEO[:-7], VIDEO]
    monkeypatch.setattr(storage, "read_once", lambda uri: answers.pop(0))
    with pytest.raises(ClipError, match=r"3 reads and no two alike, the last one: the file has \d+ bytes"):
        load_clip(row, DATA, 0.0)
    answers = [VIDEO[:-5], VIDEO[:-6], VIDEO[:-5], VIDEO]  # twice the same: so it is in the storage
    with pytest.raises(ClipError, match=r"a\.avi: the file has \d+ bytes, \d+ at ingest"):
        load_clip(row, DATA, 0.0)
    assert answers == [VIDEO]
