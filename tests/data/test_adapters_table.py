"""A table of one's own, and folders of hospital files."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import layouts
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from listed import list_source

from discovr_ray.data.adapters import find_adapter
from discovr_ray.data.adapters.listing import AdapterOptions
from discovr_ray.errors import ManifestError, StorageError

COLUMNS = {"uri": "path", "patient_id": "mrn", "split": "fold", "view": "View", "labels.ef": "EF", "labels.sex": "Sex"}
LINES = [
    ("a/1.avi", "007", 0, "A4C", 55.5, "F"),
    ("a/2.dcm", "007", 3, "A4C", "", ""),
    ("/elsewhere/3.nii.gz", "8", 7, "PLAX", 40, "M"),
    ("s3://bucket/4.mp4", "9", "validation", "", "unknown", "M"),
    ("s3://bucket/4.mp4", "9", "validation", "", "unknown", "M"),
    ("a/5.avi", "10", 9, "", 50, "M"),
    ("a/5.avi", "11", 9, "", 51, "M"),
    ("", "11", 9, "", 51, "M"),
]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    layouts.write_table(tmp_path / "clips.csv", ("path", "mrn", "fold", "View", "EF", "Sex"), LINES)
    return tmp_path / "clips.csv"


def test_column_map(table: Path) -> None:
    assert find_adapter(str(table)).name == "table"
    listing = list_source(str(table), AdapterOptions(columns=COLUMNS))
    assert [(row.clip_id, row.uri, row.patient_id, row.split, row.view) for row in listing.rows] == [
        ("a/1", f"{table.parent}/a/1.avi", "007", "TRAIN", "A4C"),
        ("a/2", f"{table.parent}/a/2.dcm", "007", "TRAIN", "A4C"),
        ("/elsewhere/3", "/elsewhere/3.nii.gz", "8", "VAL", "PLAX"),
        ("s3://bucket/4", "s3://bucket/4.mp4", "9", "VAL", ""),
    ]
    found = [json.loads(row.labels) for row in listing.rows]
    assert found == [{"ef": 55.5, "sex": "F"}, {}, {"ef": 40, "sex": "M"}, {"ef": "unknown", "sex": "M"}]
    assert [(item.uri, item.reason) for item in listing.rejected] == [
        (f"{table.parent}/a/5.avi", "clips.csv: listed more than once, with different values of mrn, EF")
    ]
    assert listing.notes == (
        f"{table}: adapter table",
        "columns: uri = path, patient_id = mrn, split = fold, view = View, labels.ef = EF, labels.sex = Sex",
        "folds: TRAIN 0 1 2 3 4 5 6, VAL 7, TEST 8 9 (where the split is a number)",
        "patients: as in the table, hashed if there is DISCOVR_ID_KEY",
        "lines that name no file: 1",
    )


def test_own_patients_are_hashed_with_the_key(table: Path) -> None:
    layouts.put_files(table.parent, ["007/1.avi", "x.avi"])
    options = AdapterOptions(columns=COLUMNS, patient_pattern=r"^(\d+)/", id_key="k" * 32)
    hashed = hmac.new(b"k" * 32, b"patient\x00007", hashlib.sha256).hexdigest()[:32]  # as for a DICOM file's PatientID
    in_table = list_source(str(table), options)
    assert [row.patient_id for row in in_table.rows][:2] == [hashed, hashed]
    assert "patients: hashed with DISCOVR_ID_KEY" in in_table.notes
    assert [row.patient_id for row in list_source(str(table.parent), options).rows] == [hashed, ""]
    assert "kkk" not in repr(options)


def test_columns_of_the_manifests_own_names(tmp_path: Path) -> None:
    path = tmp_path / "clips.parquet"
    columns = {"uri": ["x.avi", "y.avi"], "patient_id": [1.0, None], "clip_id": ["one", "two"], "ef": [50.0, None]}
    pq.write_table(pa.table(columns | {"abnormal": [True, False]}), path)
    options = AdapterOptions(columns={"labels.ef": "ef", "labels.abnormal": "abnormal"})
    rows = list_source(str(path), options).rows
    assert [(row.clip_id, row.patient_id, row.names_clip) for row in rows] == [("one", "1", True), ("two", "", True)]
    assert [json.loads(row.labels) for row in rows] == [{"ef": 50, "abnormal": 1}, {"abnormal": 0}]
    by_path = list_source(str(path), AdapterOptions(columns={"clip_id": "uri", "patient_id": "uri"})).rows
    assert [row.patient_id for row in by_path] == ["x.avi", "y.avi"]
    pq.write_table(pa.table({"uri": ["x.avi"], "patient_id": ["1"]}), path)
    (row,) = list_source(str(path)).rows
    assert (row.names_clip, row.names_patient) == (False, True)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ('y.avi,"2\nz.avi,3\n', r"line 3: unexpected end of data; is a quote left open\?"),
        ('y.avi,"2\nz.avi,"3"\n', "line 3: ',' expected after '\"'"),
        ("y.avi,2,,5\n", "line 3: more cells than columns, such as '5'"),
    ],
)
def test_a_broken_line_swallows_no_others(tmp_path: Path, broken: str, message: str) -> None:
    path = tmp_path / "clips.csv"
    path.write_text("uri,patient_id\nx.avi,1,\n" + broken)  # a comma more at a line's end takes nothing away
    with pytest.raises(ManifestError, match=f"clips.csv: {message}"):
        list_source(str(path))
    path.write_text('uri,patient_id\nx.avi,1,\n"y, z.avi","2\n3"\n')
    assert [row.patient_id for row in list_source(str(path)).rows] == ["1", "2\n3"]


def test_wrong_maps_name_the_nearest(table: Path) -> None:
    for columns, message in {
        ("patient", "mrn"): r"--columns patient: no field of this name; is it patient_id\? There are: clip_id, ",
        ("labels.", "EF"): "--columns labels.: no field",
        ("view", "view"): r"clips.csv: missing column\(s\) view; is it View\?",
        ("patient_id", "mnr"): r"missing column\(s\) mnr; is it mrn\? There are: EF, Sex, View, fold, mrn, path",
    }.items():
        with pytest.raises(ManifestError, match=message):
            list_source(str(table), AdapterOptions(columns={"uri": "path"} | dict([columns])))
    with pytest.raises(ManifestError, match=r"no column uri; .* with --columns uri=\.\.\.; is it path\?"):
        list_source(str(table))
    (table.parent / "bad.parquet").write_text("no")
    with pytest.raises(ManifestError, match="not a Parquet file"):
        list_source(str(table.parent / "bad.parquet"))
    with pytest.raises(StorageError, match="no such file"):
        list_source(str(table.parent / "missing.csv"))


def test_a_folder_of_hospital_files(tmp_path: Path) -> None:
    names = ["p1/IM_0001", "p1/1.2.840.113619.2", "p1/a.DCM", "p1/b.dicom", "p1/c.nii.gz", "p1/d.nii", "p1/notes.txt"]
    layouts.put_files(tmp_path, [*names, "DICOMDIR", "p1/.hidden"])
    rows = list_source(str(tmp_path)).rows
    assert [row.clip_id for row in rows] == ["p1/a", "p1/b", "p1/c", "p1/d"]
    rows = list_source(str(tmp_path), AdapterOptions(without_suffix=True)).rows
    assert [row.clip_id for row in rows] == ["p1/1.2.840.113619.2", "p1/IM_0001", "p1/a", "p1/b", "p1/c", "p1/d"]
    assert not any(row.names_clip or row.names_patient for row in rows)
    layouts.put_files(tmp_path, ["archive/IM_1"])
    with pytest.raises(StorageError, match="--files-without-suffix takes those of DICOM archives"):
        list_source(str(tmp_path / "archive"))
