"""Frames in which experts drew outlines, as masks in the pixels that an encoder sees."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from discovr_ray.data import storage
from discovr_ray.data.adapters.listing import Trace
from discovr_ray.data.formats.nifti import read_mask
from discovr_ray.data.outage import read_through_outage, without_path
from discovr_ray.data.shards import ShardSettings, placement
from discovr_ray.data.traces import read_traces
from discovr_ray.errors import ClipError, EvaluationError, MissingFileError

TRACES_FILE = "traces.parquet"  # beside the manifest, as ingest writes it
BACKGROUND = 0  # of a mask; structure number i, from 0, is value i + 1

Mask = npt.NDArray[np.uint8]


class LabelledFrame(NamedTuple):
    """A frame of a video with the outline of every structure that is asked for."""

    clip_id: str
    frame: int  # of the source, from 0
    traces: tuple[Trace, ...]  # one for each structure, in their order


class Labelled(NamedTuple):
    structures: tuple[str, ...]
    frames: list[LabelledFrame]  # sorted by clip and frame
    left_out: dict[str, int]  # reason -> frames


def read_labelled(manifest: str, clips: pa.Table) -> Labelled | str:
    """What is drawn into the clips of a manifest, or why nothing is asked.

    Args:
        clips: its rows.
    Errors:
        StorageError, ManifestError: as of data.traces.read_traces. EvaluationError: as of label_frames.
    """
    uri = storage.join(manifest.rpartition("/")[0], TRACES_FILE)
    if not storage.exists(uri):
        return f"no outlines: the manifest's folder has no {TRACES_FILE}"
    traces = read_traces(uri)
    known = set(clips["clip_id"].to_pylist())
    if not any(trace.clip_id in known for trace in traces):
        return f"no outlines: {TRACES_FILE} has none of the manifest's videos"
    return label_frames(traces, clips)


def label_frames(traces: Sequence[Trace], clips: pa.Table) -> Labelled:
    """Frames that have every structure which any of them has; the others are counted.

    Errors:
        EvaluationError: an outline of a frame that its video does not have, or twice of one structure and frame.
    """
    lengths = dict(zip(clips["clip_id"].to_pylist(), clips["num_frames"].to_pylist(), strict=True))
    found: dict[tuple[str, int], dict[str, Trace]] = defaultdict(dict)
    num_strange = 0
    for trace in traces:
        if trace.clip_id not in lengths:
            num_strange += 1
            continue
        name = f"clip {trace.clip_id!r}, frame {trace.frame}"
        if not 0 <= trace.frame < lengths[trace.clip_id]:
            raise EvaluationError(f"{name}: has an outline, but the video has {lengths[trace.clip_id]} frames")
        of_frame = found[trace.clip_id, trace.frame]
        if trace.structure in of_frame:
            raise EvaluationError(f"{name}: has two outlines of {trace.structure!r}")
        of_frame[trace.structure] = trace
    structures = tuple(sorted({name for of_frame in found.values() for name in of_frame}, key=_rank))
    frames = [
        LabelledFrame(*key, tuple(of_frame[name] for name in structures))
        for key, of_frame in sorted(found.items())
        if len(of_frame) == len(structures)
    ]
    left_out = {
        "outlines of videos that the manifest lacks": num_strange,
        f"frames without all of {', '.join(structures)}": len(found) - len(frames),
    }
    return Labelled(structures, frames, {reason: count for reason, count in left_out.items() if count})


def _rank(structure: str) -> tuple[bool, str]:
    """The left ventricle first: it is what ejection fraction is computed from."""
    return structure != "lv", structure


def draw_mask(labelled: LabelledFrame, row: Mapping[str, Any], size: int) -> Mask:
    """The frame's structures in the square that an encoder sees: [size, size], 0 is none of them.

    Args:
        row: of the manifest, with height, width and region.
        size: H = W of the encoder's frames, pixels.
    Errors:
        ClipError: an outline without a pixel in the square, or a mask that is missing or unlike the frame.
        StorageError: the storage did not answer.
    """
    place = placement(row, ShardSettings(size=size))
    mask = np.zeros((size, size), np.uint8)
    files = {uri: _read(uri, row) for uri in {trace.mask_uri for trace in labelled.traces if trace.mask_uri}}
    for number, trace in enumerate(labelled.traces, start=1):
        if trace.mask_uri:
            inside = place.mask(files[trace.mask_uri], size) == trace.mask_value
        else:
            inside = inside_polygon(np.array([place.x(trace.x), place.y(trace.y)]).T, size)
        if not inside.any():
            raise ClipError(f"frame {labelled.frame}: the outline of {trace.structure} holds no pixel of the picture")
        mask[inside] = number
    return mask


def inside_polygon(points: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.bool_]:
    """Pixels [size, size] whose centre, a whole number, lies inside a closed polygon [n, (x, y)]; even-odd rule."""
    if len(points) < 3:
        return np.zeros((size, size), bool)
    (x0, y0), (x1, y1) = points.T[:, :, None], np.roll(points, -1, axis=0).T[:, :, None]
    rows = np.arange(size, dtype=np.float64)
    crosses = (y0 > rows) != (y1 > rows)  # [n, rows]
    with np.errstate(divide="ignore", invalid="ignore"):
        at = np.where(crosses, x0 + (rows - y0) * (x1 - x0) / (y1 - y0), -np.inf)
    before = np.arange(size)[None, None] < at[:, :, None]  # [n, rows, columns]
    return np.asarray(before.sum(axis=0) % 2 == 1)


def _read(uri: str, row: Mapping[str, Any]) -> Mask:
    try:
        return read_mask(read_through_outage(uri), row["height"], row["width"])
    except MissingFileError as error:
        raise ClipError(without_path(error, uri)) from error
