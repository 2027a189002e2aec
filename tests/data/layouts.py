"""Small copies of public data sets' layouts, with the traps of the real ones; names and numbers are invented.

Each function fills a folder. Its videos are two synthetic clips, copied under all names, or empty files where only the
listing is of interest.
"""

from __future__ import annotations

import csv
import gzip
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_table(path: Path, columns: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *lines])


def put_files(folder: Path, names: Sequence[str], contents: Mapping[str, Path] | None = None) -> None:
    """Files of these names below the folder, empty or copies."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if contents and name in contents:
            shutil.copy(contents[name], path)
        else:
            path.write_bytes(b"")


def pediatric(folder: Path, contents: Mapping[str, Path] | None = None) -> Path:
    """Patient CR1 in both views; folds 0 to 9; frames that are words; an empty cell; a name that is none."""
    columns = ("FileName", "EF", "Sex", "Age", "Weight", "Height", "Split")
    a4c = [
        ("CR1-A-000001.avi", 62.5, "F", 7, 22.4, 121, 0),
        ("CR2-A-000002.avi", 40.0, "M", 0, "", "", 7),
        ("CR3-A-000003.avi", 55.0, "M", 17, 70, 181.5, 9),
        ("nobody.avi", 55.0, "M", 17, 70, 181.5, 9),
    ]
    psax = [("CR1-B-000001.avi", 61.0, "F", 7, 22.4, 121, 6), ("CR4-A-000009.avi", 61.0, "F", 7, 22.4, 121, 8)]
    points = ("FileName", "X", "Y", "Frame")
    traced = [
        *(("CR1-A-000001.avi", x, y, 10) for x, y in [(10, 10), (30, 10), (30, 50), (10, 50), (10, 10)]),
        *(("CR1-A-000001.avi", x, y, 3) for x, y in [(10, 10), (20, 10), (20, 50)]),
        *(("CR2-A-000002.avi", x, y, 5) for x, y in [(10, 10), (20, 10), (20, 50)]),
        ("CR2-A-000002.avi", 1.5, 2.5, "No Systolic"),
        ("CR3-A-000003.avi", 1.5, 2.5, "No Diastolic"),
        ("CR3-A-000003.avi", 1.5, 2.5, 4),
    ]
    root = folder / "pediatric_echo_avi"
    write_table(root / "A4C" / "FileList.csv", columns, a4c)
    write_table(root / "A4C" / "VolumeTracings.csv", points, traced)
    write_table(root / "PSAX" / "FileList.csv", columns, psax)
    put_files(root, [f"A4C/Videos/{line[0]}" for line in a4c] + [f"PSAX/Videos/{line[0]}" for line in psax], contents)
    return root


def lvh(folder: Path) -> Path:
    """Several lines per file, an unnamed index, two measurements of one wall, lower-case splits, two batches."""
    columns = (
        *("", "HashedFileName", "Calc", "CalcValue", "Frame", "X1", "X2", "Y1", "Y2"),
        *("Frames", "FPS", "Width", "Height", "split"),
    )
    place = (10, 20, 10, 20, 120, 50, 1024, 768)
    lines = [
        (0, "0X1", "IVSd", 1.1, 5, *place, "train"),
        (1, "0X1", "LVIDd", 4.5, 5, *place, "train"),
        (2, "0X1", "LVPWd", 0.9, 5, *place, "train"),
        (3, "0X2", "IVSd", 1.0, 5, *place, "val"),
        (4, "0X2", "IVSd", 1.2, 30, *place, "val"),
        (5, "0X3", "IVSd", 1.0, 5, *place, "test"),
        (6, "0X3", "LVIDd", 1.0, 5, *place, "train"),
        (7, "0X4", "LVIDs", 3.25, 5, *place, "test"),
        (8, "0X5", "IVSd", 1.0, 5, *place, "train"),
    ]
    write_table(folder / "MeasurementsList.csv", columns, lines)
    put_files(folder, ["Batch1/0X1.avi", "Batch1/0X2.avi", "Batch2/0X3.avi", "Batch4/0X4.avi", "Batch4/0X9.avi"])
    put_files(folder, ["Batch2/0X1.avi", "Other/0X8.avi"])
    return folder


def rvenet(folder: Path) -> Path:
    """Names of three parts of which two are the patient; the words train and validation; further columns."""
    columns = ("FileName", "PatientGroup", "Age", "Sex", "HR", "FPS", "RVEF", "Split")
    lines = [
        ("1_10_1", "healthy volunteer", 30, "F", 61, 49.2, 58.5, "train"),
        ("1_10_2", "healthy volunteer", 30, "F", "", 49.2, 58.5, "train"),
        ("2_7_1", "athlete", 21, "M", 55, 60, 51.25, "validation"),
        ("2_8_1", "athlete", 21, "M", 55, 60, "?", "validation"),
        ("nobody", "athlete", 21, "M", 55, 60, 50, "validation"),
        ("3_1_1", "athlete", 21, "M", 55, 60, 50, "train"),
    ]
    write_table(folder / "codebook.csv", columns, lines)
    put_files(folder, [f"{line[0]}.dcm" for line in lines[:-1]] + ["9_9_9.dcm"])
    return folder


def mimic(folder: Path) -> Path:
    """A record list of paths, of which not all are downloaded; studies; measurements, some of them contradictory."""
    records = [
        (10002221, 94106955, "2180-01-01 10:00:00", "files/p10/p10002221/s94106955/94106955_0001.dcm"),
        (10002221, 94106955, "2180-01-01 10:01:00", "files/p10/p10002221/s94106955/94106955_0002.dcm"),
        (10002221, 94106955, "2180-01-01 10:01:00", "files/p10/p10002221/s94106955/94106955_0003.dcm"),
        (11000001, 90000001, "2181-01-01 10:00:00", "files/p11/p11000001/s90000001/90000001_0001.dcm"),
    ]
    write_table(
        folder / "echo-record-list.csv", ("subject_id", "study_id", "acquisition_datetime", "dicom_filepath"), records
    )
    write_table(
        folder / "echo-study-list.csv",
        ("subject_id", "study_id", "study_datetime", "measurement_id", "measurement_datetime"),
        [(10002221, 94106955, "", 77, ""), (11000001, 90000001, "", 78, ""), (11000001, 90000002, "", "", "")],
    )
    lines = ["subject_id,measurement_id,measurement_datetime,test_type,measurement,measurement_description,result,unit"]
    lines += ["10002221,77,,tte,lvef,Left ventricular ejection fraction,55,%", "10002221,77,,tte,lvedd,,4.7,cm"]
    lines += [
        '11000001,78,,tte,lvef,"two, values",40,%',
        "11000001,78,,tte,lvef,,45,%",
        "11000001,78,,tte,lvedd,,5.1,cm",
    ]
    lines += ["11000001,79,,tte,lvef,,99,%", "11000001,78,,tte,rv_function,,mildly depressed,"]
    with gzip.open(folder / "structured-measurement.csv.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    put_files(folder, [line[3] for line in records if not line[3].endswith("_0003.dcm")])
    put_files(folder, ["files/p11/p11000001/s90000002/90000002_0001.dcm"])
    return folder
