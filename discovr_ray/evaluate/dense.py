"""Patch tokens of chosen moments of videos, and the folder in which they are kept.

settings.json      which encoder, preparation and choice; written first, and held against every later call
parts/*.parquet    one row per item, tokens as 16-bit floats; each part whole or not there
failed.parquet     items without tokens, with the reason

Decode processes import this file, so torch is only imported where an encoder is at work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from discovr_ray.data import storage
from discovr_ray.data.clip import load_frames
from discovr_ray.data.formats.reader import Frames, Indices
from discovr_ray.data.outage import without_path
from discovr_ray.data.window import choose_window
from discovr_ray.errors import ClipError, FeaturesError, StorageError
from discovr_ray.evaluate.embedding import Preprocessing
from discovr_ray.evaluate.features import FeatureArray

if TYPE_CHECKING:
    from discovr_ray.model.weights import PretrainedEncoder

SETTINGS_FILE, PARTS_FOLDER, FAILED_FILE = "settings.json", "parts", "failed.parquet"
READ_THREADS = 16  # parts read at once
TIME_PARTS = 4  # of a whole clip's tokens, each the mean over its tubelets: 64 frames would be 2.4 MB a clip
SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("frame", pa.int32()),  # of the source; WHOLE: the tokens are those of a whole clip
        ("source_sha256", pa.string()),  # evaluate.embedding.source_sha256 of the video's manifest row
        ("tokens", pa.binary()),  # float16 [n, D]
    ]
)
FAILED_SCHEMA = pa.schema([("clip_id", pa.string()), ("frame", pa.int32()), ("reason", pa.string())])
WHOLE = -1  # in the place of a frame


class Item(NamedTuple):
    """What tokens are wanted of: a frame of a video, or (WHOLE) the clip in its middle."""

    clip_id: str
    frame: int
    source_sha256: str


class DenseSettings(NamedTuple):
    """What all tokens of a folder have in common."""

    model_sha256: str
    preprocessing: Preprocessing
    precision: str
    width: int  # D
    tokens: int  # n of each item

    def to_dict(self) -> dict[str, Any]:
        return {
            "model_sha256": self.model_sha256,
            "preprocessing_sha256": self.preprocessing.sha256,
            "precision": self.precision,
            "width": self.width,
            "tokens": self.tokens,
        }


class Moment(NamedTuple):
    """The clip around a frame."""

    indices: Indices  # [T], source frames
    place: int  # of the frame among them


def moment_of(row: Mapping[str, Any], frame: int, preprocessing: Preprocessing) -> Moment:
    """The clip of an encoder's training that has a frame in its middle, or as near to it as the video allows.

    Where the stride would step over the frame, the nearest frame of the clip gives way to it.

    Args:
        row: of the manifest.
        frame: of the source; WHOLE: the clip in the middle of the video, whose place is 0.
    Errors:
        ClipError: as of data.window.choose_window.
    """
    if frame == WHOLE:
        return Moment(choose_window(row["num_frames"], row["fps"], preprocessing.data, 0.5).indices, 0)
    indices = choose_window(row["num_frames"], row["fps"], preprocessing.data, 0.0).indices
    free = max(1, row["num_frames"] - int(indices.max()))
    indices = indices + int(np.clip(frame - indices[len(indices) // 2], 0, free - 1))
    place = int(np.abs(indices - frame).argmin())
    indices[place] = frame
    return Moment(indices, place)


class DecodedMoment(NamedTuple):
    """A moment's frames, or why there are none. `outage`: the storage did not answer, no fault of the video."""

    frames: Frames | None = None  # [T, S, S]
    place: int = 0
    reason: str = ""
    outage: str = ""


def decode_moment(row: Mapping[str, Any], frame: int, preprocessing: Preprocessing) -> DecodedMoment:
    """Read, check and decode the clip around a frame; `row` has microbatch.COLUMNS."""
    try:
        moment = moment_of(row, frame, preprocessing)
        return DecodedMoment(load_frames(row, preprocessing.data, moment.indices), moment.place)
    except ClipError as error:
        return DecodedMoment(reason=without_path(error, row["uri"]) or "no reason given")
    except StorageError as error:
        return DecodedMoment(outage=without_path(error, row["uri"]))


def tokens_per_frame(encoder: PretrainedEncoder) -> int:
    spec = encoder.card.encoder
    return spec.grid[1] * spec.grid[2]


def tokens_per_clip(encoder: PretrainedEncoder) -> int:
    return min(TIME_PARTS, encoder.card.encoder.grid[0]) * tokens_per_frame(encoder)


def dense_tokens(
    encoder: PretrainedEncoder, frames: Frames, places: Sequence[int], whole: bool, precision: str
) -> FeatureArray:
    """Tokens of grey clips [n, T, S, S], computed on the encoder's device.

    Args:
        places: [n], frame of each clip whose tubelet is wanted.
        whole: the clips' tokens instead, the mean over each of TIME_PARTS parts of the time.
    Returns:
        [n, tokens, D] fp32; tokens run along time, rows and columns.
    """
    import torch

    spec = encoder.card.encoder
    time, height, width = spec.grid
    batch = torch.from_numpy(np.array(frames)).to(encoder.mean.device)
    with torch.inference_mode(), torch.autocast(batch.device.type, torch.bfloat16, enabled=precision == "bf16"):
        found = encoder(batch).patches.float()
    grid = found.unflatten(1, (time, height * width))  # [n, t, h w, D]
    if whole:
        parts = [part.mean(dim=1) for part in grid.tensor_split(min(TIME_PARTS, time), dim=1)]
        return np.asarray(torch.cat(parts, dim=1).cpu().numpy(), np.float32)
    chosen = torch.tensor([place // spec.tubelet_size for place in places], device=grid.device)
    return np.asarray(grid[torch.arange(len(places), device=grid.device), chosen].cpu().numpy(), np.float32)


class DenseFolder:
    """A folder that is being filled; may be sent to other processes. `uri` is absolute."""

    def __init__(self, uri: str, settings: DenseSettings) -> None:
        self.uri = uri
        self.settings = settings

    def claim(self) -> None:
        """Make the folder these settings', or refuse.

        Errors:
            FeaturesError: it is of others; names what differs. StorageError: it cannot be read or written.
        """
        uri, wanted = storage.join(self.uri, SETTINGS_FILE), self.settings.to_dict()
        if not storage.exists(uri):
            storage.write_bytes(uri, (json.dumps(wanted, indent=1) + "\n").encode())
            return
        try:
            found = dict(json.loads(storage.read_bytes(uri)))
        except (ValueError, TypeError) as error:
            raise FeaturesError(f"{uri}: not the settings of a folder of tokens: {error}") from error
        differing = [f"{name} {found.get(name)} there, {value} now" for name, value in wanted.items()]
        differing = [text for text, name in zip(differing, wanted, strict=True) if found.get(name) != wanted[name]]
        if differing:
            raise FeaturesError(f"{self.uri}: holds tokens of another encoder or preparation: {'; '.join(differing)}")

    def write_part(self, items: Sequence[Item], tokens: FeatureArray) -> None:
        """Write the tokens [n, N, D] of some items as one part, whole or not at all; same items, same name.

        Errors:
            FeaturesError: a value is not finite as a 16-bit float; names the video.
        """
        with np.errstate(over="ignore"):
            half = tokens.astype(np.float16)
        bad = [item.clip_id for item, of in zip(items, half, strict=True) if not np.isfinite(of).all()]
        if bad:
            raise FeaturesError(f"patch tokens that are not finite (NaN, infinite or above 65504), of clip {bad[0]!r}")
        columns = [*zip(*items, strict=True), [of.tobytes() for of in half]]
        table = pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
        name = hashlib.sha256(repr(list(items)).encode()).hexdigest()[:20]
        storage.write_bytes(storage.join(self.uri, PARTS_FOLDER, f"{name}.parquet"), _parquet(table))

    def write_failed(self, reasons: Mapping[Item, str]) -> None:
        rows = [{"clip_id": item.clip_id, "frame": item.frame, "reason": text} for item, text in reasons.items()]
        table = pa.Table.from_pylist(sorted(rows, key=lambda row: (row["clip_id"], row["frame"])), FAILED_SCHEMA)
        storage.write_bytes(storage.join(self.uri, FAILED_FILE), _parquet(table))

    def done(self) -> set[Item]:
        """What is in a part."""
        return {Item(*row.values()) for part in self._parts(Item._fields) for row in part.to_pylist()}

    def read(self, items: Sequence[Item]) -> npt.NDArray[np.float16]:
        """Tokens of items, in their order: [n, N, D]. Errors: as of `stream`."""
        found = np.zeros((len(items), self.settings.tokens, self.settings.width), np.float16)
        for places, tokens in self.stream(items):
            found[places] = tokens
        return found

    def stream(self, items: Sequence[Item]) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.float16]]]:
        """Tokens of items part by part: places among the items [k], and their tokens [k, N, D]; each item once.

        Errors:
            FeaturesError: an item is in no part, or a part is damaged.
        """
        shape = self.settings.tokens, self.settings.width
        missing = {item: place for place, item in enumerate(items)}
        for part in self._parts(SCHEMA.names):
            places, tokens = [], []
            for row in part.to_pylist():
                item = Item(row["clip_id"], row["frame"], row["source_sha256"])
                if item in missing:
                    places.append(missing.pop(item))
                    tokens.append(self._array(row["tokens"], shape))
            if places:
                yield np.array(places), np.stack(tokens)
        if missing:
            raise FeaturesError(f"{self.uri}: {len(missing)} of {len(items)} items have no tokens: {min(missing)}")

    def _array(self, content: bytes, shape: tuple[int, int]) -> npt.NDArray[np.float16]:
        values = np.frombuffer(content, np.float16)
        if values.size != shape[0] * shape[1]:
            raise FeaturesError(f"{self.uri}: {values.size} values of an item, {shape[0]} x {shape[1]} expected")
        return values.reshape(shape)

    def _parts(self, columns: Sequence[str]) -> Iterable[pa.Table]:
        folder = storage.join(self.uri, PARTS_FOLDER)
        uris = [storage.join(folder, name) for name in storage.list_sizes(folder) if name.endswith(".parquet")]

        def read(uri: str) -> pa.Table:
            try:
                return pq.read_table(pa.BufferReader(storage.read_bytes(uri)), columns=list(columns))
            except (pa.ArrowInvalid, OSError) as error:
                raise FeaturesError(
                    f"{uri}: damaged: {error}; remove it, and the same command makes it anew"
                ) from error

        with ThreadPoolExecutor(READ_THREADS) as pool:
            for start in range(0, len(uris), READ_THREADS):  # a pool reads all that it is given, however slow we are
                yield from pool.map(read, uris[start : start + READ_THREADS])


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())
