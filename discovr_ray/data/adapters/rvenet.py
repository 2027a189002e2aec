"""RVENet: codebook.csv and <FileName>.dcm, apical four-chamber views with the right ventricle's ejection fraction.

Layout as published with Magyar et al., "RVENet: A Large Echocardiographic Dataset for the Deep Learning-Based
Assessment of Right Ventricular Function" (ECCV workshops 2022). It is split into train and validation only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from discovr_ray.data import storage
from discovr_ray.data.adapters.listing import Adapter, AdapterOptions, Found, Row, split_name
from discovr_ray.data.adapters.table_file import (
    DICOM_SUFFIXES,
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

CODEBOOK = "codebook.csv"
COLUMNS = ("FileName", "RVEF", "Split")
MEASURED = {"RVEF": "rvef", "HR": "heart_rate_bpm"}  # percent, beats per minute
NO_LABELS = {*COLUMNS, *MEASURED, "FPS"}  # the frame rate is the file's business
VIEW = "A4C"


class RVENet(Adapter):
    name = "rvenet"
    help = "RVENet: codebook.csv and *.dcm; validation is VAL, there is no TEST; label rvef"

    def recognises(self, source: str) -> bool:
        return has_columns(storage.join(source, CODEBOOK), COLUMNS)

    def list_clips(self, source: str, options: AdapterOptions) -> Iterator[Found]:
        lines = read_lines(storage.join(source, CODEBOOK), COLUMNS)
        files = find_files([source], DICOM_SUFFIXES)
        return match(CODEBOOK, lines, lambda line: file_stem(line["FileName"]), files, _row)


def _row(name: str, uri: str, lines: list[Line]) -> Row:
    line = only(lines)
    parts = name.split("_")
    if len(parts) != 3 or not all(parts):
        raise ValueError("the file name is not A_B_N, of which A_B is the patient")
    others = {
        re.sub(r"\W+", "_", column.strip().lower()): cell_value(text.strip())
        for column, text in line.items()
        if column.strip() and column not in NO_LABELS and text.strip()
    }
    labels = others | numbers(line, MEASURED)
    return Row(name, uri, "_".join(parts[:2]), split_name(line["Split"]), VIEW, as_json(labels))
