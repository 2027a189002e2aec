"""CAMUS and CardiacNet: synthetic copies of both layouts, with the traps that copies of them hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from barcode import read_barcodes
from listed import Listing, list_source
from nifti_files import nifti, zipped
from nifti_layouts import NUM_FRAMES, mask, write_camus, write_cardiacnet, write_info, write_lists

from discovr_ray.data.adapters import find_adapter
from discovr_ray.data.adapters.listing import AdapterOptions
from discovr_ray.data.decode import decode_frames
from discovr_ray.data.formats.nifti import read_mask
from discovr_ray.errors import ClipError, ManifestError, StorageError
from discovr_ray.launch.inspection import inspect_file


@pytest.fixture
def camus(tmp_path: Path) -> Path:
    return write_camus(tmp_path)


def reasons(listing: Listing) -> dict[str, str]:
    return {Path(item.uri).name.removesuffix(".nii.gz"): item.reason for item in listing.rejected}


def test_camus(camus: Path) -> None:
    assert find_adapter(str(camus)).name == "camus"
    listing = list_source(str(camus))
    assert listing.rejected == []
    assert [row.clip_id for row in listing.rows] == [
        f"patient000{n}_{view}" for n in (1, 2, 3) for view in ("2CH", "4CH")
    ]
    assert [row.split for row in listing.rows] == ["TRAIN"] * 2 + ["VAL"] * 2 + ["TEST"] * 2
    second = listing.rows[1]
    assert (second.patient_id, second.view, second.fps) == ("patient0001", "A4C", 49.5)
    assert second.uri == f"{camus}/database_nifti/patient0001/patient0001_4CH_half_sequence.nii.gz"
    assert json.loads(second.labels) == {
        "ef": 51.5,
        "age_years": 56,
        "sex": "F",
        "image_quality": "Good",
        "ed_frame": 0,
        "es_frame": NUM_FRAMES - 1,
    }
    facts = inspect_file(second.uri, second.fps)
    assert (facts.reason, facts.format, facts.num_frames, facts.fps) == ("", "nifti", NUM_FRAMES, 49.5)
    assert json.loads(facts.details)["cm_per_pixel"] == pytest.approx(0.03)
    frames = decode_frames(Path(second.uri).read_bytes(), "nifti", range(NUM_FRAMES), NUM_FRAMES)
    assert read_barcodes(frames) == list(range(NUM_FRAMES))


def test_masks_of_camus(camus: Path) -> None:
    traces = [trace for trace in list_source(str(camus)).traces if trace.clip_id == "patient0002_4CH"]
    assert [(trace.frame, trace.structure, trace.mask_value) for trace in traces] == [
        *((0, "lv", 1), (0, "myocardium", 2), (0, "la", 3)),
        *((11, "lv", 1), (11, "myocardium", 2), (11, "la", 3)),
    ]
    assert {Path(trace.mask_uri).name for trace in traces[3:]} == {"patient0002_4CH_ES_gt.nii.gz"}
    values = read_mask(Path(traces[3].mask_uri).read_bytes(), 64, 64)
    assert np.array_equal(values, mask(35)), "the same way up as the frames"
    assert [int((values == trace.mask_value).sum()) for trace in traces[3:]] == [80, 20, 32]


def test_masks_that_do_not_fit() -> None:
    content = zipped(nifti(mask(30)))
    with pytest.raises(ClipError, match="mask of 64 x 64 pixels for a frame of 64 x 80"):
        read_mask(content, 64, 80)
    with pytest.raises(ClipError, match="mask of 12 frames, one expected"):
        read_mask(nifti(np.stack([mask(30)] * NUM_FRAMES)), 64, 64)
    with pytest.raises(ClipError, match=r"mask with values 0 to 0\.5: whole numbers from 0 to 255"):
        read_mask(nifti(mask(30).astype(np.float32) / 6), 64, 64)
    assert np.array_equal(read_mask(nifti(mask(30).astype(np.float32)), 64, 64), mask(30))
    with pytest.raises(ClipError, match="no NIfTI"):
        read_mask(b"mask", 64, 64)


def test_what_an_info_file_may_lack(camus: Path) -> None:
    write_info(camus, "patient0001", "2CH", EF=None, ED=None, Sex="", FrameRate=None)
    write_info(camus, "patient0001", "4CH", EF="n/a")
    write_info(camus, "patient0002", "2CH", ES=NUM_FRAMES + 1)
    (camus / "database_nifti" / "patient0002" / "Info_4CH.cfg").unlink()
    write_info(camus, "patient0003", "2CH", FrameRate="0\nno pair")
    listing = list_source(str(camus))
    rows = {row.clip_id: row for row in listing.rows}
    bare = rows["patient0001_2CH"]
    assert set(json.loads(bare.labels)) == {"age_years", "image_quality", "es_frame"}
    assert bare.fps == rows["patient0003_2CH"].fps == 0
    assert inspect_file(bare.uri, bare.fps).reason.startswith("neither the file nor its data set says")
    assert {trace.frame for trace in listing.traces if trace.clip_id == bare.clip_id} == {11}
    assert "masks that are missing, or whose frame is not in Info_*.cfg: 1" in listing.notes
    assert reasons(listing) == {
        "patient0001_4CH_half_sequence": "Info_4CH.cfg: EF = 'n/a' is no number",
        "patient0002_2CH_half_sequence": "Info_2CH.cfg: ES = 13 is none of frames 1 to 12",
        "patient0002_4CH_half_sequence": "Info_4CH.cfg is missing, and with it the frame rate",
    }
    (camus / "database_nifti" / "patient0003" / "Info_2CH.cfg").write_bytes(b"Sex: \xff\xfe")
    with pytest.raises(ManifestError, match=r"Info_2CH\.cfg: not a text file in UTF-8"):
        list_source(str(camus))


def test_lists_that_do_not_match_the_patients(camus: Path) -> None:
    write_lists(camus, training="patient0001 patient0002 patient0777", validation="patient0002", testing="")
    listing = list_source(str(camus))
    assert {row.patient_id: row.split for row in listing.rows} == {"patient0001": "TRAIN", "patient0003": ""}
    assert "patients in no list of database_split: 1" in listing.notes
    assert reasons(listing) == {
        "patient0777": "listed in database_split, but has no file",
        "patient0002_2CH_half_sequence": "the patient is in several lists of database_split: TRAIN, VAL",
        "patient0002_4CH_half_sequence": "the patient is in several lists of database_split: TRAIN, VAL",
    }


def test_without_lists_there_is_no_split(camus: Path) -> None:
    for path in (camus / "database_split").iterdir():
        path.unlink()
    assert {row.split for row in list_source(str(camus)).rows} == {""}


def test_files_that_are_missing_or_too_many(camus: Path) -> None:
    folder = camus / "database_nifti" / "patient0001"
    (folder / "patient0001_4CH_half_sequence.nii.gz").unlink()
    (folder / "patient0001_2CH_ES_gt.nii.gz").unlink()
    (folder / "patient0001_2CH_half_sequence.nii").write_bytes(b"")
    (folder / "patient0001_PLAX_half_sequence.nii.gz").write_bytes(b"")
    listing = list_source(str(camus))
    assert len(listing.rows) == 5
    assert {trace.frame for trace in listing.traces if trace.clip_id == "patient0001_2CH"} == {0}
    assert reasons(listing) == {
        "patient0001_4CH_half_sequence": "the half sequence is missing",
        "patient0001_2CH_half_sequence": "another file has the same name",
        "patient0001_PLAX_half_sequence": "no name of a file of CAMUS",
    }
    (camus / "empty" / "database_nifti").mkdir(parents=True)
    with pytest.raises(StorageError, match="no file of CAMUS"):
        list_source(str(camus / "empty"))


@pytest.fixture
def cardiacnet(tmp_path: Path) -> Path:
    return write_cardiacnet(tmp_path)


def test_cardiacnet(cardiacnet: Path) -> None:
    assert find_adapter(str(cardiacnet)).name == "cardiacnet"
    assert find_adapter(str(cardiacnet / "CardiacNet-ASD")).name == "cardiacnet"
    listing = list_source(str(cardiacnet))
    assert listing.rejected == []
    assert {row.clip_id: json.loads(row.labels) for row in listing.rows if row.clip_id.endswith("001")} == {
        "PAH/001": {"abnormal": 1, "diagnosis": "PAH"},
        "Non-PAH/001": {"abnormal": 0, "diagnosis": "Non-PAH"},
        "ASD/001": {"abnormal": 1, "diagnosis": "ASD"},
        "Non-ASD/001": {"abnormal": 0, "diagnosis": "Non-ASD"},
    }
    assert len(listing.rows) == 8
    assert all(row.patient_id == row.clip_id and row.split == "" and row.view == "A4C" for row in listing.rows)
    assert len(list_source(str(cardiacnet / "CardiacNet-ASD")).rows) == 4


def test_cardiacnet_says_no_frame_rate(cardiacnet: Path) -> None:
    row = list_source(str(cardiacnet)).rows[0]
    assert inspect_file(row.uri, row.fps).reason.startswith("neither the file nor its data set says")
    row = list_source(str(cardiacnet), AdapterOptions(fps=30)).rows[0]
    assert inspect_file(row.uri, row.fps).fps == 30


def test_strange_files_in_cardiacnet(cardiacnet: Path) -> None:
    folder = cardiacnet / "CardiacNet-PAH" / "PAH"
    (folder / "001_image.nii.gz").unlink()
    (folder / "002_image.nii").write_bytes(b"")
    (cardiacnet / "003_image.nii.gz").write_bytes(b"")
    (folder / "notes.txt").write_text("")
    listing = list_source(str(cardiacnet))
    assert len(listing.rows) == 7
    assert reasons(listing) == {
        "001_label": "a mask whose image is missing",
        "002_image": "another file has the same name",
        "003_image": "no name of a file of CardiacNet",
    }


def test_frame_rates_in_a_table_of_ones_own(cardiacnet: Path) -> None:
    paths = [f"CardiacNet-PAH/PAH/{number}_image.nii.gz" for number in ("001", "002")]
    table = cardiacnet / "clips.csv"
    table.write_text(f"uri,rate\n{paths[0]},41.5\n{paths[1]},\n")
    options = AdapterOptions(columns={"fps": "rate"}, fps=30)
    assert [row.fps for row in list_source(str(table), options).rows] == [41.5, 30]
    table.write_text(f"uri,rate\n{paths[0]},fast\n{paths[1]},-5\n")
    listing = list_source(str(table), options)
    assert [item.reason for item in listing.rejected] == ["clips.csv: fps = 'fast' is no number"]
    (row,) = listing.rows
    assert inspect_file(row.uri, row.fps).reason == "frame rate -5: 1 to 1000 frames a second are believed"
