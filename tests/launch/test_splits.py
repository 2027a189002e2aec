"""Splits: patients stay whole, whatever the sources say."""

from __future__ import annotations

import pytest

from discovr_ray.errors import ManifestError
from discovr_ray.launch.splits import SplitRule, Torn, hashed_splits

PATIENTS = ["a", "b", "a", "c"]


def test_given_splits_win_and_patients_stay_whole() -> None:
    rule = SplitRule("given", (0.0, 0.0, 1.0))
    assert rule.of_clips(PATIENTS, ["VAL", "", "VAL", "TRAIN"]) == ["VAL", "TEST", "VAL", "TRAIN"]
    assert SplitRule("none").of_clips(PATIENTS, ["VAL", "", "TRAIN", ""]) == [""] * 4


def test_a_torn_patient_is_refused_and_a_hash_is_the_way_out() -> None:
    torn = Torn("a", ["TRAIN", "VAL"], 1)
    with pytest.raises(ManifestError, match=r"1 patient\(s\) .* such as 'a' in TRAIN and VAL; --split-rule hash"):
        SplitRule().check(torn)
    SplitRule().check(None)
    rule = SplitRule("hash", (0.4, 0.3, 0.3))
    rule.check(torn)
    hashed = rule.of_clips(PATIENTS, ["VAL", "TEST", "TRAIN", "TRAIN"])
    assert hashed == hashed_splits(PATIENTS, (0.4, 0.3, 0.3))
    assert hashed[0] == hashed[2]


def test_what_is_no_split() -> None:
    assert "split 'FOLD 3' is none of TRAIN" in SplitRule().reason_against("FOLD 3")
    assert [SplitRule().reason_against(split) for split in ("TRAIN", "VAL", "TEST", "")] == [""] * 4
    assert SplitRule("hash").reason_against("FOLD 3") == SplitRule("none").reason_against("FOLD 3") == ""
