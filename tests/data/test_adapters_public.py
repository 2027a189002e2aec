"""Synthetic copies of public data sets' layouts: rows, splits, labels and traces, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import layouts
import numpy as np
import pytest
from listed import Listing, list_source
from PIL import Image, ImageDraw

from discovr_ray.data.adapters import find_adapter
from discovr_ray.data.adapters.listing import AdapterOptions, Row
from discovr_ray.data.adapters.polygons import area
from discovr_ray.data.synthetic import ground_truth
from discovr_ray.errors import ManifestError, StorageError


def by_id(listing: Listing) -> dict[str, Row]:
    assert len({row.clip_id for row in listing.rows}) == len(listing.rows)
    return {row.clip_id: row for row in listing.rows}


def labels(row: Row) -> dict[str, object]:
    found = json.loads(row.labels)
    assert isinstance(found, dict)
    return found


def reasons(listing: Listing) -> dict[str, str]:
    return {"/".join(Path(item.uri).parts[-2:]): item.reason for item in listing.rejected}


def test_each_layout_is_recognised_by_one_adapter(tmp_path: Path, echo_folder: Path) -> None:
    makers = {name: getattr(layouts, name) for name in ("pediatric", "lvh", "rvenet", "mimic")}
    places = {name: str(make(tmp_path / name)) for name, make in makers.items()}
    found = {name: find_adapter(place).name for name, place in places.items()}
    assert found == {
        "pediatric": "echonet_pediatric",
        "lvh": "echonet_lvh",
        "rvenet": "rvenet",
        "mimic": "mimic_iv_echo",
    }
    assert find_adapter(str(echo_folder)).name == "echonet_dynamic"
    assert find_adapter(f"{places['pediatric']}/A4C").name == "echonet_pediatric"
    assert find_adapter(str(tmp_path / "pediatric")).name == "echonet_pediatric"
    for plain in (tmp_path, tmp_path / "lvh" / "Batch1", tmp_path / "mimic" / "files"):
        assert find_adapter(str(plain)).name == "folder"


def test_names_that_other_folders_use_too(tmp_path: Path) -> None:
    (tmp_path / "codebook.csv").write_text("variable,meaning\nEF,ejection fraction\n")
    layouts.put_files(tmp_path, ["a.avi", "A4C/b.avi", "Batch1/c.avi"])
    assert find_adapter(str(tmp_path)).name == "folder"
    assert find_adapter(str(tmp_path), "echonet_lvh").name == "echonet_lvh"
    with pytest.raises(ManifestError, match=r"no adapter 'echonet_lhv'; is it echonet_lvh\?"):
        find_adapter(str(tmp_path), "echonet_lhv")
    with pytest.raises(StorageError, match="no folder Batch1"):
        list_source(str(tmp_path / "A4C"), AdapterOptions(adapter="echonet_lvh"))
    layouts.lvh(tmp_path)
    (tmp_path / "FileList.csv").write_text("FileName,Split\n")
    with pytest.raises(ManifestError, match="may be echonet_dynamic or echonet_lvh; choose one with --adapter"):
        find_adapter(str(tmp_path))


def test_dynamic_traces_are_the_true_outlines(echo_folder: Path) -> None:
    listing = list_source(str(echo_folder))
    assert listing.notes == (f"{echo_folder}: adapter echonet_dynamic", "48 traces; 0 of 24 clips have none")
    row = listing.rows[2]
    truth = ground_truth(7, int(row.patient_id.rpartition("-")[2]))
    found = labels(row)
    traces = [trace for trace in listing.traces if trace.clip_id == row.clip_id]
    assert (
        {trace.frame for trace in traces} == {found["es_frame"], found["ed_frame"]} == {truth.es_frame, truth.ed_frame}
    )
    for trace in traces:
        assert trace.structure == "lv"
        drawn = Image.new("1", (112, 112))
        ImageDraw.Draw(drawn).polygon(list(zip(trace.x, trace.y, strict=True)), fill=1)
        inside, cavity = np.asarray(drawn), truth.mask[trace.frame]
        # 20 chords cut off the round ends of the exact outline
        assert (inside & cavity).sum() / (inside | cavity).sum() > 0.9


def test_dynamic_traps(tmp_path: Path) -> None:
    layouts.write_table(
        tmp_path / "FileList.csv", ("FileName", "EF", "Split"), [(f"0X{n}", 50, "TRAIN") for n in range(1, 5)]
    )
    axis, chords = (50, 0, 50, 40), [(40, 10, 60, 10), (35, 20, 65, 20), (40, 30, 60, 30)]
    small = [(45, 10, 55, 10), (45, 30, 55, 30)]
    lines = [("0X1.avi", *chord, 7) for chord in (axis, *chords)]  # end-diastole first, unlike in the public table
    lines += [("0X1.avi", *chord, 31) for chord in (axis, *small)]
    lines += [("0X2.avi", *chord, 3) for chord in (axis, *small)]
    lines += [("0X3.avi", *axis, 3), ("0X9.avi", *axis, 3), ("0X9.avi", *small[0], 3)]
    columns = ("FileName", "X1", "Y1", "X2", "Y2", "Frame")
    layouts.write_table(tmp_path / "VolumeTracings.csv", columns, lines)
    layouts.put_files(tmp_path, [f"Videos/0X{n}.avi" for n in range(1, 5)])
    listing = list_source(str(tmp_path))
    rows = by_id(listing)
    assert labels(rows["0X1"]) == {"ef": 50.0, "es_frame": 31, "ed_frame": 7}
    assert labels(rows["0X2"]) == labels(rows["0X4"]) == {"ef": 50.0}  # one traced frame is no pair
    first = listing.traces[0]
    assert (first.clip_id, first.frame) == ("0X1", 7)
    assert (list(first.x), list(first.y)) == ([40, 35, 40, 60, 65, 60], [10, 20, 30, 30, 20, 10])
    assert area(list(zip(first.x, first.y, strict=True))) == 500  # two trapezia of 10 x (20 + 30) / 2
    assert listing.notes[1] == "3 traces; 2 of 4 clips have none; left out, with less than 3 points: 2"
    layouts.write_table(tmp_path / "VolumeTracings.csv", columns, [("0X1.avi", 1, "", 1, 1, 3)])
    with pytest.raises(ManifestError, match=r"VolumeTracings\.csv: line 2: Y1 is empty"):
        list_source(str(tmp_path))
    layouts.write_table(tmp_path / "VolumeTracings.csv", columns, [("0X1.avi", 1, 1, 1, 1, "No Systolic")])
    assert list_source(str(tmp_path)).traces == []
    layouts.write_table(tmp_path / "VolumeTracings.csv", ("FileName", "x1", "Y1", "X2", "Y2", "Frame"), [])
    with pytest.raises(ManifestError, match=r"missing column\(s\) X1; is it x1\?"):
        list_source(str(tmp_path))


def test_pediatric(tmp_path: Path) -> None:
    listing = list_source(str(layouts.pediatric(tmp_path)))
    rows = by_id(listing)
    assert {name: row.split for name, row in rows.items()} == {
        "A4C/CR1-A-000001": "TRAIN",
        "A4C/CR2-A-000002": "VAL",
        "A4C/CR3-A-000003": "TEST",
        "PSAX/CR1-B-000001": "TRAIN",
        "PSAX/CR4-A-000009": "TEST",
    }
    assert [row.patient_id for row in rows.values()] == ["CR1", "CR2", "CR3", "CR1", "CR4"]
    assert [row.view for row in rows.values()] == ["A4C"] * 3 + ["PSAX"] * 2
    both = {"es_frame": 3, "ed_frame": 10}
    girl = {"ef": 62.5, "sex": "F", "age_years": 7.0, "weight_kg": 22.4, "height_cm": 121.0}
    assert labels(rows["A4C/CR1-A-000001"]) == girl | both
    assert labels(rows["A4C/CR2-A-000002"]) == {"ef": 40.0, "sex": "M", "age_years": 0.0}
    reason = "A4C/FileList.csv: the file name is not patient-accession-instance, so its patient is unknown"
    assert reasons(listing) == {"Videos/nobody.avi": reason}
    assert [(trace.clip_id, trace.frame, len(trace.x)) for trace in listing.traces] == [
        ("A4C/CR1-A-000001", 3, 3),
        ("A4C/CR1-A-000001", 10, 4),
        ("A4C/CR2-A-000002", 5, 3),
    ]
    assert listing.notes[1:] == (
        "folds: TRAIN 0 1 2 3 4 5 6, VAL 7, TEST 8 9",
        "A4C: 3 traces; 1 of 3 clips have none; left out, with less than 3 points: 1",
        "PSAX: 0 traces; 2 of 2 clips have none",
    )


def test_pediatric_folds_are_the_users_choice(tmp_path: Path) -> None:
    source = str(layouts.pediatric(tmp_path))
    rows = by_id(list_source(source, AdapterOptions(folds=((6, 7, 8, 9), (), (0,)))))
    assert [row.split for row in rows.values()] == ["TEST", "TRAIN", "TRAIN", "TRAIN", "TRAIN"]
    left_out = by_id(list_source(source, AdapterOptions(folds=((0,), (7,), (8,)))))
    assert [row.split for row in left_out.values()] == ["TRAIN", "VAL", "FOLD 9", "FOLD 6", "TEST"]


def test_lvh(tmp_path: Path) -> None:
    listing = list_source(str(layouts.lvh(tmp_path)))
    rows = by_id(listing)
    assert labels(rows["0X1"]) == {"ivsd_cm": 1.1, "lvidd_cm": 4.5, "lvpwd_cm": 0.9}
    assert labels(rows["0X2"]) == {"ivsd_cm": pytest.approx(1.1)}
    assert labels(rows["0X4"]) == {"lvids_cm": 3.25}
    assert [row.split for row in rows.values()] == ["TRAIN", "VAL", "TEST"]
    assert {row.view for row in rows.values()} == {"PLAX"}
    assert rows["0X1"].uri.endswith("Batch1/0X1.avi")
    assert reasons(listing) == {
        "Batch2/0X1.avi": "another file has the same name",
        "Batch2/0X3.avi": "MeasurementsList.csv: listed with several splits: TEST, TRAIN",
        "Batch1/0X5.avi": "listed in MeasurementsList.csv, but the file is missing",
        "Batch4/0X9.avi": "not listed in MeasurementsList.csv",
    }


def test_rvenet(tmp_path: Path) -> None:
    listing = list_source(str(layouts.rvenet(tmp_path / "rv")))
    rows = by_id(listing)
    assert [(row.patient_id, row.split) for row in rows.values()] == [
        ("1_10", "TRAIN"),
        ("1_10", "TRAIN"),
        ("2_7", "VAL"),
    ]
    volunteer = {"rvef": 58.5, "heart_rate_bpm": 61.0, "patientgroup": "healthy volunteer", "age": 30, "sex": "F"}
    assert labels(rows["1_10_1"]) == volunteer
    assert "heart_rate_bpm" not in labels(rows["1_10_2"])
    assert reasons(listing) == {
        "rv/2_8_1.dcm": "codebook.csv: RVEF = '?' is no number",
        "rv/nobody.dcm": "codebook.csv: the file name is not A_B_N, of which A_B is the patient",
        "rv/3_1_1.dcm": "listed in codebook.csv, but the file is missing",
        "rv/9_9_9.dcm": "not listed in codebook.csv",
    }


def test_mimic(tmp_path: Path) -> None:
    listing = list_source(str(layouts.mimic(tmp_path)))
    rows = by_id(listing)
    assert [(name, row.patient_id, row.split) for name, row in rows.items()] == [
        ("94106955_0001", "10002221", ""),
        ("94106955_0002", "10002221", ""),
        ("90000001_0001", "11000001", ""),
    ]
    assert labels(rows["90000001_0001"]) == {"study_id": "90000001"}
    assert reasons(listing) == {
        "s94106955/94106955_0003.dcm": "listed in echo-record-list.csv, but the file is missing",
        "s90000002/90000002_0001.dcm": "not listed in echo-record-list.csv",
    }


def test_mimic_measurements(tmp_path: Path) -> None:
    source = str(layouts.mimic(tmp_path))
    listing = list_source(source, AdapterOptions(measurements=("lvef", "lvedd", "rv_function")))
    rows = by_id(listing)
    assert labels(rows["94106955_0002"]) == {"study_id": "94106955", "lvef": 55, "lvedd": 4.7}
    # two values of lvef contradict each other
    depressed = {"study_id": "90000001", "lvedd": 5.1, "rv_function": "mildly depressed"}
    assert labels(rows["90000001_0001"]) == depressed
    note = "measurements lvef, lvedd, rv_function: labels of 2 studies; 1 with several values left out"
    assert listing.notes[1] == note
    with pytest.raises(ManifestError, match=r"no measurement lv_ef; is it lvef\? There are: lvedd, lvef, rv_function"):
        list_source(source, AdapterOptions(measurements=("lv_ef",)))
    (tmp_path / "structured-measurement.csv.gz").unlink()
    with pytest.raises(StorageError, match=r"structured-measurement\.csv: no such file; --measurements needs it"):
        list_source(source, AdapterOptions(measurements=("lvef",)))
    (tmp_path / "structured-measurement.csv").write_text("subject_id,name\n1,lvef\n")
    with pytest.raises(ManifestError, match="not a table with the columns measurement_id, measurement, result"):
        list_source(source, AdapterOptions(measurements=("lvef",)))


@pytest.mark.parametrize(
    ("name", "table", "column", "message"),
    [
        ("pediatric", "PSAX/FileList.csv", "EF", r"PSAX/FileList.csv: missing column\(s\) EF"),
        ("lvh", "MeasurementsList.csv", "CalcValue", r"missing column\(s\) CalcValue; is it CalcValue_?"),
        (
            "mimic",
            "echo-record-list.csv",
            "dicom_filepath",
            r"\(s\) dicom_filepath; is it dicom_filepath_",
        ),
    ],
)
def test_missing_columns(tmp_path: Path, name: str, table: str, column: str, message: str) -> None:
    root = getattr(layouts, name)(tmp_path)
    path = root / table
    path.write_text(path.read_text().replace(f",{column}", f",{column}_", 1))
    with pytest.raises(ManifestError, match=message):
        list_source(str(root))
