"""One row from what the source says and what the file says."""

from __future__ import annotations

import json

import pytest

from discovr_ray.data.adapters.listing import AdapterOptions, Listing, Row
from discovr_ray.data.formats.reader import Details
from discovr_ray.errors import ManifestError
from discovr_ray.launch.inspection import Facts
from discovr_ray.launch.rows import class_notes, merged, with_unique_ids, worth_a_look
from discovr_ray.launch.splits import SplitRule

OWN = Details(clip_id="file id", patient_id="file patient", view="PLAX", labels='{"ef": 1, "heart_rate_bpm": 70}')


def row(**changes: object) -> Row:
    return Row("x", "/x.avi", "", "", "", "{}")._replace(**changes)


def facts(details: Details, sha256: str = "aa") -> Facts:
    return Facts("avi", 2, 1.0, 8, 8, 1, sha256, details=json.dumps(details._asdict()))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (row(named=False), ("file id", "file patient", "PLAX", 1)),
        (row(named=False, patient_id="p7"), ("file id", "file patient", "PLAX", 1)),
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
    assert silent._replace(named=True) == said._replace(named=True)


def test_a_file_without_ids_must_not_be_named_by_its_path() -> None:
    nameless = facts(Details(anonymous="no ids in it"))
    assert merged(row(named=False), nameless, AdapterOptions()).facts.reason == "no ids in it"
    assert merged(row(patient_id="p7"), nameless, AdapterOptions()).facts.reason == ""


def test_classes_by_threshold() -> None:
    options = AdapterOptions(thresholds={"ef": 50, "rvef": 45})
    labels = ['{"ef": 49.9, "rvef": 45}', '{"ef": 50}', '{"ef": "?"}', '{"ef": true}', "{}"]
    looked = [merged(row(labels=text), facts(Details()), options) for text in labels]
    classes = [{key: value for key, value in json.loads(item.row.labels).items() if "low" in key} for item in looked]
    assert classes == [{"low_ef": 1, "low_rvef": 0}, {"low_ef": 0}, {}, {}, {}]
    assert class_notes(looked, options.thresholds) == [
        "low_ef: 1 of 2 clips are below 50; 3 have no number ef",
        "low_rvef: 0 of 1 clips are below 45; 4 have no number rvef",
    ]
    with pytest.raises(ManifestError, match="the label low_ef is already there"):
        merged(row(labels='{"ef": 3, "low_ef": 0}'), facts(Details()), options)


def test_views() -> None:
    options = AdapterOptions(views=("A4C", "PSAX"))
    rows = [row(uri="1", view="A4C"), row(uri="2", view="PLAX"), row(uri="3")]
    kept, rejected = worth_a_look([Listing(rows, [])], options, SplitRule())
    assert [item.uri for item in kept] == ["1", "3"]
    assert [tuple(item) for item in rejected] == [("2", "view 'PLAX' is none of --views A4C,PSAX")]
    assert merged(row(), facts(OWN), options).facts.reason == "view 'PLAX' is none of --views A4C,PSAX"
    assert merged(row(), facts(Details(view="PSAX")), options).facts.reason == ""


def test_what_the_listing_rules_out_is_never_opened() -> None:
    first, second = row(uri="1", split="TRAIN", patient_id="p"), row(uri="2", split="VAL", patient_id="p")
    with pytest.raises(ManifestError, match=r"'p' in TRAIN and VAL"):
        worth_a_look([Listing([first], []), Listing([second], [])], AdapterOptions(), SplitRule())
    kept, _ = worth_a_look([Listing([first, second], [])], AdapterOptions(), SplitRule("hash"))
    assert kept == [first, second]
    twice = [Listing([first], []), Listing([row(uri="1", split="TEST")], [])]
    assert worth_a_look(twice, AdapterOptions(), SplitRule()) == ([first], [])
    odd = [Listing([row(uri="3", split="FOLD 3")], [])]
    assert "split 'FOLD 3'" in worth_a_look(odd, AdapterOptions(), SplitRule())[1][0].reason


def test_a_clip_without_a_patient_is_one_itself() -> None:
    looked = [merged(row(uri=name), facts(Details(), name), AdapterOptions()) for name in ("11", "22")]
    kept, _ = with_unique_ids(looked)
    assert [(item.row.clip_id, item.row.patient_id) for item in kept] == [("x~11", "x~11"), ("x~22", "x~22")]
