"""EchoNet-Dynamic: FileList.csv, VolumeTracings.csv, Videos/*.avi, apical four-chamber views, one video per patient.

Layout as published with Ouyang et al., "Video-based AI for beat-to-beat assessment of cardiac function" (Nature 2020).
A further Labels.csv (FileName and any columns), which jobs/synthesize.py writes, adds labels.
"""

from __future__ import annotations

from collections.abc import Iterator

from discovr_ray.data import storage
from discovr_ray.data.adapters import polygons
from discovr_ray.data.adapters.listing import Adapter, AdapterOptions, Found, Row, split_name
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

FILE_LIST = "FileList.csv"
TRACINGS = "VolumeTracings.csv"
EXTRA_LABELS = "Labels.csv"
VIEW = "A4C"
MEASURED = {"EF": "ef", "ESV": "esv", "EDV": "edv"}  # column -> label: percent, ml, ml


class EchoNetDynamic(Adapter):
    name = "echonet_dynamic"
    help = "EchoNet-Dynamic: FileList.csv, VolumeTracings.csv and Videos/*.avi; Labels.csv adds labels"

    def recognises(self, source: str) -> bool:
        uri = storage.join(source, FILE_LIST)
        return storage.exists(uri) and not has_columns(uri, ("Sex", "Age"))  # those are EchoNet-Pediatric's

    def list_clips(self, source: str, options: AdapterOptions) -> Iterator[Found]:
        lines = read_lines(storage.join(source, FILE_LIST), ("FileName", "Split"))
        extra = _extra_labels(source)
        traced = polygons.read_chords(storage.join(source, TRACINGS))

        def row(name: str, uri: str, lines: list[Line]) -> Row:
            line = only(lines)
            more = extra.get(name, {})
            labels = numbers(line, MEASURED) | polygons.phases(traced.of(name)) | more
            patient = str(labels.pop("patient_id", name))
            return Row(name, uri, patient, split_name(line["Split"]), VIEW, as_json(labels))

        files = find_files([storage.join(source, "Videos")], VIDEO_SUFFIXES)
        found = match(FILE_LIST, lines, lambda line: file_stem(line["FileName"]), files, row)
        return polygons.with_traces(found, traced)


def _extra_labels(source: str) -> dict[str, dict[str, Label]]:
    """File name -> labels of Labels.csv; empty cells are no labels."""
    uri = storage.join(source, EXTRA_LABELS)
    if not storage.exists(uri):
        return {}
    return {
        file_stem(line["FileName"]): {
            column: text.strip() if column == "patient_id" else cell_value(text.strip())
            for column, text in line.items()
            if column != "FileName" and text.strip()
        }
        for line in read_lines(uri, ("FileName",))
    }
