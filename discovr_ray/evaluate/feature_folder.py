"""The folder of embeddings: settings, parts of the table of clips, and at the end the table of videos.

embedding.json     which encoder and preparation; written first, and held against every later call
clips/*.parquet    features.clips_schema; each part whole or not there, so a killed job goes on with what is missing
failed.parquet     videos that could not be embedded, with the reason
videos.parquet     features.videos_schema; written last, when every video is in it or in failed.parquet
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from discovr_ray.data import storage
from discovr_ray.errors import FeaturesError
from discovr_ray.evaluate.embedding import Decoded, Preprocessing
from discovr_ray.evaluate.features import (
    CLIPS_FOLDER,
    VIDEOS_FILE,
    FeatureArray,
    check_finite,
    clips_schema,
    matrix,
    videos_schema,
)

logger = logging.getLogger(__name__)

SETTINGS_FILE = "embedding.json"
FAILED_FILE = "failed.parquet"
FAILED_SCHEMA = pa.schema([("clip_id", pa.string()), ("split", pa.string()), ("reason", pa.string())])
READ_THREADS = 16  # parts read at once


class Failure(NamedTuple):
    clip_id: str
    split: str
    reason: str


@dataclass(frozen=True)
class FolderSettings:
    """What all features of a folder have in common."""

    model_sha256: str
    width: int  # D
    preprocessing: Preprocessing
    precision: str
    encoder: str  # as it was named; the only field that later calls may have different

    def to_dict(self) -> dict[str, Any]:
        plain = json.loads(json.dumps(dataclasses.asdict(self)))
        return {**plain, "preprocessing_sha256": self.preprocessing.sha256}


class FeatureFolder:
    """A folder that is being filled; may be sent to other processes. `uri` is absolute."""

    def __init__(self, uri: str, settings: FolderSettings) -> None:
        self.uri = uri
        self.settings = settings
        self.schema = clips_schema(settings.width)

    def claim(self) -> None:
        """Make the folder this encoder's and this preparation's.

        Errors:
            FeaturesError: it is another's already; names what differs.
            StorageError: it cannot be read or written.
        """
        uri = storage.join(self.uri, SETTINGS_FILE)
        if storage.exists(uri):
            _refuse_others(_read_settings(uri), self.settings.to_dict(), self.uri)
            return
        if _parts(self.uri) or storage.exists(storage.join(self.uri, VIDEOS_FILE)):
            raise FeaturesError(f"{self.uri}: holds features without {SETTINGS_FILE}; choose another folder")
        storage.write_bytes(uri, (json.dumps(self.settings.to_dict(), indent=2) + "\n").encode())

    def done(self) -> set[tuple[str, str]]:
        """(clip_id, source_sha256) of the videos that are in a part."""
        found: set[tuple[str, str]] = set()
        for part in self._read_parts(["clip_id", "source_sha256", "model_sha256", "preprocessing_sha256"]):
            found.update(zip(part["clip_id"].to_pylist(), part["source_sha256"].to_pylist(), strict=True))
        return found

    def rows_of(
        self, clip_id: str, source_sha256: str, decoded: Decoded, cls: FeatureArray, patches: FeatureArray
    ) -> pa.Table:
        """A video's rows of a part; cls and patches [k, D] are of its k temporal clips.

        Errors:
            FeaturesError: a value is not finite; names the video.
        """
        count = len(cls)
        for name, values in (("cls", cls), ("patches", patches)):
            check_finite([clip_id] * count, values, f"{self.settings.encoder}: {name}")
        columns = {
            "clip_id": [clip_id] * count,
            "source_sha256": [source_sha256] * count,
            "window": range(count),
            "first_frame": decoded.first_frames,
            "padded_frames": decoded.padded_frames,
            "cls": _lists(cls),
            "patches": _lists(patches),
            "model_sha256": [self.settings.model_sha256] * count,
            "preprocessing_sha256": [self.settings.preprocessing.sha256] * count,
        }
        return pa.table([pa.array(columns[item.name], item.type) for item in self.schema], schema=self.schema)

    def write_part(self, videos: Sequence[pa.Table]) -> None:
        """Write the rows of some videos as one part, whole or not at all. The same videos make the same name."""
        if not videos:
            return
        table = pa.concat_tables(videos)
        named = "\n".join([*table["clip_id"].to_pylist(), *table["source_sha256"].to_pylist()])
        name = hashlib.sha256(named.encode()).hexdigest()[:20]
        storage.write_bytes(storage.join(self.uri, CLIPS_FOLDER, f"{name}.parquet"), _parquet(table))

    def reopen(self) -> None:
        """Take the table of videos away before the first part is added: what is there must be finished."""
        storage.remove_tree(storage.join(self.uri, VIDEOS_FILE))

    def write_failed(self, failures: Sequence[Failure]) -> None:
        rows = [failure._asdict() for failure in sorted(failures)]
        storage.write_bytes(
            storage.join(self.uri, FAILED_FILE), _parquet(pa.Table.from_pylist(rows, schema=FAILED_SCHEMA))
        )

    def finish(self, clips: pa.Table, sources: Mapping[str, str], failures: Sequence[Failure]) -> int:
        """Average every video's clips and write the table of videos; returns the number of temporal clips in it.

        Args:
            clips: all manifest rows; what patients, splits and labels are is taken from here.
            sources: clip_id -> source_sha256 of each of them.
        Errors:
            FeaturesError: a video is neither in a part nor among the failures, or in both.
        """
        places = {clip_id: place for place, clip_id in enumerate(clips["clip_id"].to_pylist())}
        wanted = {clip_id: source for clip_id, source in sources.items() if clip_id in places}
        for failure in failures:
            if wanted.pop(failure.clip_id, None) is None:
                raise FeaturesError(f"clip {failure.clip_id!r} failed, but is no clip of the manifest, or failed twice")
        num_clips = 0
        with tempfile.TemporaryDirectory(prefix="discovr-features-") as folder:
            local = str(Path(folder, VIDEOS_FILE))
            with pq.ParquetWriter(local, videos_schema(self.settings.width), compression="zstd") as writer:
                for part in self._read_parts():
                    for_now = _take(part, wanted)
                    if for_now.num_rows:
                        num_clips += for_now.num_rows
                        writer.write_table(self._average(for_now, clips, places))
            if wanted:
                raise FeaturesError(
                    f"{self.uri}: {len(wanted)} of {len(places)} videos have neither features nor a reason, such as "
                    f"{next(iter(wanted))!r}; the same command again embeds them"
                )
            storage.put_file(local, storage.join(self.uri, VIDEOS_FILE))
        return num_clips

    def _average(self, part: pa.Table, clips: pa.Table, places: Mapping[str, int]) -> pa.Table:
        """`places`: clip_id -> row of `clips`."""
        ids, starts, counts = np.unique(np.array(part["clip_id"].to_pylist()), return_index=True, return_counts=True)
        order = np.argsort(starts)  # a part's rows lie video by video
        ids, starts, counts = ids[order].tolist(), starts[order], counts[order]
        padded = np.add.reduceat(part["padded_frames"].to_numpy(), starts)
        means = {
            name: np.add.reduceat(matrix(part[name]).astype(np.float64), starts) / counts[:, None]
            for name in ("cls", "patches")
        }
        rows = clips.take(pa.array([places[clip_id] for clip_id in ids]))
        columns = {
            **{name: rows[name].to_pylist() for name in ("clip_id", "patient_id", "split", "labels")},
            "num_clips": counts,
            "padded_frames": padded,
            **{name: _lists(values.astype(np.float32)) for name, values in means.items()},
            "model_sha256": [self.settings.model_sha256] * len(ids),
            "preprocessing_sha256": [self.settings.preprocessing.sha256] * len(ids),
        }
        schema = videos_schema(self.settings.width)
        return pa.table([pa.array(columns[item.name], item.type) for item in schema], schema=schema)

    def _read_parts(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        with ThreadPoolExecutor(READ_THREADS) as pool:
            yield from pool.map(lambda uri: self._read_part(uri, columns), _parts(self.uri))

    def _read_part(self, uri: str, columns: list[str] | None) -> pa.Table:
        try:
            table = pq.read_table(pa.BufferReader(storage.read_bytes(uri)), columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            raise FeaturesError(
                f"{uri}: damaged: {error}; remove it, and the same command embeds its videos"
            ) from error
        of = {"model_sha256": self.settings.model_sha256, "preprocessing_sha256": self.settings.preprocessing.sha256}
        for name, expected in of.items():
            if name not in table.column_names or pc.unique(table[name]).to_pylist() != [expected]:
                raise FeaturesError(f"{uri}: its {name} is not that of the folder's {SETTINGS_FILE}; remove it")
        return table


def _parts(uri: str) -> list[str]:
    folder = storage.join(uri, CLIPS_FOLDER)
    return [storage.join(folder, name) for name in storage.list_sizes(folder) if name.endswith(".parquet")]


def _take(part: pa.Table, wanted: dict[str, str]) -> pa.Table:
    """Rows of the videos that are still wanted, which they are no more then."""
    pairs = dict(zip(part["clip_id"].to_pylist(), part["source_sha256"].to_pylist(), strict=True))
    taken = [clip_id for clip_id, source in pairs.items() if wanted.get(clip_id) == source]
    for clip_id in taken:
        del wanted[clip_id]
    return part.filter(pc.is_in(part["clip_id"], pa.array(taken, pa.string())))


def _lists(values: FeatureArray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), pa.float32()), values.shape[1])


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def _read_settings(uri: str) -> dict[str, Any]:
    try:
        settings = json.loads(storage.read_bytes(uri))
    except ValueError as error:
        raise FeaturesError(f"{uri}: not JSON: {error}; choose another folder") from error
    if not isinstance(settings, dict):
        raise FeaturesError(f"{uri}: not the settings of a folder of features; choose another folder")
    return settings


def _refuse_others(found: dict[str, Any], wanted: dict[str, Any], uri: str) -> None:
    differing = []
    for name in ("model_sha256", "precision", *wanted["preprocessing"]):
        old, new = (values.get(name, values.get("preprocessing", {}).get(name)) for values in (found, wanted))
        if old != new:
            differing.append(f"{name} {old} there, {new} now")
    if not differing and found.get("preprocessing_sha256") != wanted["preprocessing_sha256"]:
        differing.append("preprocessing_sha256")
    if differing:
        raise FeaturesError(
            f"{uri}: holds features of encoder {found.get('encoder')!r}, and they are never mixed with others: "
            f"{'; '.join(differing)}; choose another folder"
        )
