"""A table of one's own: CSV or Parquet, a line per file, with a map from the manifest's fields to its columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from discovr_ray.data import storage
from discovr_ray.data.adapters.listing import Adapter, AdapterOptions, Found, Note, Row
from discovr_ray.data.adapters.table_file import (
    Label,
    Line,
    as_json,
    cell_number,
    cell_value,
    check_columns,
    grouped,
    made,
    only,
    read_table,
    stem,
    suggestion,
)
from discovr_ray.data.formats.policy import ID_KEY
from discovr_ray.errors import ManifestError

FIELDS = ("uri", "clip_id", "patient_id", "split", "view", "fps")
LABEL = "labels."  # in front of a label's name
LINES_AT_ONCE = 10_000  # of a Parquet file


class OwnTable(Adapter):
    name = "table"
    help = "your own .csv or .parquet with a line per file; --columns uri=path,patient_id=id,labels.ef=EF,..."

    def recognises(self, source: str) -> bool:
        return source.lower().endswith((".csv", ".parquet")) and storage.exists(source)

    def list_clips(self, source: str, options: AdapterOptions) -> Iterator[Found]:
        check_fields(options.columns)
        with (_parquet if source.lower().endswith(".parquet") else read_table)(source) as (found, lines):
            columns = {name: name for name in FIELDS if name in found} | dict(options.columns)
            if "uri" not in columns:
                near = suggestion(["path", "file"], found)
                raise ManifestError(f"{source}: no column uri; say which one it is with --columns uri=...{near}")
            check_columns(source, columns.values(), found)
            yield from _rows(source, lines, columns, options)


def _rows(source: str, lines: Iterator[Line], columns: Mapping[str, str], options: AdapterOptions) -> Iterator[Found]:
    def row(place: str, uri: str, lines: list[Line]) -> Row:
        line = only(lines)
        return _row(place, uri, {name: line[column].strip() for name, column in columns.items()}, options)

    folder, _, table = source.rpartition("/")
    num_without_uri = 0

    def with_uri() -> Iterator[Line]:
        nonlocal num_without_uri
        for line in lines:
            if line[columns["uri"]].strip():
                yield line
            else:
                num_without_uri += 1

    for place, of_place in grouped(with_uri(), lambda line: line[columns["uri"]].strip()):
        yield made(table, place, _absolute(place, folder), of_place, row)
    yield from (Note(text) for text in _notes(columns, options, num_without_uri))


def _row(place: str, uri: str, cells: Mapping[str, str], options: AdapterOptions) -> Row:
    labels: dict[str, Label] = {
        name.removeprefix(LABEL): cell_value(text) for name, text in cells.items() if name.startswith(LABEL) and text
    }
    return Row(
        cells.get("clip_id") or stem(place),
        uri,
        options.private_id(cells.get("patient_id", "")),
        options.split_of(cells.get("split", "")),
        cells.get("view", ""),
        as_json(labels),
        fps=cell_number(cells, "fps") or 0.0,
        names_clip=bool(cells.get("clip_id")),
    )


def check_fields(columns: Mapping[str, str]) -> None:
    """Refuses a map to something that is no field.

    Errors:
        ManifestError: names the nearest field.
    """
    unknown = [name for name in columns if name not in FIELDS and not (name.startswith(LABEL) and name != LABEL)]
    if unknown:
        known = (*FIELDS, f"{LABEL}NAME")
        raise ManifestError(f"--columns {', '.join(unknown)}: no field of this name{suggestion(unknown, known)}")


def _absolute(place: str, folder: str) -> str:
    """Places are absolute, s3://, or below the table's folder."""
    is_absolute = place.startswith(("/", "~")) or "://" in place
    return storage.absolute(place) if is_absolute else storage.join(folder, place)


@contextmanager
def _parquet(source: str) -> Iterator[tuple[list[str], Iterator[Line]]]:
    """(columns, lines) as of read_table."""
    with storage.open_file(source) as content:
        try:
            file = pq.ParquetFile(content)
        except pa.ArrowInvalid as error:
            raise ManifestError(f"{source}: not a Parquet file: {error}") from error
        yield (
            list(file.schema_arrow.names),
            (
                {name: _text(value) for name, value in line.items()}
                for batch in file.iter_batches(LINES_AT_ONCE)
                for line in batch.to_pylist()
            ),
        )


def _text(value: Any) -> str:
    """A typed cell as its text; a whole number that pandas kept as a float, because of gaps, without its .0"""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _notes(columns: Mapping[str, str], options: AdapterOptions, num_without_uri: int) -> list[str]:
    notes = ["columns: " + ", ".join(f"{name} = {column}" for name, column in columns.items())]
    if "split" in columns:
        notes.append(f"{options.folds_note()} (where the split is a number)")
    if "patient_id" in columns:
        notes.append(f"patients: {'hashed with' if options.id_key else 'as in the table, hashed if there is'} {ID_KEY}")
    if num_without_uri:
        notes.append(f"lines that name no file: {num_without_uri}")
    return notes
