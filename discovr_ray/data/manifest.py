"""The manifest: one Parquet row per clip, checked once, then trusted by everything behind it."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from discovr_ray.data import storage
from discovr_ray.data.parquet_file import write_parquet
from discovr_ray.errors import ManifestError, StorageError

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),  # unique
        ("uri", pa.string()),  # local path or s3://; relative: to the manifest's folder
        ("format", pa.string()),  # formats.reader.VideoInfo.format
        ("num_frames", pa.int32()),
        ("fps", pa.float64()),
        ("height", pa.int32()),  # pixels
        ("width", pa.int32()),
        ("num_bytes", pa.int64()),  # of the file
        ("sha256", pa.string()),  # of the file, hex
        ("patient_id", pa.string()),
        ("split", pa.string()),  # TRAIN, VAL, TEST or ""
        ("view", pa.string()),
        ("labels", pa.string()),  # a JSON object
        ("offset", pa.int64()),  # the clip is num_bytes of the file from here on; null: the whole file
        ("region", pa.list_(pa.int32())),  # formats.reader.Details.region; null: the whole frame
        ("sector", pa.list_(pa.int32())),  # Details.sector; null: no masking
        ("cm_per_pixel", pa.float64()),  # null: unknown
    ]
)
OPTIONAL = ("offset", "region", "sector", "cm_per_pixel")  # may hold nulls, or be missing
FINGERPRINT_ROWS = 100_000  # at once
SPLITS = ("TRAIN", "VAL", "TEST", "")
KINDS = ("file", "s3", "gs", "gcs", "abfs", "abfss", "az")  # of storage that a manifest may send its readers to
PLACE_RULE = f"set, without '..', and a path or a URI of {', '.join(KINDS)} or of the manifest's own kind"


def read_manifest(uri: str) -> pa.Table:
    """Checked manifest, sorted by clip_id, with absolute uris. Extra columns are left out.

    Errors:
        ManifestError: missing, unreadable, or a column or value breaks a rule; names both.
    """
    uri = storage.absolute(uri)
    try:
        table = pq.read_table(pa.BufferReader(storage.read_bytes(uri)))
    except StorageError as error:
        raise ManifestError(f"manifest {error}") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise ManifestError(f"manifest {uri}: not a Parquet file: {error}") from error
    table = _sorted(_typed(table, uri))
    problems = _broken_rules(table, uri)
    if problems:
        raise ManifestError("\n  - ".join([f"manifest {uri}:", *problems]))
    return with_absolute_uris(table, uri.rpartition("/")[0])


def write_manifest(table: pa.Table, uri: str) -> None:
    """Write rows as a manifest, sorted by clip_id.

    Errors:
        ManifestError: a column or value breaks a rule.
        StorageError: the place cannot be written to.
    """
    write_parquet(checked([_sorted(_typed(table, uri))], uri), SCHEMA, uri)


def checked(parts: Iterable[pa.Table], uri: str) -> Iterator[pa.Table]:
    """Rows on their way into the manifest `uri`, sorted by clip_id.

    Errors:
        ManifestError: a value breaks a rule.
    """
    last = None
    for part in parts:
        problems = _broken_rules(part, uri)
        if part.num_rows:
            first, previous, last = part["clip_id"][0].as_py(), last, part["clip_id"][-1].as_py()
            if first == previous:
                problems.append(f"clip_id must be unique: {first!r} comes more than once")
        if problems:
            raise ManifestError("\n  - ".join([f"manifest {uri}:", *problems]))
        yield part


def select_clips(table: pa.Table, split: str, label_filter: Mapping[str, str | float | bool]) -> pa.Table:
    """Rows of a split ("" takes all) whose labels equal every entry of the filter; a row without the label is left out.

    Errors:
        ManifestError: no row is left, or a labels cell that the filter must read is no JSON object.
    """
    if split:
        chosen = table.filter(pc.equal(table["split"], split))
        if not chosen.num_rows:
            raise ManifestError(f"data.split = {split!r}: no clip has it; clips by split: {_counts(table['split'])}")
        table = chosen
    if not table.num_rows:
        raise ManifestError("the manifest has no clip")
    if not label_filter:
        return table
    chosen = table.filter(_matching(table["labels"], label_filter))
    if not chosen.num_rows:
        raise ManifestError(
            f"data.label_filter = {dict(label_filter)}: no clip matches among {table.num_rows}; "
            + _known_labels(table["labels"].slice(0, 10_000), label_filter)
        )
    return chosen


def read_labels(table: pa.Table) -> list[dict[str, Any]]:
    """The labels of each row.

    Errors:
        ManifestError: a cell is no JSON object.
    """
    return [_parse_labels(text) for text in table["labels"].to_pylist()]


def _matching(column: pa.ChunkedArray, wanted: Mapping[str, str | float | bool]) -> pa.Array:
    """For each row, whether its labels equal every wanted one. Equal texts are read once; nothing read is kept."""
    texts = column.combine_chunks().dictionary_encode()
    matches = np.fromiter((_matches(_parse_labels(str(text)), wanted) for text in texts.dictionary), bool)
    return pa.array(matches[texts.indices.to_numpy()])


def _typed(table: pa.Table, uri: str) -> pa.Table:
    missing = [name for name in SCHEMA.names if name not in table.column_names and name not in OPTIONAL]
    if missing:
        raise ManifestError(f"manifest {uri}: missing column(s) {', '.join(missing)}")
    columns = []
    for field in SCHEMA:
        if field.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        try:
            columns.append(table[field.name].cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ManifestError(f"manifest {uri}: column {field.name} must be {field.type}: {error}") from error
    return pa.table(columns, schema=SCHEMA)


def _sorted(table: pa.Table) -> pa.Table:
    ids = table["clip_id"]
    if table.num_rows < 2 or pc.all(pc.less_equal(ids[:-1], ids[1:])).as_py():
        return table  # what write_manifest wrote: a million rows need no second copy
    return table.sort_by("clip_id")


def _broken_rules(table: pa.Table, uri: str) -> list[str]:
    """One line per violated rule, for the table of manifest `uri`, of the right types and sorted by clip_id."""
    nulls = [name for name in SCHEMA.names if table[name].null_count and name not in OPTIONAL]
    if nulls:
        return [f"column(s) {', '.join(nulls)} hold empty (null) values; use '' for an unknown text"]
    problems = []
    ids = table["clip_id"]
    if table.num_rows > 1:
        repeated = ids[1:].filter(pc.equal(ids[:-1], ids[1:]))
        if len(repeated):
            problems.append(f"clip_id must be unique: {repeated[0].as_py()!r} comes more than once")
    rules = {name: pc.greater(table[name], 0) for name in ("num_frames", "fps", "height", "width", "num_bytes")}
    rules["clip_id"] = pc.not_equal(ids, "")
    rules["uri"] = pc.and_(pc.not_equal(table["uri"], ""), are_trusted_places(table["uri"], uri))
    rules["sha256"] = pc.match_substring_regex(table["sha256"], "^[0-9a-f]{64}$")
    rules["split"] = pc.is_in(table["split"], pa.array(SPLITS))
    for name, fine in rules.items():
        bad = table.filter(pc.invert(fine))
        if bad.num_rows:
            wanted = {"sha256": "64 hex digits", "split": "TRAIN, VAL, TEST or ''", "clip_id": "set", "uri": PLACE_RULE}
            problems.append(
                f"{name} must be {wanted.get(name, 'above 0')}: clip {bad['clip_id'][0].as_py()!r} has "
                f"{bad[name][0].as_py()!r} ({bad.num_rows} such row(s))"
            )
    return problems


def are_trusted_places(uris: pa.ChunkedArray, manifest: str) -> pa.Array:
    """Whether each URI may be read for whoever wrote the table `manifest`, a stranger perhaps.

    A relative one stays below the table's folder. No driver is called that the user did not choose: some of fsspec's
    connect to any host, or unpack what they fetch.
    """
    own = [kind for kind, separator, _ in [manifest.partition("://")] if separator]
    known = "|".join(re.escape(kind) for kind in (*KINDS, *own))
    leaves = pc.match_substring_regex(uris, r"(^|/)\.\.(/|$)")
    foreign = pc.and_(pc.match_substring(uris, "://"), pc.invert(pc.match_substring_regex(uris, f"^({known})://")))
    return pc.invert(pc.or_(pc.or_(leaves, foreign), pc.match_substring(uris, "::")))


def with_absolute_uris(table: pa.Table, folder: str) -> pa.Table:
    """Rows whose relative uris are below `folder` -> the same with absolute ones."""
    is_absolute = pc.match_substring_regex(table["uri"], "^(/|[a-z][a-z0-9]*://)")
    if pc.all(is_absolute).as_py() or not table.num_rows:
        return table
    joined = pc.binary_join_element_wise(pa.scalar(folder), table["uri"], "/")
    return table.set_column(
        SCHEMA.get_field_index("uri"), SCHEMA.field("uri"), pc.if_else(is_absolute, table["uri"], joined)
    )


def _parse_labels(text: str) -> dict[str, Any]:
    try:
        labels = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise ManifestError(f"column labels must hold JSON objects: {text!r}: {error}") from error
    if not isinstance(labels, dict):
        raise ManifestError(f"column labels must hold JSON objects: {text!r}")
    return labels


def _matches(labels: Mapping[str, Any], wanted: Mapping[str, str | float | bool]) -> bool:
    return all(name in labels and labels[name] == value for name, value in wanted.items())


def _known_labels(column: pa.ChunkedArray, wanted: Mapping[str, Any]) -> str:
    labels = [_parse_labels(text) for text in column.to_pylist()]
    names = sorted({name for item in labels for name in item})
    unknown = [name for name in wanted if name not in names]
    if unknown:
        return f"no clip has the label(s) {', '.join(unknown)}; there are: {', '.join(names) or 'none'}"
    values = {name: Counter(str(item[name]) for item in labels if name in item) for name in wanted}
    return "; ".join(f"{name} is one of {', '.join(sorted(found)[:10])}" for name, found in values.items())


def _counts(column: pa.ChunkedArray) -> str:
    return ", ".join(f"{item['values'].as_py()!r}: {item['counts'].as_py()}" for item in pc.value_counts(column))


def fingerprint(clips: pa.Table) -> str:
    """SHA-256 over ids and contents of the clips, in order: equal for the same clips wherever they lie."""
    digest = hashlib.sha256()
    for start in range(0, clips.num_rows, FINGERPRINT_ROWS):  # not the table's own chunks: those say nothing
        part = clips.slice(start, FINGERPRINT_ROWS)
        for name in ("clip_id", "sha256"):
            digest.update("\n".join(part[name].to_pylist()).encode())
    return digest.hexdigest()
