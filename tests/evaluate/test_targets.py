"""Labels of a manifest become classes and numbers; what cannot be a target is refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest

from discovr_ray.errors import EvaluationError
from discovr_ray.evaluate.targets import ClassRule, class_name, class_targets, number_targets

LABELS: list[dict[str, str | float | bool]] = [
    {"abnormal": 1, "ef": 49.9, "diagnosis": "dilated"},
    {"abnormal": 0.0, "ef": 50.0, "diagnosis": "normal"},
    {"ef": 62, "diagnosis": "amyloid"},
    {},
]


def test_the_normal_class_comes_first_and_a_video_without_the_label_has_none() -> None:
    found = class_targets(LABELS, ClassRule("diagnosis"))
    assert found.names == ("normal", "amyloid", "dilated")
    assert found.normal == 0
    assert found.codes.tolist() == [2, 0, 1, -1]


def test_whole_numbers_are_one_class_however_json_wrote_them() -> None:
    assert [class_name(value) for value in (1, 1.0, 1.5, True, "1")] == ["1", "1", "1.5", "true", "1"]
    assert class_targets(LABELS, ClassRule("abnormal")).codes.tolist() == [1, 0, -1, -1]


def test_a_threshold_makes_the_classes_of_ingest() -> None:
    """Below is 1, at the value itself is 0, as jobs/ingest.py --threshold ef=50 labels them."""
    found = class_targets(LABELS, ClassRule("ef", below=50))
    assert (found.names, found.normal) == (("0", "1"), 0)
    assert found.codes.tolist() == [1, 0, 0, -1]


def test_a_normal_class_of_another_name_is_named() -> None:
    found = class_targets(LABELS, ClassRule("diagnosis", normal="dilated"))
    assert found.names == ("dilated", "amyloid", "normal")
    none = class_targets([{"view": "A4C"}, {"view": "PLAX"}], ClassRule("view"))
    assert (none.names, none.normal) == (("A4C", "PLAX"), None)


@pytest.mark.parametrize(
    ("labels", "rule", "reason"),
    [
        (LABELS, ClassRule("sex"), "label 'sex': no video has it; there are: abnormal, diagnosis, ef"),
        ([{"a": 1}, {"a": 1.0}, {}], ClassRule("a"), "all videos that have it are of class '1'; two are needed"),
        (LABELS, ClassRule("ef", below=10), "'ef below 10': all videos that have it are of class '0'"),
        ([{"a": n / 7} for n in range(40)], ClassRule("a"), "40 different values.*--threshold a=VALUE"),
        (LABELS, ClassRule("diagnosis", normal="healthy"), "normal class 'healthy': .* amyloid, dilated, normal"),
        (LABELS, ClassRule("diagnosis", below=1), "must be a number, and a video has 'dilated'"),
    ],
)
def test_what_makes_no_classes_is_refused(labels: list, rule: ClassRule, reason: str) -> None:
    with pytest.raises(EvaluationError, match=reason):
        class_targets(labels, rule)


def test_numbers() -> None:
    assert np.array_equal(number_targets(LABELS, "ef"), [49.9, 50, 62, np.nan], equal_nan=True)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([{"a": 1}], "label 'ef': no video has it; there are: a"),
        ([{"ef": 55}, {"ef": 55.0}], "all videos that have it have 55; nothing is there to predict"),
        ([{"ef": 55}, {"ef": "low"}], "must be a number, and a video has 'low'"),
        ([{"ef": 55}, {"ef": True}], "must be a number, and a video has True"),
        ([{"ef": 55}, {"ef": float("nan")}], "must be a number, and a video has nan"),
    ],
)
def test_what_is_no_number_is_refused(labels: list, reason: str) -> None:
    with pytest.raises(EvaluationError, match=reason):
        number_targets(labels, "ef")
