"""EchoNet-Pediatric: {A4C,PSAX}/FileList.csv, VolumeTracings.csv and Videos/*.avi, children's hearts in two views.

Layout as published with Reddy et al., "Video-based deep learning for automated assessment of left ventricular ejection
fraction in pediatric patients" (JASE 2023). Its splits are ten folds for cross-validation; which of them are TRAIN,
VAL and TEST is the user's choice. The same child may be in both views.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from discovr_ray.data import storage
from discovr_ray.data.adapters import polygons
from discovr_ray.data.adapters.listing import Adapter, AdapterOptions, Found, Note, Row
from discovr_ray.data.adapters.table_file import (
    VIDEO_SUFFIXES,
    Label,
    Line,
    as_json,
    cell_value,
    file_stem,
    find_files,
    has_columns,
    match,
    numbers,
    only,
    read_lines,
)
from discovr_ray.errors import ManifestError

FILE_LIST = "FileList.csv"
TRACINGS = "VolumeTracings.csv"
VIEWS = ("A4C", "PSAX")
COLUMNS = ("FileName", "EF", "Sex", "Age", "Split")
MEASURED = {"EF": "ef", "Age": "age_years", "Weight": "weight_kg", "Height": "height_cm"}


class EchoNetPediatric(Adapter):
    name = "echonet_pediatric"
    help = "EchoNet-Pediatric: A4C/ and PSAX/ with FileList.csv, VolumeTracings.csv, Videos/*.avi; --folds makes splits"

    def recognises(self, source: str) -> bool:
        return any(has_columns(storage.join(folder, FILE_LIST), COLUMNS) for folder in _places(source))

    def list_clips(self, source: str, options: AdapterOptions) -> Iterator[Found]:
        folders = [folder for folder in _places(source) if storage.exists(storage.join(folder, FILE_LIST))]
        if not folders:
            raise ManifestError(f"{source}: no {FILE_LIST} in it, nor in one of the folders {', '.join(VIEWS)}")
        yield Note(options.folds_note())
        for folder in folders:
            yield from _view(folder, options)


def _places(source: str) -> list[str]:
    """Where a view's folder may be: below the source, below the archive's own folder, or the source itself."""
    roots = (source, storage.join(source, "pediatric_echo_avi"))
    own = [source] if PurePosixPath(source).name in VIEWS else []
    return [*own, *(storage.join(root, view) for root in roots for view in VIEWS)]


def _view(folder: str, options: AdapterOptions) -> Iterator[Found]:
    view = PurePosixPath(folder).name
    traced = polygons.read_points(storage.join(folder, TRACINGS))

    def row(name: str, uri: str, lines: list[Line]) -> Row:
        line = only(lines)
        sex: dict[str, Label] = {"sex": cell_value(text)} if (text := line["Sex"].strip()) else {}
        labels = numbers(line, MEASURED) | sex | polygons.phases(traced.of(name))
        return Row(f"{view}/{name}", uri, _patient(name), options.split_of(line["Split"]), view, as_json(labels))

    lines = read_lines(storage.join(folder, FILE_LIST), COLUMNS)
    files = find_files([storage.join(folder, "Videos")], VIDEO_SUFFIXES)
    found = match(f"{view}/{FILE_LIST}", lines, lambda line: file_stem(line["FileName"]), files, row)
    for item in polygons.with_traces(found, traced):
        yield Note(f"{view}: {item.text}") if isinstance(item, Note) else item


def _patient(name: str) -> str:
    """The first of patient-accession-instance."""
    parts = name.split("-")
    if len(parts) != 3 or not all(parts):
        raise ValueError("the file name is not patient-accession-instance, so its patient is unknown")
    return parts[0]
