"""EchoNet-Dynamic: FileList.csv, Videos/*.avi, apical four-chamber views, one video per patient.

Layout as published with Ouyang et al., "Video-based AI for beat-to-beat assessment of cardiac function" (Nature 2020).
A further Labels.csv (FileName and any columns), which jobs/synthesize.py writes, adds labels.
"""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import PurePosixPath

from discovr_ray.data import storage
from discovr_ray.data.adapters.folder import VIDEO_SUFFIXES
from discovr_ray.data.adapters.listing import Adapter, AdapterOptions, Listing, Rejected, Row
from discovr_ray.errors import ManifestError, StorageError

FILE_LIST = "FileList.csv"
EXTRA_LABELS = "Labels.csv"
VIEW = "A4C"
MEASURED = {"EF": "ef", "ESV": "esv", "EDV": "edv"}  # column -> label: percent, ml, ml

Label = str | int | float

_WHOLE = r"-?(0|[1-9]\d*)"
_DECIMAL = rf"({_WHOLE}(\.\d*)?|-?\.\d+)(e[-+]?\d+)?"


class EchoNetDynamic(Adapter):
    name = "echonet_dynamic"
    help = "EchoNet-Dynamic: FileList.csv and Videos/*.avi"

    def recognises(self, source: str) -> bool:
        return storage.exists(storage.join(source, FILE_LIST))

    def list_clips(self, source: str, options: AdapterOptions) -> Listing:
        return _list_clips(source)


def _list_clips(source: str) -> Listing:
    """One row per line of FileList.csv; what has no file, or no line, is rejected.

    Errors:
        StorageError: no Videos folder. ManifestError: a table lacks a column.
    """
    lines = _read_table(storage.join(source, FILE_LIST), ("FileName", "Split"))
    extra = _extra_labels(source)
    folder = storage.join(source, "Videos")
    videos = {_stem(uri): uri for uri in storage.list_files(folder, VIDEO_SUFFIXES)}
    if not videos:
        raise StorageError(f"{folder}: no video file")
    rows: dict[str, Row] = {}
    rejected: list[Rejected] = []
    for line in lines:
        name = _stem(line["FileName"])
        uri = videos.get(name, storage.join(folder, f"{name}.avi"))
        try:
            row = _row(name, uri, line, extra.get(name, {}))
        except ValueError as error:
            rejected.append(Rejected(uri, f"{FILE_LIST} or {EXTRA_LABELS}: {error}"))
            continue
        if name in rows:
            rejected.append(Rejected(uri, f"listed more than once in {FILE_LIST}"))
        elif name not in videos:
            rejected.append(Rejected(uri, f"listed in {FILE_LIST}, but the file is missing"))
        else:
            rows[name] = row
    listed = {_stem(line["FileName"]) for line in lines}
    rejected += [Rejected(uri, f"not listed in {FILE_LIST}") for name, uri in videos.items() if name not in listed]
    return Listing(list(rows.values()), rejected)


def _row(name: str, uri: str, line: dict[str, str], extra: dict[str, Label]) -> Row:
    labels: dict[str, Label] = {}
    for column, label in MEASURED.items():
        text = (line.get(column) or "").strip()
        if text:
            try:
                labels[label] = float(text)
            except ValueError:
                raise ValueError(f"{column} = {text!r} is no number") from None
    labels |= {key: value for key, value in extra.items() if key != "patient_id"}
    patient = str(extra.get("patient_id", name))
    split = (line["Split"] or "").strip().upper()
    return Row(name, uri, patient, split, VIEW, json.dumps(labels, sort_keys=True, allow_nan=False))


def _extra_labels(source: str) -> dict[str, dict[str, Label]]:
    """File name -> labels of Labels.csv; empty cells are no labels."""
    uri = storage.join(source, EXTRA_LABELS)
    if not storage.exists(uri):
        return {}
    return {
        _stem(line["FileName"]): {
            column: text.strip() if column == "patient_id" else _value(text.strip())
            for column, text in line.items()
            if column != "FileName" and text and text.strip()
        }
        for line in _read_table(uri, ("FileName",))
    }


def _value(text: str) -> Label:
    """A cell as the number that it is, else as text; 007 and nan are text."""
    if re.fullmatch(_WHOLE, text):
        return int(text)
    return float(text) if re.fullmatch(_DECIMAL, text, re.IGNORECASE) else text


def _read_table(uri: str, needed: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{uri}: not a text file in UTF-8: {error}") from error
    reader = csv.DictReader(io.StringIO(text), restval="")
    missing = [column for column in needed if column not in (reader.fieldnames or [])]
    if missing:
        raise ManifestError(f"{uri}: missing column(s) {', '.join(missing)}")
    return [{key: value for key, value in line.items() if key is not None} for line in reader if line["FileName"]]


def _stem(name: str) -> str:
    """File name without folder and video extension; the public table leaves the extension out, copies of it do not."""
    path = PurePosixPath(name.strip())
    return path.stem if path.suffix.lower() in VIDEO_SUFFIXES else path.name
