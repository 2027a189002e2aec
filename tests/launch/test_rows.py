"""One row from what the source says and what the file says."""

from __future__ import annotations

import json

import pytest

from discovr_ray.data.adapters.listing import AdapterOptions, Row
from discovr_ray.data.formats.reader import Details
from discovr_ray.errors import ManifestError
from discovr_ray.launch.inspection import Facts
from discovr_ray.launch.rows import ClassCount, merged, reason_against
from discovr_ray.launch.splits import SplitRule

OWN = Details(clip_id="file id", patient_id="file patient", view="PLAX", labels='{"ef": 1, "heart_rate_bpm": 70}')


def row(**changes: object) -> Row:
    return Row("x", "/x.avi", "", "", "", "{}")._replace(**changes)


def path_row(**changes: object) -> Row:
    return row(names_clip=False, names_patient=False, **changes)


def facts(details: Details, sha256: str = "aa") -> Facts:
    return Facts("avi", 2, 1.0, 8, 8, 1, sha256, details=json.dumps(details._asdict()))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (path_row(), ("file id", "file patient", "PLAX", 1)),
        (path_row(patient_id="p7"), ("file id", "file patient", "PLAX", 1)),
        (row(names_clip=False, patient_id="p7"), ("file id", "p7", "PLAX", 1)),
        (row(patient_id="p7", view="A4C", labels='{"ef": 55}'), ("x", "p7", "A4C", 55)),
        (row(), ("x", "file patient", "PLAX", 1)),
    ],
)
def test_whose_word_counts(said: Row, expected: tuple[object, ...]) -> None:
    found = merged(said, facts(OWN), AdapterOptions()).row
    labels = json.loads(found.labels)
    assert (found.clip_id, found.patient_id, found.view, labels["ef"]) == expected
    assert labels["heart_rate_bpm"] == 70
    silent = merged(said, facts(Details()), AdapterOptions()).row
    assert silent == said


def test_a_file_without_ids_must_not_be_named_by_its_path() -> None:
    nameless = facts(Details(anonymous="no ids in it"))
    half_named = [row(), path_row(patient_id="p7"), row(names_clip=False, patient_id="p7")]
    for said in (path_row(), *half_named):
        assert merged(said, nameless, AdapterOptions()).facts.reason == "no ids in it"
    assert merged(row(patient_id="p7"), nameless, AdapterOptions()).facts.reason == ""
    without_patient = facts(Details(clip_id="file id", anonymous="no patient in it"))
    found = merged(row(names_clip=False, patient_id="p7"), without_patient, AdapterOptions())
    assert (found.row.clip_id, found.row.patient_id, found.facts.reason) == ("file id", "p7", "")
    assert merged(path_row(patient_id="p7"), without_patient, AdapterOptions()).facts.reason == "no patient in it"


def test_classes_by_threshold() -> None:
    options = AdapterOptions(thresholds={"ef": 50, "rvef": 45})
    labels = ['{"ef": 49.9, "rvef": 45}', '{"ef": 50}', '{"ef": "?"}', '{"ef": true}', "{}"]
    looked = [merged(row(labels=text), facts(Details()), options) for text in labels]
    classes = [{key: value for key, value in json.loads(item.row.labels).items() if "low" in key} for item in looked]
    assert classes == [{"low_ef": 1, "low_rvef": 0}, {"low_ef": 0}, {}, {}, {}]
    count = ClassCount(options.thresholds)
    count.add(item.row.labels for item in looked[:2])
    count.add(item.row.labels for item in looked[2:])
    assert list(count.notes()) == [
        "low_ef: 1 of 2 clips are below 50; 3 have no number ef",
        "low_rvef: 0 of 1 clips are below 45; 4 have no number rvef",
    ]
    with pytest.raises(ManifestError, match="the label low_ef is already there"):
        merged(row(labels='{"ef": 3, "low_ef": 0}'), facts(Details()), options)


def test_views() -> None:
    options = AdapterOptions(views=("A4C", "PSAX"))
    reasons = [reason_against(row(view=view), options, SplitRule()) for view in ("A4C", "PLAX", "")]
    assert reasons == ["", "view 'PLAX' is none of --views A4C,PSAX", ""]
    assert merged(row(), facts(OWN), options).facts.reason == "view 'PLAX' is none of --views A4C,PSAX"
    assert merged(row(), facts(Details(view="PSAX")), options).facts.reason == ""


def test_what_the_sources_word_rules_out() -> None:
    assert "split 'FOLD 3'" in reason_against(row(split="FOLD 3"), AdapterOptions(), SplitRule())
    assert reason_against(row(split="FOLD 3"), AdapterOptions(), SplitRule("hash")) == ""
    with pytest.raises(ManifestError, match="the label low_ef is already there"):
        reason_against(row(labels='{"low_ef": 0}'), AdapterOptions(thresholds={"ef": 50}), SplitRule())
