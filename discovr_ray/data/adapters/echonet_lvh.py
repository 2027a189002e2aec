"""EchoNet-LVH: MeasurementsList.csv and Batch1..4/*.avi, parasternal long-axis views with measured walls.

Layout as published with Duffy et al., "High-throughput precision phenotyping of left ventricular hypertrophy" (JAMA
Cardiology 2022). The table has a line per measurement, several per file, and says nothing about patients.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from statistics import fmean

from discovr_ray.data import storage
from discovr_ray.data.adapters.listing import Adapter, AdapterOptions, Found, Note, Row, split_name
from discovr_ray.data.adapters.table_file import (
    VIDEO_SUFFIXES,
    Line,
    as_json,
    cell_number,
    file_stem,
    find_files,
    match,
    read_lines,
)
from discovr_ray.errors import StorageError

MEASUREMENTS = "MeasurementsList.csv"
COLUMNS = ("HashedFileName", "Calc", "CalcValue", "split")
VIEW = "PLAX"


class EchoNetLVH(Adapter):
    name = "echonet_lvh"
    help = "EchoNet-LVH: MeasurementsList.csv and Batch*/*.avi; measurements in cm become labels such as ivsd_cm"

    def recognises(self, source: str) -> bool:
        return storage.exists(storage.join(source, MEASUREMENTS))

    def list_clips(self, source: str, options: AdapterOptions) -> Iterator[Found]:
        batches = [folder for folder in storage.list_folders(source) if folder.rpartition("/")[2].startswith("Batch")]
        if not batches:
            raise StorageError(f"{source}: no folder Batch1, Batch2, ...")
        lines = read_lines(storage.join(source, MEASUREMENTS), COLUMNS)
        files = find_files(batches, VIDEO_SUFFIXES)
        yield from match(MEASUREMENTS, lines, lambda line: file_stem(line["HashedFileName"]), files, _row)
        yield Note("no patients in the table: every video counts as a patient of its own")
        yield Note("a measurement that was made several times in a video: the mean")


def _row(name: str, uri: str, lines: list[Line]) -> Row:
    splits = {split_name(line["split"]) for line in lines}
    if len(splits) > 1:
        raise ValueError(f"listed with several splits: {', '.join(sorted(splits))}")
    values: dict[str, list[float]] = defaultdict(list)
    for line in lines:
        value = cell_number(line, "CalcValue")
        if value is not None:
            values[f"{line['Calc'].strip().lower()}_cm"].append(value)
    return Row(name, uri, name, splits.pop(), VIEW, as_json({label: fmean(of) for label, of in values.items()}))
