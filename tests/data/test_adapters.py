"""Layouts of sources, by names alone: the files themselves are ingest's business."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from listed import list_source

from discovr_ray.data.adapters.listing import AdapterOptions
from discovr_ray.errors import ManifestError, StorageError

FILE_LIST = """FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,NumberOfFrames,Split
0X1,55.5,30.25,68,112,112,50,174,TRAIN
0X2.avi,,,,112,112,50,100,val
0X3,61,1,2,112,112,50,100,TEST
0X3,61,1,2,112,112,50,100,TEST
0X6,61,1,2,112,112,50,100,TRAIN
0X7,61,1,2,112,112,50,100,TRAIN
0X7,61,1,3,112,112,50,100,VAL
0X4,sixty,1,2,112,112,50,100,TRAIN
0X5,60,1,2,112,112,50,100,TRAIN
"""
LABELS = """FileName,patient_id,abnormal,diagnosis,heart_rate,segment
0X1,007,1,low EF,71.5,
0X2,12,0,007,6e1,apex
"""


@pytest.fixture
def echonet(tmp_path: Path) -> Path:
    (tmp_path / "Videos" / "b").mkdir(parents=True)
    for name in ("0X1.avi", "0X2.avi", "0X3.AVI", "0X4.avi", "0X6.mp4", "0X7.avi", "0X9.avi", "b/0X6.avi", "notes.txt"):
        (tmp_path / "Videos" / name).write_text("")
    (tmp_path / "FileList.csv").write_text(FILE_LIST, encoding="utf-8-sig")
    return tmp_path


def test_echonet_dynamic(echonet: Path) -> None:
    listing = list_source(str(echonet))
    assert [row.clip_id for row in listing.rows] == ["0X1", "0X2", "0X3", "0X6"]
    first = listing.rows[0]
    assert first.uri == f"{echonet}/Videos/0X1.avi"
    assert first.patient_id == "0X1"
    assert first.view == "A4C"
    assert json.loads(first.labels) == {"ef": 55.5, "esv": 30.25, "edv": 68.0}
    assert [row.split for row in listing.rows] == ["TRAIN", "VAL", "TEST", "TRAIN"]
    assert [row.labels for row in listing.rows][1] == "{}"
    assert listing.rows[2].uri.endswith("0X3.AVI")
    rejected = {(Path(item.uri).name, item.reason) for item in listing.rejected}
    assert rejected == {
        ("0X6.avi", "another file has the same name"),
        ("0X7.avi", "FileList.csv: listed more than once, with different values of EDV, Split"),
        ("0X4.avi", "FileList.csv: EF = 'sixty' is no number"),
        ("0X5.avi", "listed in FileList.csv, but the file is missing"),
        ("0X9.avi", "not listed in FileList.csv"),
    }


def test_extra_labels(echonet: Path) -> None:
    (echonet / "Labels.csv").write_text(LABELS)
    rows = list_source(str(echonet)).rows
    assert [row.patient_id for row in rows] == ["007", "12", "0X3", "0X6"]
    labels = [json.loads(row.labels) for row in rows]
    assert labels[0] == {
        "ef": 55.5,
        "esv": 30.25,
        "edv": 68.0,
        "abnormal": 1,
        "diagnosis": "low EF",
        "heart_rate": 71.5,
    }
    assert labels[1] == {"abnormal": 0, "diagnosis": "007", "heart_rate": 60.0, "segment": "apex"}
    assert "abnormal" not in labels[2]


def test_tables_without_their_columns(echonet: Path) -> None:
    (echonet / "Labels.csv").write_text("Name,abnormal\n0X1,1\n")
    with pytest.raises(ManifestError, match=r"Labels\.csv: missing column\(s\) FileName"):
        list_source(str(echonet))
    (echonet / "FileList.csv").write_text("file,EF\n0X1,50\n")
    with pytest.raises(ManifestError, match=r"FileList\.csv: missing column\(s\) FileName, Split"):
        list_source(str(echonet))
    (echonet / "FileList.csv").write_bytes(b"FileName,Split\n\xff\xfe,TRAIN\n")
    with pytest.raises(ManifestError, match="UTF-8"):
        list_source(str(echonet))


def test_the_synthetic_data_set(echo_folder: Path) -> None:
    listing = list_source(str(echo_folder))
    assert len(listing.rows) == 24
    assert listing.rejected == []
    assert {row.split for row in listing.rows} == {"TRAIN", "VAL", "TEST"}
    for row in listing.rows:
        assert {"ef", "esv", "edv", "abnormal", "diagnosis"} <= set(json.loads(row.labels))
        assert row.patient_id != row.clip_id


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for name in ("p1/a.avi", "p1/b.MP4", "p2/deep/a.mov", "p2/list.csv", "p2/list.txt", "c.mkv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return tmp_path


def test_folder(videos: Path) -> None:
    listing = list_source(f"{videos}/")
    assert listing.notes == (
        f"{videos}: adapter folder",
        "2 other files, not videos by their suffix, were left out",
    )
    rows = listing.rows
    assert [row.clip_id for row in rows] == ["c", "p1/a", "p1/b", "p2/deep/a"]
    assert [row.uri for row in rows][1] == f"{videos}/p1/a.avi"
    assert all(row.patient_id == row.split == "" and row.labels == "{}" for row in rows)
    assert not any(row.names_clip or row.names_patient for row in rows)


def test_patient_pattern(videos: Path) -> None:
    rows = list_source(str(videos), AdapterOptions(patient_pattern=r"^(p\d)/")).rows
    assert [row.patient_id for row in rows] == ["", "p1", "p1", "p2"]


def test_file_and_glob(videos: Path) -> None:
    one = list_source(f"{videos}/p1/a.avi")
    assert ([row.clip_id for row in one.rows], len(one.notes)) == (["a"], 1)
    assert [row.clip_id for row in list_source(f"{videos}/p*/*").rows] == ["p1/a", "p1/b", "p2/list.csv", "p2/list.txt"]
    assert [row.clip_id for row in list_source(f"{videos}/**/*.mov").rows] == ["p2/deep/a"]
    odd = videos / "odd[1].avi"
    odd.write_text("")
    assert [row.uri for row in list_source(str(odd)).rows] == [str(odd)]


def test_sources_that_match_nothing(videos: Path) -> None:
    (videos / "empty").mkdir()
    for source, message in {
        "empty": "no video file",
        "p2/list.txt": "no video file",
        "missing": "no such file",
        "*.mpg": "matches no file",
    }.items():
        with pytest.raises(StorageError, match=message):
            list_source(str(videos / source))
