"""MIMIC-IV-Echo: echo-record-list.csv and files/pNN/pSUBJECT/sSTUDY/*.dcm, whole studies of adults, no split.

Layout as on PhysioNet (Gow et al., versions 0.1 to 1.0.1). Structured measurements, of versions from 1.0 on, become
labels when they are asked for by name: the table holds 28 million lines.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from discovr_ray.data import storage
from discovr_ray.data.adapters.listing import Adapter, AdapterOptions, Found, Note, Row
from discovr_ray.data.adapters.table_file import (
    DICOM_SUFFIXES,
    Label,
    Line,
    as_json,
    cell_value,
    file_stem,
    find_files,
    match,
    only,
    read_lines,
    suggestion,
)
from discovr_ray.errors import ManifestError, MissingFileError, StorageError

RECORDS = "echo-record-list.csv"
STUDIES = "echo-study-list.csv"
MEASUREMENTS = ("structured-measurement.csv.gz", "structured-measurement.csv")
MEASURED = ("measurement_id", "measurement", "result")

StudyLabels = dict[str, dict[str, Label]]  # study -> labels


class MimicIvEcho(Adapter):
    name = "mimic_iv_echo"
    help = "MIMIC-IV-Echo: echo-record-list.csv and files/; --measurements lvef,... takes labels from its table"

    def recognises(self, source: str) -> bool:
        return storage.exists(storage.join(source, RECORDS))

    def list_clips(self, source: str, options: AdapterOptions) -> Iterator[Found]:
        lines = read_lines(storage.join(source, RECORDS), ("dicom_filepath", "subject_id", "study_id"))
        measured, notes = _study_labels(source, options.measurements) if options.measurements else ({}, [])

        def row(path: str, uri: str, lines: list[Line]) -> Row:
            line = only(lines)
            study = line["study_id"].strip()
            labels = {"study_id": study} | measured.get(study, {})
            return Row(file_stem(path), uri, line["subject_id"].strip(), "", "", as_json(labels))

        files = find_files([storage.join(source, "files")], DICOM_SUFFIXES, lambda uri: uri[len(source) + 1 :])
        files = files._replace(missing=storage.join(source, "{}"))
        yield from match(RECORDS, lines, lambda line: line["dicom_filepath"].strip().lstrip("/"), files, row)
        yield from (Note(text) for text in notes)


def _study_labels(source: str, names: Sequence[str]) -> tuple[StudyLabels, list[str]]:
    """Values of the named measurements; where a study has several different ones of a name, none."""
    studies = read_lines(storage.join(source, STUDIES), ("study_id", "measurement_id"))
    study_of: dict[str, list[str]] = defaultdict(list)  # measurement -> its studies
    for line in studies:
        if line["measurement_id"].strip():
            study_of[line["measurement_id"].strip()].append(line["study_id"].strip())
    found: dict[tuple[str, str], set[str]] = defaultdict(set)  # (study, name) -> results
    for measurement_id, name, result in _results(source, names):
        for study in study_of.get(measurement_id, ()):
            found[study, name].add(result)
    labels: StudyLabels = defaultdict(dict)
    for (study, name), results in found.items():
        if len(results) == 1:
            labels[study][name] = cell_value(next(iter(results)))
    contradictory = sum(len(results) > 1 for results in found.values())
    note = f"measurements {', '.join(names)}: labels of {len(labels)} studies"
    return labels, [note + (f"; {contradictory} with several values left out" if contradictory else "")]


def _results(source: str, names: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """(measurement_id, name, result) of every line with one of the names."""
    places = [storage.join(source, name) for name in MEASUREMENTS]
    uri = next((place for place in places if storage.exists(place)), "")
    if not uri:
        raise MissingFileError(f"{' or '.join(places)}: no such file; --measurements needs it")
    seen: set[str] = set()
    with _batches(uri) as batches:
        for batch in batches:
            seen.update(pc.unique(batch["measurement"]).to_pylist())
            wanted = batch.filter(pc.is_in(batch["measurement"], pa.array(names)))
            for line in wanted.to_pylist():
                if line["result"].strip():
                    yield line["measurement_id"].strip(), line["measurement"], line["result"].strip()
    unknown = [name for name in names if name not in seen]
    if unknown:
        raise ManifestError(f"{uri}: no measurement {', '.join(unknown)}{suggestion(unknown, seen)}")


@contextmanager
def _batches(uri: str) -> Iterator[Iterator[Any]]:
    """Record batches of the MEASURED columns, as text; about a MB of the table at once."""
    filesystem, path = storage.arrow_filesystem(uri)
    compression = "gzip" if path.endswith(".gz") else None
    parsing = csv.ParseOptions(newlines_in_values=True)
    types = csv.ConvertOptions(column_types=dict.fromkeys(MEASURED, pa.string()), include_columns=MEASURED)
    opened = filesystem.open_input_stream if filesystem else pa.input_stream
    try:
        with opened(path, compression=compression) as stream:
            yield csv.open_csv(stream, parse_options=parsing, convert_options=types)
    except (pa.ArrowInvalid, KeyError) as error:
        raise ManifestError(f"{uri}: not a table with the columns {', '.join(MEASURED)}: {error}") from error
    except OSError as error:
        raise StorageError(f"{uri}: cannot read: {error}") from error
