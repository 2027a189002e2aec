"""From a video to its features: how clips are prepared for an encoder, which of them, and what it says of them.

Decode processes import this file, so torch is only imported where an encoder is at work.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from discovr_ray.config import DataConfig
from discovr_ray.data.clip import load_frames
from discovr_ray.data.formats.reader import Frames
from discovr_ray.data.outage import without_path
from discovr_ray.data.window import Window, choose_window
from discovr_ray.errors import ClipError, FeaturesError, StorageError
from discovr_ray.evaluate.features import FeatureArray

if TYPE_CHECKING:
    from discovr_ray.model.weights import EncoderCard, PretrainedEncoder

logger = logging.getLogger(__name__)

# what the frames of a video depend on; where the file lies is not among it
SOURCE_COLUMNS = ("sha256", "format", "num_frames", "fps", "height", "width", "region", "sector")


@dataclass(frozen=True)
class Preprocessing:
    """Everything between a video's file and what an encoder is given. There is no crop: the centre square, resized."""

    num_frames: int  # T
    image_size: int  # H = W, pixels
    frame_stride: int  # source frames from one taken frame to the next, at reference_fps
    reference_fps: float
    short_clip: str  # DataConfig.short_clip
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    clips_per_video: int  # temporal clips, evenly spread, whose features are averaged

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def data(self) -> DataConfig:
        """For the functions that decode training clips."""
        return DataConfig(
            num_frames=self.num_frames,
            image_size=self.image_size,
            frame_stride=self.frame_stride,
            reference_fps=self.reference_fps,
            short_clip=cast(Literal["fit_stride", "repeat_last", "loop"], self.short_clip),
            mean=self.mean,
            std=self.std,
        )


def preprocessing_of(card: EncoderCard, clips_per_video: int) -> Preprocessing:
    """As the encoder's training prepared its clips."""
    return Preprocessing(
        num_frames=card.encoder.num_frames,
        image_size=card.encoder.image_size,
        frame_stride=card.frame_stride,
        reference_fps=card.reference_fps,
        short_clip=card.short_clip,
        mean=card.mean,
        std=card.std,
        clips_per_video=clips_per_video,
    )


def check_manifest_fits(clips: pa.Table, preprocessing: Preprocessing, allow_enlarged: bool = False) -> None:
    """Refuse videos that the encoder's preparation would have to invent pixels for, such as converted ones.

    Args:
        clips: manifest rows.
    Errors:
        FeaturesError: videos with fewer pixels a side than the encoder takes, unless `allow_enlarged`.
    """
    columns = clips.select(["clip_id", "width", "height", "region"]).to_pylist()
    size = preprocessing.image_size
    small = [(row["clip_id"], side) for row in columns if (side := _short_side(row)) < size]
    if small and not allow_enlarged:
        clip_id, side = min(small, key=lambda item: item[1])
        raise FeaturesError(
            f"encoder and manifest do not fit: the encoder takes frames of {size} pixels a side, and "
            f"{len(small)} of {clips.num_rows} videos are smaller, such as {clip_id!r} with {side}; "
            "ingest them at a larger --convert-size, or allow that they are enlarged"
        )
    if small:
        logger.warning("%d of %d videos are enlarged to %d pixels a side", len(small), clips.num_rows, size)
    slow = sum(preprocessing.frame_stride * fps < preprocessing.reference_fps for fps in clips["fps"].to_pylist())
    if slow:
        logger.warning(
            "%d of %d videos have fewer frames a second than a clip needs; theirs span a longer time",
            slow,
            clips.num_rows,
        )


def _short_side(row: Mapping[str, Any]) -> int:
    x0, y0, x1, y1 = row["region"] or (0, 0, row["width"], row["height"])
    return int(min(x1 - x0, y1 - y0))


def sources_of(clips: pa.Table) -> dict[str, str]:
    """clip_id -> source_sha256 of manifest rows."""
    batches = clips.select(["clip_id", *SOURCE_COLUMNS]).to_batches(max_chunksize=10_000)  # of millions, a few at once
    return {row["clip_id"]: source_sha256(row) for batch in batches for row in batch.to_pylist()}


def source_sha256(row: Mapping[str, Any]) -> str:
    """Of the columns of a manifest row that a video's frames depend on."""
    values = [row[name] for name in SOURCE_COLUMNS]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def windows_of(row: Mapping[str, Any], preprocessing: Preprocessing) -> list[Window]:
    """The video's temporal clips: each in the middle of one of `clips_per_video` equal parts of the possible places.

    Fewer where the video has fewer different ones: a short video has a single one.

    Errors:
        ClipError: as of data.window.choose_window.
    """
    number = preprocessing.clips_per_video
    found = [
        choose_window(row["num_frames"], row["fps"], preprocessing.data, (place + 0.5) / number)
        for place in range(number)
    ]
    return list({int(window.indices[0]): window for window in found}.values())


class Decoded(NamedTuple):
    """A video's temporal clips, or why there are none. `outage`: the storage did not answer, no fault of the video."""

    frames: Frames | None = None  # [k, T, S, S]
    first_frames: Sequence[int] = ()  # [k], of the source
    padded_frames: Sequence[int] = ()  # [k]
    reason: str = ""
    outage: str = ""


def decode_video(row: Mapping[str, Any], preprocessing: Preprocessing) -> Decoded:
    """Read, check and decode a video's temporal clips, from a row of microbatch.COLUMNS. The file is read once."""
    try:
        windows = windows_of(row, preprocessing)
        indices = np.concatenate([window.indices for window in windows])
        frames = load_frames(row, preprocessing.data, indices)
    except ClipError as error:
        return Decoded(reason=without_path(error, row["uri"]) or "no reason given")
    except StorageError as error:
        return Decoded(outage=without_path(error, row["uri"]))
    return Decoded(
        frames.reshape(len(windows), -1, *frames.shape[1:]),
        [int(window.indices[0]) for window in windows],
        [window.num_padded for window in windows],
    )


class ClipFeatures(NamedTuple):
    cls: FeatureArray  # [n, D]
    patches: FeatureArray  # [n, D], mean over a clip's patch tokens


def embed_clips(
    encoder: PretrainedEncoder, frames: npt.NDArray[np.uint8], batch_size: int, precision: str
) -> ClipFeatures:
    """Features of grey clips [n, T, S, S], fp32, computed on the encoder's device.

    Args:
        batch_size: clips in one forward pass.
        precision: bf16 or fp32, of the computation.
    """
    import torch

    device = encoder.mean.device
    cls, patches = [], []
    for start in range(0, len(frames), batch_size):
        batch = torch.from_numpy(np.array(frames[start : start + batch_size])).to(device)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            tokens = encoder(batch)
        cls.append(tokens.cls.float().cpu())
        patches.append(tokens.patches.float().mean(dim=1).cpu())
    return ClipFeatures(torch.cat(cls).numpy(), torch.cat(patches).numpy())
