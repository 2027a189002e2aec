"""Features of a frozen encoder on their way from `jobs/embed.py` to the probes: two Parquet schemas, one reader."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from discovr_ray.data import storage
from discovr_ray.data.manifest import SPLITS
from discovr_ray.errors import FeaturesError, StorageError

VIDEOS_FILE = "videos.parquet"  # in the folder of embeddings: one row per video; its being there means: finished
CLIPS_FOLDER = "clips"  # beside it, parts of one table: one row per temporal clip

FeatureArray = npt.NDArray[np.float32]


class Features(NamedTuple):
    """One row a VIDEO, sorted by clip_id; all of one encoder and one preprocessing, all finite."""

    clip_ids: list[str]
    patient_ids: list[str]
    splits: list[str]  # TRAIN, VAL, TEST or ""
    labels: list[dict[str, str | float | bool]]  # one dict a row, as in the manifest's JSON
    cls: FeatureArray  # [n, D], mean over the video's temporal clips
    patches: FeatureArray  # [n, D], mean patch feature, likewise
    model_sha256: str  # EncoderCard.model_sha256
    preprocessing_sha256: str  # evaluate.embedding.Preprocessing.sha256


def videos_schema(width: int) -> pa.Schema:
    """Of videos.parquet; `width` is D."""
    return pa.schema(
        [
            ("clip_id", pa.string()),  # unique
            ("patient_id", pa.string()),
            ("split", pa.string()),
            ("labels", pa.string()),  # a JSON object
            ("num_clips", pa.int32()),  # temporal clips that were averaged
            ("padded_frames", pa.int32()),  # of all of them, frames that repeat another one
            ("cls", pa.list_(pa.float32(), width)),
            ("patches", pa.list_(pa.float32(), width)),
            ("model_sha256", pa.string()),
            ("preprocessing_sha256", pa.string()),
        ]
    )


def clips_schema(width: int) -> pa.Schema:
    """Of a part of the table of temporal clips; all clips of a video are in one part, in order of `window`."""
    return pa.schema(
        [
            ("clip_id", pa.string()),  # of the video
            ("source_sha256", pa.string()),  # evaluate.embedding.source_sha256 of the video's manifest row
            ("window", pa.int32()),  # 0, 1, ... along the video
            ("first_frame", pa.int32()),  # of the source
            ("padded_frames", pa.int32()),  # frames that repeat another one because the video is too short
            ("cls", pa.list_(pa.float32(), width)),
            ("patches", pa.list_(pa.float32(), width)),
            ("model_sha256", pa.string()),
            ("preprocessing_sha256", pa.string()),
        ]
    )


def read_features(folder_or_uri: str) -> Features:
    """Features of a folder of embeddings, or of a videos.parquet, local or remote.

    Errors:
        FeaturesError: no finished embeddings there, a column is missing or of another type, a clip comes twice, rows
            of several models or preprocessings, or a value that is not finite (names the clip).
    """
    uri = storage.absolute(folder_or_uri)
    if not uri.endswith(".parquet"):
        uri = storage.join(uri, VIDEOS_FILE)
    try:
        table = pq.read_table(pa.BufferReader(storage.read_bytes(uri)))
    except StorageError as error:
        raise FeaturesError(f"{error}; jobs/embed.py writes it when all videos are done") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise FeaturesError(f"{uri}: not a Parquet file: {error}") from error
    table = _typed(table, uri).sort_by("clip_id")
    ids = table["clip_id"].to_pylist()
    _check_rows(table, ids, uri)
    features = Features(
        clip_ids=ids,
        patient_ids=table["patient_id"].to_pylist(),
        splits=table["split"].to_pylist(),
        labels=[_labels(text, clip_id, uri) for text, clip_id in zip(table["labels"].to_pylist(), ids, strict=True)],
        cls=matrix(table["cls"]),
        patches=matrix(table["patches"]),
        model_sha256=table["model_sha256"][0].as_py(),
        preprocessing_sha256=table["preprocessing_sha256"][0].as_py(),
    )
    for name, values in (("cls", features.cls), ("patches", features.patches)):
        check_finite(ids, values, f"{uri}: {name}")
    return features


def check_finite(clip_ids: Sequence[str], values: FeatureArray, what: str) -> None:
    """Refuse features [n, D] with a NaN or an infinity.

    Errors:
        FeaturesError: names `what` and the first clips.
    """
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        named = ", ".join(repr(clip_ids[row]) for row in bad[:3])
        raise FeaturesError(f"{what}: features that are not finite (NaN or infinite) of {len(bad)} clip(s): {named}")


def check_comparable(first: Features, second: Features) -> None:
    """Refuse to compare features that different encoders made, or the same one of differently prepared clips.

    Errors:
        FeaturesError: names what differs.
    """
    for name in ("model_sha256", "preprocessing_sha256"):
        ours, theirs = getattr(first, name), getattr(second, name)
        if ours != theirs:
            raise FeaturesError(f"features of different {name}: {ours[:12]} and {theirs[:12]} cannot be compared")


def matrix(column: pa.ChunkedArray) -> FeatureArray:
    """A column of lists of equal length -> [n, D]."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(len(column), -1)


def _typed(table: pa.Table, uri: str) -> pa.Table:
    width = getattr(table.schema.field("cls").type, "list_size", 0) if "cls" in table.column_names else 0
    columns = []
    for field in videos_schema(max(width, 1)):
        if field.name not in table.column_names:
            raise FeaturesError(f"{uri}: column {field.name} is missing; it is no table of features")
        try:
            columns.append(table[field.name].cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise FeaturesError(f"{uri}: column {field.name} must be {field.type}: {error}") from error
        if columns[-1].null_count:
            raise FeaturesError(f"{uri}: column {field.name} holds empty (null) values")
    return pa.table(columns, schema=videos_schema(max(width, 1)))


def _check_rows(table: pa.Table, ids: Sequence[str], uri: str) -> None:
    if not ids:
        raise FeaturesError(f"{uri}: holds no video")
    twice = [one for one, following in pairwise(ids) if one == following]
    if twice:
        raise FeaturesError(f"{uri}: clip {twice[0]!r} comes more than once")
    for name in ("model_sha256", "preprocessing_sha256"):
        found = pc.unique(table[name]).to_pylist()
        if len(found) > 1:
            raise FeaturesError(f"{uri}: rows of {len(found)} different {name}: {', '.join(h[:12] for h in found[:3])}")
    unknown = [split for split in pc.unique(table["split"]).to_pylist() if split not in SPLITS]
    if unknown:
        raise FeaturesError(f"{uri}: split {unknown[0]!r}: must be TRAIN, VAL, TEST or ''")


def _labels(text: str, clip_id: str, uri: str) -> dict[str, Any]:
    try:
        labels = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise FeaturesError(f"{uri}: labels of clip {clip_id!r} are no JSON object: {error}") from error
    if not isinstance(labels, dict):
        raise FeaturesError(f"{uri}: labels of clip {clip_id!r} are no JSON object: {text!r}")
    return labels
