"""One manifest row -> one clip of grey frames, or ClipError with the reason."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from discovr_ray.config import DataConfig
from discovr_ray.data import storage
from discovr_ray.data.decode import decode_frames
from discovr_ray.data.formats.reader import Frames, Indices
from discovr_ray.data.outage import read_part_through_outage
from discovr_ray.data.window import choose_window
from discovr_ray.errors import ClipError, MissingFileError

REREAD_PAUSE_S = 0.02  # then four times that, and so on: what changes bytes on the way may need a moment to recover


class Clip(NamedTuple):
    frames: Frames  # [T, S, S], S = data.image_size
    num_padded: int  # frames that repeat another one because the video is too short


def load_clip(row: Mapping[str, Any], data: DataConfig, position: float) -> Clip:
    """Read, check, decode and resize one clip.

    Args:
        row: a manifest row (microbatch.COLUMNS; offset, region and sector may be None or missing).
        position: in [0, 1), place of the window in the video.
    Errors:
        ClipError: anything that is wrong with this clip, a missing file included; the message is the reason.
        StorageError: the storage did not answer for minutes, which is no clip's fault.
    """
    window = choose_window(row["num_frames"], row["fps"], data, position)
    return Clip(load_frames(row, data, window.indices), window.num_padded)


def load_frames(row: Mapping[str, Any], data: DataConfig, indices: Indices) -> Frames:
    """These source frames of one clip, in any order: [n] -> [n, S, S], read once; arguments and errors as load_clip."""
    content = read_checked(row)
    frames = decode_frames(content, row["format"], indices, row["num_frames"], data.decoder)
    if frames.shape[1:] != (row["height"], row["width"]):
        raise ClipError(f"frames of {frames.shape[1:]} pixels, {(row['height'], row['width'])} expected")
    return resize_frames(keep_echo(frames, row.get("region"), row.get("sector")), data.image_size)


def keep_echo(frames: Frames, region: Sequence[int] | None, sector: Sequence[int] | None) -> Frames:
    """Frames [T, H, W] -> the region of them, black outside of the sector: no text, no ECG, no patient's name.

    Args:
        region: x0, y0, x1, y1 in pixels of the frame, ends excluded; None: everything.
        sector: polygon x0, y0, x1, y1, ... in pixels of the frame, its edge included; None: nothing is blackened.
    """
    x0, y0, x1, y1 = region or (0, 0, frames.shape[2], frames.shape[1])
    cut = frames[:, y0:y1, x0:x1]
    if not sector:
        return cut if region is None else np.ascontiguousarray(cut)
    mask = Image.new("1", (x1 - x0, y1 - y0))
    corners = [(x - x0, y - y0) for x, y in zip(sector[::2], sector[1::2], strict=True)]
    ImageDraw.Draw(mask).polygon(corners, fill=1, outline=1)
    return cut * np.asarray(mask, np.uint8)


def resize_frames(frames: Frames, size: int) -> Frames:
    """[T, H, W] -> [T, size, size]: short side to `size` (bilinear, low-pass filtered), then the centre."""
    height, width = frames.shape[1:]
    if height == width == size:
        return frames
    side = min(height, width)
    top, left = (height - side) / 2, (width - side) / 2
    box = (left, top, left + side, top + side)  # cropping first spares the pixels that would be dropped
    resized = [
        np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR, box=box)) for frame in frames
    ]
    return np.stack(resized)


def read_checked(row: Mapping[str, Any]) -> bytes:
    """The file's bytes, equal in size and hash to what ingest saw.

    A transport can cut or change bytes without an error, so a wrong content is read again, storage.attempts times in
    all; the same wrong content twice is the file's own.

    Errors:
        ClipError, StorageError: as of load_clip.
    """
    reason, seen = "", set()
    for attempt in range(max(2, storage.settings().attempts)):
        if attempt:
            time.sleep(REREAD_PAUSE_S * 4 ** (attempt - 1))
        try:
            content = read_part_through_outage(row["uri"], row.get("offset"), row["num_bytes"])
        except MissingFileError as error:
            raise ClipError(str(error)) from error
        digest = hashlib.sha256(content).hexdigest()
        if len(content) != row["num_bytes"]:
            reason = f"the file has {len(content)} bytes, {row['num_bytes']} at ingest"
        elif digest != row["sha256"]:
            reason = "the file has changed since ingest: same size, other content (sha256)"
        else:
            return content
        if digest in seen:
            raise ClipError(f"{row['uri']}: {reason}")
        seen.add(digest)
    raise ClipError(f"{row['uri']}: {len(seen)} reads and no two alike, the last one: {reason}")
