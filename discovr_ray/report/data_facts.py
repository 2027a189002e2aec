"""What the rows of a manifest tell, all of them, without opening a single video."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from discovr_ray.config import DataConfig
from discovr_ray.data import storage
from discovr_ray.data.window import choose_window
from discovr_ray.errors import ManifestError
from discovr_ray.report.data_labels import (
    MAX_CLASSES,
    Counts,
    Histogram,
    count_by_split,
    histogram,
    read_labels,
    split_rank,
)

EXAMPLES = 3
NONE = "none"  # the name of the empty split, and of the empty view
# what a reason may quote of a source: addresses, values in quotes, numbers. The rest is what repeats. Names of files
# may hold spaces, quotes and colons, so an address goes on to the next colon or quote that ends a word.
_ADDRESS = re.compile(r"(\b[a-z][a-z0-9]*://|(?<![\w.])~?/)([^:'\"]|[:'\"](?![\s,;.)]|$))+")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_NUMBER = re.compile(r"\d+(\.\d+)?(e[-+]?\d+)?")


@dataclass(frozen=True)
class Overlap:
    """What should be in one place and is in several."""

    groups: int  # patients, or contents
    clips: int
    examples: list[list[str]]  # of a few groups: clip ids with their splits


@dataclass(frozen=True)
class DataFacts:
    num_clips: int
    num_patients: int
    hours: float
    num_bytes: int
    splits: Counts
    patients: Counts  # split -> patients
    views: dict[str, Counts]  # view -> split -> clips
    formats: dict[str, Counts]
    classes: dict[str, dict[str, Counts]]  # label with few values -> value -> split -> clips
    texts: Counts  # label with many texts -> how many different ones
    figures: dict[str, Histogram]  # fps, frames, seconds, and pixels of the short side
    measures: dict[str, Histogram]  # labels that are numbers
    sizes: Counts  # such as 112 x 112 -> clips, the most frequent ones
    short_clips: int  # on which a window of `window_frames` does not fit
    window_frames: int
    patients_in_splits: Overlap  # patients with clips in several splits
    contents_in_splits: Overlap  # equal files in several splits
    equal_contents: Overlap  # equal files
    rejected: Counts | None  # reason -> files; None: there is no rejected.parquet beside the manifest


def read_facts(table: pa.Table, data: DataConfig, rejected: Counts | None) -> DataFacts:
    """Count what is in a manifest; `data` says how long a clip should be."""
    splits = _names(table["split"])
    num_frames, fps = (table[name].to_numpy().astype(np.float64) for name in ("num_frames", "fps"))
    heights, widths = table["height"].to_numpy(), table["width"].to_numpy()
    labels = read_labels(table["labels"].to_pylist(), splits)
    figures = {"fps": fps, "frames": num_frames, "seconds": num_frames / fps, "pixels": np.minimum(heights, widths)}
    sizes = Counter(zip(heights.tolist(), widths.tolist(), strict=True)).most_common(MAX_CLASSES)
    known = table.filter(pc.not_equal(table["patient_id"], ""))
    patients = known.select(["patient_id", "split"]).group_by(["patient_id", "split"]).aggregate([])
    in_a_split = table.filter(pc.not_equal(table["split"], ""))
    return DataFacts(
        num_clips=table.num_rows,
        num_patients=len(pc.unique(known["patient_id"])),
        hours=float((num_frames / fps).sum()) / 3600,
        num_bytes=int(table["num_bytes"].to_numpy().sum()),
        splits=dict(sorted(Counter(splits).items(), key=lambda item: split_rank(item[0]))),
        patients=dict(Counter(_names(patients["split"]))),
        views=count_by_split(_names(table["view"]), splits),
        formats=count_by_split(table["format"].to_pylist(), splits),
        classes=labels.classes,
        texts=labels.texts,
        figures={name: found for name, values in figures.items() if (found := histogram(values, splits))},
        measures={name: found for name, values in labels.numbers.items() if (found := histogram(values, splits))},
        sizes={f"{height} x {width}": count for (height, width), count in sizes},
        short_clips=_short_clips(table, data),
        window_frames=data.num_frames,
        patients_in_splits=_overlap(
            in_a_split.filter(pc.not_equal(in_a_split["patient_id"], "")), "patient_id", "split"
        ),
        contents_in_splits=_overlap(in_a_split, "sha256", "split"),
        equal_contents=_overlap(table, "sha256", "clip_id"),
        rejected=rejected,
    )


def read_rejected(manifest_uri: str) -> Counts | None:
    """Reasons in the rejected.parquet beside a manifest, most frequent first; None where there is none.

    Errors:
        ManifestError: it is no table with the columns `uri` and `reason`.
    """
    uri = storage.join(storage.absolute(manifest_uri).rpartition("/")[0], "rejected.parquet")
    if not storage.exists(uri):
        return None
    try:
        rows = pq.read_table(pa.BufferReader(storage.read_bytes(uri)), columns=["uri", "reason"]).to_pylist()
        reasons = [str(row["reason"]).replace(row["uri"] or "\0", "…") for row in rows]
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise ManifestError(f"{uri}: no table of rejected files: {error}") from error
    return dict(Counter(map(general, reasons)).most_common())


def general(reason: str) -> str:
    """A reason without what is one file's own: so that equal ones can be counted, and no source is named."""
    return _NUMBER.sub("#", without_sources(reason))


def without_sources(reason: str) -> str:
    """A reason without addresses and quoted values."""
    return _QUOTED.sub("'…'", _ADDRESS.sub("…", reason))


def _names(column: pa.ChunkedArray) -> list[str]:
    return [text or NONE for text in column.to_pylist()]


def _short_clips(table: pa.Table, data: DataConfig) -> int:
    """Clips on which the window of `data` does not fit."""
    strict = replace(data, short_clip="repeat_last")  # pads whatever is missing
    lengths = Counter(zip(table["num_frames"].to_pylist(), table["fps"].to_pylist(), strict=True))
    return sum(
        count
        for (num_frames, fps), count in lengths.items()
        if num_frames < 2 or choose_window(num_frames, fps, strict, 0.0).num_padded
    )


def _overlap(table: pa.Table, key: str, spread: str) -> Overlap:
    """Groups of rows with the same `key` in which `spread` has several values."""
    groups = table.group_by(key).aggregate([(spread, "count_distinct"), (key, "count")])
    several = groups.filter(pc.greater(groups[f"{spread}_count_distinct"], 1))
    examples = []
    for value in several[key].to_pylist()[:EXAMPLES]:
        rows = table.filter(pc.equal(table[key], value)).select(["clip_id", "split"]).to_pylist()
        first = {row[spread]: f"{row['clip_id']} ({row['split'] or NONE})" for row in reversed(rows)}
        examples.append(sorted(first.values())[: 2 * EXAMPLES])
    return Overlap(several.num_rows, int(pc.sum(several[f"{key}_count"]).as_py() or 0), examples)
