"""One micro-batch: manifest rows in, arrays out. Runs in the decode processes; needs neither torch nor Ray."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from discovr_ray.config import DataConfig
from discovr_ray.data.clip import load_clip
from discovr_ray.data.outage import without_path
from discovr_ray.data.plan import StreamPlan
from discovr_ray.errors import ClipError
from discovr_ray.randomness import clip_key

# what decoding reads of a manifest row; labels and patients stay where they are
COLUMNS = (
    *("clip_id", "uri", "format", "num_frames", "fps", "height", "width", "num_bytes", "sha256"),
    *("offset", "region", "sector"),
)
READ_THREADS = 4  # reads of one micro-batch in flight: an object store answers after tens of milliseconds


class _Outcome(NamedTuple):
    """One clip: its frames, or the reason why there are none."""

    frames: npt.NDArray[np.uint8] | None  # [T, S, S]
    num_padded: int
    reason: str


def decode_micro_batch(
    clips: pa.Table, number: int, plan: StreamPlan, data: DataConfig, frames: npt.NDArray[np.uint8] | None = None
) -> dict[str, Any]:
    """Decode micro-batch `number` of the run.

    Args:
        frames: zeros [b, T, S, S] to decode into, which spares a copy of them; None: new ones.

    Returns columns of b rows: number int64, clip_id, clip_key int64, frames uint8 [b, T, S, S], num_padded int64,
    reason (empty for a good clip). A clip that fails keeps its row, with frames of zeros and its reason.

    Errors:
        StorageError: the storage did not answer for minutes; ends the task, and with it the stream.
    """
    assignment = plan.assignment(number)
    rows = [clips.slice(row, 1).to_pylist()[0] for row in assignment.rows.tolist()]
    keys = np.array([clip_key(row["clip_id"]) for row in rows], np.int64)
    positions = plan.positions(assignment.epoch, keys)
    with ThreadPoolExecutor(min(READ_THREADS, len(rows))) as pool:
        outcomes = list(pool.map(lambda row, position: _load(row, data, position), rows, positions.tolist()))
    if frames is None:
        frames = np.zeros((len(rows), data.num_frames, data.image_size, data.image_size), np.uint8)
    for place, outcome in zip(frames, outcomes, strict=True):
        if outcome.frames is not None:
            place[:] = outcome.frames
    return {
        "number": np.full(len(rows), number, np.int64),
        "clip_id": np.array([row["clip_id"] for row in rows], object),
        "clip_key": keys,
        "frames": frames,
        "num_padded": np.array([outcome.num_padded for outcome in outcomes], np.int64),
        "reason": np.array([outcome.reason for outcome in outcomes], object),
    }


def _load(row: dict[str, Any], data: DataConfig, position: float) -> _Outcome:
    try:
        clip = load_clip(row, data, position)
    except ClipError as error:
        return _Outcome(None, 0, without_path(error, row["uri"]) or "no reason given")
    return _Outcome(clip.frames, clip.num_padded, "")
