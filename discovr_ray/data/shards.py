"""Shards: many small clips in one file, each a whole AVI video that can be cut out, decoded fast and named by nobody.

A shard `NAME.clips` is the clips one behind the other; `NAME.parquet`, written last, says where each of them lies and
which ones were refused. NAME is a hash of everything that the bytes depend on: what is there is never written again,
unless it lacks a clip that may pass another time.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
from PIL import Image

from discovr_ray.data import storage, watchdog
from discovr_ray.data.clip import keep_echo, read_checked, resize_frames
from discovr_ray.data.decode import all_frames
from discovr_ray.data.formats.avi_writer import write_avi
from discovr_ray.data.formats.png_avi import encode_grey_png
from discovr_ray.data.formats.reader import MAX_SIDE, Frames, VideoInfo
from discovr_ray.data.outage import without_path
from discovr_ray.errors import ClipError, ConfigError, StorageError

VERSION = 2  # of the way clips are written; another number makes other shards
FORMATS = {"jpeg": ("avi-mjpeg", b"MJPG"), "lossless": ("avi-png", b"MPNG")}
BYTES_PER_PIXEL = {"jpeg": 0.45, "lossless": 0.63}  # of ultrasound, to plan shards of about the wanted size
TEMPORARY = "may pass another time: "  # begins reasons that are not the content's: its shard is not final
# what the bytes of a clip depend on
SOURCE_COLUMNS = ("clip_id", "sha256", "format", "num_frames", "fps", "height", "width", "region", "sector")
FACTS = pa.schema(
    [
        *(("clip_id", pa.string()), ("format", pa.string()), ("num_frames", pa.int32()), ("fps", pa.float64())),
        *(("height", pa.int32()), ("width", pa.int32()), ("offset", pa.int64()), ("num_bytes", pa.int64())),
        *(("sha256", pa.string()), ("reason", pa.string())),  # reason: why a clip was refused; "" for a good one
    ]
)


@dataclass(frozen=True)
class ShardSettings:
    """How clips are converted."""

    size: int = 112  # pixels a side; the centre square, as load_clip takes it
    codec: Literal["jpeg", "lossless"] = "jpeg"
    quality: int = 95  # of JPEG: at 95 half a grey level off on average
    shard_mb: int = 64  # about; a shard is what is done again after a crash, and what one CPU works on

    def __post_init__(self) -> None:
        rules = {
            f"size = {self.size}: must be 16 to {MAX_SIDE} pixels": 16 <= self.size <= MAX_SIDE,
            f"codec = {self.codec!r}: must be jpeg or lossless": self.codec in FORMATS,
            f"quality = {self.quality}: must be 1 to 100": 1 <= self.quality <= 100,
            f"shard_mb = {self.shard_mb}: must be above 0": self.shard_mb > 0,
        }
        if problems := [f"convert: {rule}" for rule, kept in rules.items() if not kept]:
            raise ConfigError(problems)


class Shard(NamedTuple):
    name: str
    clips: pa.Table  # manifest rows, sorted by clip_id


class Attempt(NamedTuple):
    """A converted clip, or why there is none. `outage`: the storage did not answer, which is no clip's fault."""

    info: VideoInfo | None = None
    content: bytes = b""
    reason: str = ""
    outage: str = ""


def plan_shards(parts: Iterable[pa.Table], settings: ShardSettings) -> Iterator[Shard]:
    """Which clip goes where: a function of the clips and the settings alone, not of who finishes first.

    Args:
        parts: manifest rows sorted by clip_id.
    """
    limit = settings.shard_mb * 10**6
    index, place, total = 0, 0, 0  # of the shard that is being filled, and the bytes in front of the next clip
    waiting: list[pa.Table] = []
    for part in parts:
        frames = part["num_frames"].to_numpy().astype(np.int64)
        expected = (frames * settings.size**2 * BYTES_PER_PIXEL[settings.codec]).astype(np.int64)
        places = (total + np.cumsum(expected) - expected) // limit
        total += int(expected.sum())
        starts = np.flatnonzero(np.diff(places, prepend=-1)).tolist()
        for start, stop in zip(starts, [*starts[1:], part.num_rows], strict=True):
            if waiting and places[start] != place:
                yield _shard(index, waiting, settings)
                index, waiting = index + 1, []
            place = int(places[start])
            waiting.append(part.slice(start, stop - start))
    if waiting:
        yield _shard(index, waiting, settings)


def _shard(index: int, parts: Sequence[pa.Table], settings: ShardSettings) -> Shard:
    clips = pa.concat_tables(parts)
    return Shard(_name(index, clips, settings), clips)


def _name(index: int, clips: pa.Table, settings: ShardSettings) -> str:
    how = {"version": VERSION, **asdict(settings), "quality": settings.quality * (settings.codec == "jpeg")}
    text = json.dumps([how, clips.select(SOURCE_COLUMNS).to_pylist()], sort_keys=True)
    return f"shard-{index:05d}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def try_clip(row: Mapping[str, Any], settings: ShardSettings) -> Attempt:
    """convert_clip, or why not; ends the process when decoding exceeds the watchdog's limit."""
    try:
        content = read_checked(row)
    except StorageError as error:
        return Attempt(outage=without_path(error, row["uri"]))
    except ClipError as error:  # missing, refused, changed
        return Attempt(reason=f"{TEMPORARY}{error}")
    try:
        return Attempt(*_converted(row, content, settings))
    except Exception as error:  # boundary to the decoders: whatever they raise, the other clips go on
        return Attempt(reason=str(error) if isinstance(error, ClipError) else f"{type(error).__name__}: {error}")


def convert_clip(row: Mapping[str, Any], settings: ShardSettings) -> tuple[VideoInfo, bytes]:
    """All frames of a clip as load_clip gives them at image_size = settings.size, in an AVI file.

    Errors:
        ClipError, StorageError: as of load_clip.
    """
    return _converted(row, read_checked(row), settings)


def _converted(row: Mapping[str, Any], content: bytes, settings: ShardSettings) -> tuple[VideoInfo, bytes]:
    info = VideoInfo(*(row[name] for name in VideoInfo._fields))
    images: list[bytes] = []
    with watchdog.end_process_after(watchdog.limit_s(len(content))):
        for piece in all_frames(content, info):
            kept = keep_echo(piece, row.get("region"), row.get("sector"))
            images += [encode_frame(frame, settings) for frame in resize_frames(kept, settings.size)]
    name, codec = FORMATS[settings.codec]
    try:
        video = write_avi(images, info.fps, settings.size, settings.size, codec)
    except ValueError as error:
        raise ClipError(str(error)) from error
    return VideoInfo(name, len(images), info.fps, settings.size, settings.size), video


def write_shard(shard: Shard, folder: str, settings: ShardSettings, attempt: Callable[..., Attempt] = try_clip) -> None:
    """Write `shard` into `folder`, its table last; both whole or not at all.

    Errors:
        StorageError: the storage of the clips or of the folder does not answer.
    """
    rows: list[dict[str, Any]] = []
    with tempfile.NamedTemporaryFile(prefix="discovr-shard-") as file:
        for row in shard.clips.to_pylist():
            found = attempt(row, settings)
            if found.outage:
                raise StorageError(found.outage)
            facts = {"clip_id": row["clip_id"], "reason": found.reason.replace(row["uri"], "the source")}
            if found.info is not None:
                place = {"offset": file.tell(), "num_bytes": len(found.content)}
                digest = hashlib.sha256(found.content).hexdigest()
                facts |= {**found.info._asdict(), **place, "sha256": digest}
            rows.append(facts)
            file.write(found.content)
        file.flush()
        storage.put_file(file.name, storage.join(folder, f"{shard.name}.clips"))
    storage.write_bytes(storage.join(folder, f"{shard.name}.parquet"), _parquet(rows))


def read_shard(name: str, folder: str) -> pa.Table:
    """The FACTS of a finished shard."""
    return pq.read_table(pa.BufferReader(storage.read_bytes(storage.join(folder, f"{name}.parquet")))).cast(FACTS)


def is_final(facts: pa.Table) -> bool:
    """Whether writing the shard of these FACTS again would change nothing."""
    return not any(reason.startswith(TEMPORARY) for reason in facts["reason"].to_pylist())


def finished_shards(folder: str) -> set[str]:
    """Names of the shards in `folder` of which both files are there."""
    if not storage.exists(folder):
        return set()
    files = {path.rpartition("/")[2] for path in storage.list_files(folder, (".parquet", ".clips"))}
    names = {name.removesuffix(".parquet") for name in files if name.endswith(".parquet")}
    return {name for name in names if f"{name}.clips" in files}


def manifest_rows(shard: Shard, facts: pa.Table, folder: str, settings: ShardSettings) -> list[dict[str, Any]]:
    """The manifest's rows of the clips that were converted: who and what as before, where and how as in the shard."""
    rows = []
    uri = storage.join(folder, f"{shard.name}.clips")
    for row, found in zip(shard.clips.to_pylist(), facts.to_pylist(), strict=True):
        if found.pop("reason"):
            continue
        pixel_cm = row["cm_per_pixel"] and row["cm_per_pixel"] * placement(row, settings).scale
        rows.append(row | found | {"uri": uri, "region": None, "sector": None, "cm_per_pixel": pixel_cm})
    return rows


class Placement(NamedTuple):
    """Where a clip's square lies in its source: output pixel i covers source pixels left + i * scale onwards."""

    left: float
    top: float
    scale: float  # source pixels of one output pixel

    def x(self, source: Sequence[float]) -> list[float]:
        """Where points of the source come to lie; pixel centres are whole numbers on both sides."""
        return [(value + 0.5 - self.left) / self.scale - 0.5 for value in source]

    def y(self, source: Sequence[float]) -> list[float]:
        return [(value + 0.5 - self.top) / self.scale - 0.5 for value in source]

    def mask(self, source: Frames, size: int) -> Frames:
        """[H, W] of the source -> [size, size]: the value under the centre of each pixel."""
        side = self.scale * size
        box = (self.left, self.top, self.left + side, self.top + side)
        return np.asarray(Image.fromarray(source).resize((size, size), Image.Resampling.NEAREST, box=box))


def placement(row: Mapping[str, Any], settings: ShardSettings) -> Placement:
    """Of a manifest row that points to its source: what keep_echo and resize_frames do to it."""
    x0, y0, x1, y1 = row["region"] or (0, 0, row["width"], row["height"])
    side = min(x1 - x0, y1 - y0)
    return Placement(x0 + (x1 - x0 - side) / 2, y0 + (y1 - y0 - side) / 2, side / settings.size)


def encode_frame(frame: Frames, settings: ShardSettings) -> bytes:
    """[H, W] -> one image."""
    if settings.codec == "jpeg":
        return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(frame[..., None]), settings.quality, "GRAY"))
    return encode_grey_png(frame)


def _parquet(rows: Iterable[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), FACTS), sink)
    return bytes(sink.getvalue().to_pybytes())
