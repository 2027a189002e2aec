"""Opens some clips of a manifest: moving pictures of a few, and a search for near-duplicates among more.

Two clips are near-duplicates when their pictures are: re-encoded, resized, brighter or darker, with another frame rate,
or with a few frames less. Cropping or turning hides a copy from this search.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from discovr_ray.config import DataConfig
from discovr_ray.data.clip import load_clip
from discovr_ray.data.formats.reader import Frames
from discovr_ray.data.microbatch import COLUMNS
from discovr_ray.data.outage import without_path
from discovr_ray.errors import ClipError
from discovr_ray.randomness import clip_key, uniform
from discovr_ray.report.data_facts import NONE, without_sources
from discovr_ray.report.data_labels import split_rank

logger = logging.getLogger(__name__)

SAMPLE_SALT = 0x494E5350454354  # so that the choice is independent of everything else that is drawn from a key
PICTURES_PER_GROUP = 2
MAX_PICTURES = 16
PICTURE = DataConfig(num_frames=24, frame_stride=3, reference_fps=50.0, image_size=112)  # 1.4 s, more than a beat
FRAME_MS = 60  # of PICTURE, so that hearts beat at their own speed
# the whole video in four frames, since a window that is too long is stretched to fit
SIGNED = DataConfig(num_frames=4, frame_stride=10**9, reference_fps=0.0, short_clip="fit_stride", image_size=96)
GRID = 24  # differences along and across a frame
FLAT = 5  # grey levels; a smaller difference is no difference, so that the black around the sector does not count
# share of differing signs. Measured on the phantoms: copies that were compressed hard, resized, brightened or cut by
# two frames have at most 0.09, different clips at least 0.26
NEAR = 0.15
BLOCK = 256  # clips compared with all behind them at a time
PROGRESS_EVERY_S = 5.0


@dataclass(frozen=True)
class Broken:
    clip_id: str
    reason: str


@dataclass(frozen=True)
class Pair:
    """Two clips that look alike."""

    clips: tuple[str, str]
    splits: tuple[str, str]
    distance: float  # 0: alike, 1: nothing in common


@dataclass(frozen=True)
class Picture:
    clip_id: str
    caption: str  # split and class
    frames: Frames  # [T, H, W]


@dataclass(frozen=True)
class Looked:
    """What opening some clips has shown."""

    num_clips: int
    pairs: list[Pair]  # near-duplicates, nearest first
    pictures: list[Picture]
    broken: list[Broken]


def look(table: pa.Table, classes: Sequence[str], num_clips: int) -> Looked:
    """Open `num_clips` clips, the same ones for the same manifest, and those that are shown.

    Args:
        classes: class of each row, "" for none.
    Errors:
        StorageError: the storage did not answer for minutes.
    """
    keys = np.array([clip_key(clip_id) for clip_id in table["clip_id"].to_pylist()], np.uint64)
    order = np.argsort(uniform(SAMPLE_SALT, keys), kind="stable")
    chosen, shown = order[:num_clips], _shown(order, table["split"].to_pylist(), classes)
    broken: dict[str, str] = {}
    names, signatures = [], []
    for place, row, frames in _load(table, chosen, SIGNED, broken):
        names.append((row["clip_id"], table["split"][place].as_py() or NONE))
        signatures.append(signature(frames))
    pictures = []
    for place, row, frames in _load(table, shown, PICTURE, broken):
        split = table["split"][place].as_py() or NONE
        pictures.append(Picture(row["clip_id"], ", ".join(filter(None, (split, classes[place]))), frames))
    return Looked(len(chosen), _near(names, signatures), pictures, [Broken(*item) for item in sorted(broken.items())])


def signature(frames: Frames) -> npt.NDArray[np.int8]:
    """Frames [T, S, S] -> [T * GRID * GRID]: darker than the place to its left (-1), brighter (1) or as bright (0)."""
    small = [
        np.asarray(Image.fromarray(frame).resize((GRID + 1, GRID), Image.Resampling.BOX), np.int16) for frame in frames
    ]
    steps = np.diff(np.stack(small), axis=2)
    return np.asarray(np.where(np.abs(steps) < FLAT, 0, np.sign(steps)), np.int8).ravel()


def distances(signatures: npt.NDArray[np.int8], others: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    """[n, bits] and [m, bits] -> [n, m]: share of differing signs among places that are flat in at most one of both."""
    a, b = signatures.astype(np.float32), others.astype(np.float32)
    agree = (a > 0).astype(np.float32) @ (b > 0).astype(np.float32).T
    agree += (a < 0).astype(np.float32) @ (b < 0).astype(np.float32).T
    a, b = np.abs(a), np.abs(b)
    either = a.sum(axis=1)[:, None] + b.sum(axis=1)[None, :] - a @ b.T
    return np.asarray(1 - agree / np.maximum(either, 1), np.float32)


def _near(names: list[tuple[str, str]], signatures: list[npt.NDArray[np.int8]]) -> list[Pair]:
    pairs = []
    for start in range(0, len(names), BLOCK):
        found = distances(np.stack(signatures[start : start + BLOCK]), np.stack(signatures[start:]))
        for first, second in np.argwhere(np.triu(found <= NEAR, 1)).tolist():
            (one, split), (other, other_split) = names[start + first], names[start + second]
            pairs.append(Pair((one, other), (split, other_split), float(found[first, second])))
    return sorted(pairs, key=lambda pair: pair.distance)


def _shown(order: npt.NDArray[np.intp], splits: Sequence[str], classes: Sequence[str]) -> npt.NDArray[np.intp]:
    """The first clips of each split and class, as many of each as of the others."""
    groups: dict[tuple[str, str], list[int]] = {}
    for place in order.tolist():
        group = groups.setdefault((splits[place], classes[place]), [])
        if len(group) < PICTURES_PER_GROUP:
            group.append(place)
    ranked = sorted((number, key, place) for key, group in groups.items() for number, place in enumerate(group))
    shown = sorted(ranked[:MAX_PICTURES], key=lambda item: (split_rank(item[1][0]), item[1][1], item[0]))
    return np.array([place for _, _, place in shown], np.intp)


def _load(
    table: pa.Table, places: npt.NDArray[np.intp], data: DataConfig, broken: dict[str, str]
) -> Iterator[tuple[int, dict[str, Any], Frames]]:
    """(place, row, frames) of the clips that can be read; the reasons of the others go into `broken`."""
    names = [name for name in COLUMNS if name in table.column_names]
    rows = table.select(names).take(pa.array(places)).to_pylist()

    def frames_of(row: dict[str, Any]) -> Frames | ClipError:
        try:
            return load_clip(row, data, 0.5).frames
        except ClipError as error:
            return error

    shown_at = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        results = pool.map(frames_of, rows)
        for count, (place, row, result) in enumerate(zip(places.tolist(), rows, results, strict=True), start=1):
            if isinstance(result, ClipError):
                broken[row["clip_id"]] = without_sources(without_path(result, row["uri"]))
            else:
                yield place, row, result
            if time.monotonic() - shown_at > PROGRESS_EVERY_S:
                shown_at = time.monotonic()
                logger.info("opened %d of %d clips", count, len(rows))
