"""What can be asked of a manifest's videos is decided before one is opened."""

from __future__ import annotations

import numpy as np
import pytest
from problems import videos

from discovr_ray.errors import ConfigError, EvaluationError
from discovr_ray.evaluate.questions import pose_questions, problem_of
from discovr_ray.evaluate.settings import ProbeSettings
from discovr_ray.evaluate.targets import ClassRule

VIDEOS = videos(20)  # 24 of TRAIN, 8 of VAL, 8 of TEST
LABELS = [
    {"abnormal": int(patient[1:]) // 5 % 2, "ef": 40.0 + place, "view": "AB"[int(patient[1:]) // 5 % 2]}
    for place, patient in enumerate(VIDEOS.patient_ids)
]


def settings(label: str = "abnormal", **others: object) -> ProbeSettings:
    return ProbeSettings(classes=ClassRule(label), **others)  # type: ignore[arg-type]


def test_everything_can_be_asked() -> None:
    found = pose_questions(VIDEOS, LABELS, settings())
    assert found.skipped == {}
    assert found.rows.counts() == {"train": 24, "val": 8, "test": 8}
    assert found.numbers is not None
    x = np.arange(80, dtype=np.float32).reshape(40, 2)
    assert problem_of(found, "class", x).classes == ("0", "1")
    regression = problem_of(found, "number", x)
    assert regression.test.y.tolist() == [40 + row for row in found.rows.test]
    assert regression.test.x.tolist() == x[found.rows.test].tolist()


def test_what_is_not_asked_has_a_reason() -> None:
    labels = [{"view": item["view"]} for item in LABELS]
    found = pose_questions(VIDEOS, labels, settings("view"))
    assert found.numbers is None
    assert found.skipped["anomaly"] == "no class is the normal one among A, B (--normal CLASS)"
    assert found.skipped["ridge"] == "no video has the label 'ef', and no other number was named"
    assert set(found.skipped) == {"anomaly", "ridge", "mlp", "mean", "few_labels_number"}


def test_a_video_without_the_number_is_counted() -> None:
    labels = [dict(item) for item in LABELS]
    del labels[0]["ef"]
    found = pose_questions(VIDEOS, labels, settings())
    assert found.numbers is not None
    assert found.numbers.rows.left_out == {"without the label": 1}
    assert found.rows.left_out == {}


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"k": 25}, "k = 25: must be at most the 24 videos of the training split"),
        ({"anomaly_neighbours": 13}, "anomaly neighbours = 13: must be at most the 12 normal videos"),
        ({"number": "esv"}, "label 'esv': no video has it; there are: abnormal, ef, view"),
    ],
)
def test_what_asks_for_more_than_there_is_is_refused(asked: dict, reason: str) -> None:
    with pytest.raises(EvaluationError, match=reason):
        pose_questions(VIDEOS, LABELS, settings(**asked))


def test_a_split_of_equal_numbers_is_refused() -> None:
    labels = [
        {**item, "ef": 55.0} if split == "TEST" else item for item, split in zip(LABELS, VIDEOS.splits, strict=True)
    ]
    with pytest.raises(EvaluationError, match="split TEST: all videos have the same ef; two must differ"):
        pose_questions(VIDEOS, labels, settings())


def test_settings_that_make_no_sense_are_refused_together() -> None:
    with pytest.raises(ConfigError) as caught:
        settings(k=0, temperature=0.0, resamples=10, seed=-1)
    assert len(caught.value.problems) == 4
