"""What makes an ultrasound picture worse, in three grades each: for asking how far a probe's answers hold.

Everything random follows from the clip's id (discovr_ray/randomness.py), so that a clip is degraded in one way whenever
and wherever that is done. Grey levels are taken as a logarithmic scale of RANGE_DB from black to white.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from discovr_ray.data.formats.reader import Frames, Indices
from discovr_ray.evaluate.dense import DecodedMoment, decode_moment
from discovr_ray.evaluate.embedding import Decoded, Preprocessing, decode_video
from discovr_ray.randomness import Purpose, clip_key, uniform

RANGE_DB = 60.0
LEVELS_PER_DB = 255 / RANGE_DB
HAZE_DEPTH = 0.35  # share of the depth over which haze falls to 1/e
SHADOW_DB = 40.0  # lost in the middle of a dropout sector
SHADOW_REACH = 0.7  # radians to either side of the middle within which its middle lies
MARK = "#"  # between a clip's id and how it is degraded

Floats = npt.NDArray[np.float32]


class Kind(NamedTuple):
    name: str
    about: str  # `{}` is the strength
    strengths: tuple[float, float, float]  # of levels 1 to 3
    apply: Callable[[Floats, float, int], Floats]  # frames [k, T, S, S], strength, the clip's key -> the same shape


@dataclass(frozen=True)
class DegradedPreprocessing(Preprocessing):
    """That of clean clips, and which version of the degradations comes after it."""

    degradations: int = 1

    @classmethod
    def of(cls, clean: Preprocessing) -> DegradedPreprocessing:
        return cls(**dataclasses.asdict(clean))


def degrade(frames: Frames, kind: str, level: int, clip_id: str) -> Frames:
    """Grey clips [k, T, S, S] of one video -> the same, worse; what is black in all frames is no echo and stays black.

    Args:
        level: 1 to 3.
    """
    found = KINDS[kind]
    values = found.apply(frames.astype(np.float32), found.strengths[level - 1], clip_key(clip_id))
    seen = (frames > 0).any(axis=1, keepdims=True)
    return np.where(seen, np.clip(np.rint(values), 0, 255), 0).astype(np.uint8)


def degraded_id(clip_id: str, kind: str, level: int) -> str:
    return f"{clip_id}{MARK}{kind}{MARK}{level}"


def parse_degraded_id(text: str) -> tuple[str, str, int]:
    """Clip id, kind and level."""
    clip_id, kind, level = text.rsplit(MARK, 2)
    return clip_id, kind, int(level)


def decode_degraded(row: Mapping[str, Any], preprocessing: Preprocessing) -> Decoded:
    """As evaluate.embedding.decode_video, of a row whose clip_id is a `degraded_id`."""
    decoded = decode_video(row, preprocessing)
    if decoded.frames is None:
        return decoded
    clip_id, kind, level = parse_degraded_id(row["clip_id"])
    return decoded._replace(frames=degrade(decoded.frames, kind, level, clip_id))


def decode_degraded_moment(row: Mapping[str, Any], frame: int, preprocessing: Preprocessing) -> DecodedMoment:
    """As evaluate.dense.decode_moment, of a row whose clip_id is a `degraded_id`.

    A lower frame rate keeps the wanted frame among those that are taken: what was outlined in it would be of another
    moment else, and the number would say how far the heart moved.
    """
    decoded = decode_moment(row, frame, preprocessing)
    if decoded.frames is None:
        return decoded
    clip_id, kind, level = parse_degraded_id(row["clip_id"])
    if KINDS[kind].apply is _frame_rate:
        shown = held(len(decoded.frames), int(KINDS[kind].strengths[level - 1]), decoded.place)
        return decoded._replace(frames=decoded.frames[shown])
    return decoded._replace(frames=degrade(decoded.frames[None], kind, level, clip_id)[0])


def held(count: int, every: int, kept: int = 0) -> Indices:
    """Which of `count` frames each one shows when only every so-manyth is taken, number `kept` among them."""
    first = kept % every
    return np.maximum(first + (np.arange(count) - first) // every * every, first)


def _depth(size: int) -> Floats:
    """Of each row, 0 at the top to 1 at the bottom: [S, 1]."""
    return np.linspace(0, 1, size, dtype=np.float32)[:, None]


def _gain(frames: Floats, strength: float, key: int) -> Floats:
    return frames - np.float32(strength * LEVELS_PER_DB)


def _attenuation(frames: Floats, strength: float, key: int) -> Floats:
    return np.asarray(frames - np.float32(strength * LEVELS_PER_DB) * _depth(frames.shape[2]), np.float32)


def _speckle(frames: Floats, strength: float, key: int) -> Floats:
    """The echo of many scatterers: its amplitude is Rayleigh distributed, new in every frame; mean brightness stays."""
    places = np.arange(frames.size, dtype=np.uint64)
    amplitude_db = 10 * np.log10(-2 * np.log1p(-uniform(key, Purpose.DEGRADATION, 0, places)) + 1e-6)
    noise = (amplitude_db - amplitude_db.mean()) / amplitude_db.std()
    return np.asarray(frames + (strength * LEVELS_PER_DB * noise).reshape(frames.shape), np.float32)


def _haze(frames: Floats, strength: float, key: int) -> Floats:
    """A bright veil near the probe that stands still while the heart moves, and takes away contrast."""
    veil = np.float32(strength / 255) * np.exp(-_depth(frames.shape[2]) / HAZE_DEPTH)
    return np.asarray(frames + veil * (255 - frames), np.float32)


def _dropout(frames: Floats, strength: float, key: int) -> Floats:
    """A sector of beams from the middle of the top edge without contact to the skin. `strength`: its width, degrees."""
    size = frames.shape[2]
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    angle = np.arctan2(columns - (size - 1) / 2, rows + 1)
    middle = SHADOW_REACH * (2 * float(uniform(key, Purpose.DEGRADATION, 1)) - 1)
    width = np.deg2rad(strength) / 2
    loss_db = SHADOW_DB * np.exp(-(((angle - middle) / width) ** 4))
    return np.asarray(frames - LEVELS_PER_DB * loss_db, np.float32)


def _frame_rate(frames: Floats, strength: float, key: int) -> Floats:
    """Each frame stands for so many frames' time."""
    return frames[:, held(frames.shape[1], int(strength))]


KINDS = {
    kind.name: kind
    for kind in (
        Kind("gain", "{:g} dB less gain", (6.0, 12.0, 18.0), _gain),
        Kind("attenuation", "{:g} dB lost from top to bottom", (10.0, 20.0, 30.0), _attenuation),
        Kind("speckle", "{:g} dB of speckle noise", (3.0, 6.0, 9.0), _speckle),
        Kind("haze", "a veil of {:g} grey levels at the probe", (50.0, 100.0, 150.0), _haze),
        Kind("dropout", "a sector of {:g} degrees without contact", (10.0, 20.0, 30.0), _dropout),
        Kind("frame_rate", "a new picture every {:g} frames", (2.0, 4.0, 8.0), _frame_rate),
    )
}
LEVELS = (1, 2, 3)


def strength_text(kind: str, level: int) -> str:
    return KINDS[kind].about.format(KINDS[kind].strengths[level - 1])
