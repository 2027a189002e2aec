"""The three splits of a probe: rows by the manifest's word, patients whole, nothing missing."""

from __future__ import annotations

import numpy as np
import pytest
from problems import videos

from discovr_ray.errors import EvaluationError, FeaturesError
from discovr_ray.evaluate.splits import Videos, class_rows, pose, split_rows
from discovr_ray.evaluate.targets import Classes

SMALL = Videos(["a", "b", "c", "d", "e"], ["p", "p", "q", "r", "s"], ["TRAIN", "TRAIN", "VAL", "TEST", ""])
ALL = np.ones(5, bool)


def test_every_row_is_in_one_split_or_counted() -> None:
    rows = split_rows(SMALL, np.array([True, False, True, True, True]))
    assert [chosen.tolist() for chosen in (rows.train, rows.val, rows.test)] == [[0], [2], [3]]
    assert rows.left_out == {"in none of TRAIN, VAL and TEST": 1, "without the label": 1}
    assert sum(rows.counts().values()) + sum(rows.left_out.values()) == len(SMALL.clip_ids)


def test_a_problem_has_the_rows_of_its_videos() -> None:
    x = np.arange(10, dtype=np.float32).reshape(5, 2)
    problem = pose(SMALL, x, np.arange(5), split_rows(SMALL, ALL))
    assert problem.train.clip_ids == ["a", "b"]
    assert problem.test.clip_ids == ["d"]
    assert problem.test.x.tolist() == [[6, 7]]
    assert problem.val.y.tolist() == [2]
    assert problem.train.patient_ids.tolist() == ["p", "p"]


def test_a_patient_in_two_splits_is_refused_whatever_its_labels() -> None:
    torn = SMALL._replace(patient_ids=["p", "p", "q", "p", "s"])
    with pytest.raises(EvaluationError, match=r"1 patient\(s\) are in more than one split, such as 'p' in TEST and TR"):
        split_rows(torn, np.array([True, True, True, False, True]))


def test_a_video_without_patient_is_refused() -> None:
    with pytest.raises(EvaluationError, match="video 'c' has no patient_id"):
        split_rows(SMALL._replace(patient_ids=["p", "p", "", "r", "s"]), ALL)


@pytest.mark.parametrize(
    ("splits", "has_target", "reason"),
    [
        (["TRAIN", "TRAIN", "VAL", "", ""], ALL, "split TEST is empty: splits are none 2, TRAIN 2, VAL 1"),
        (["TRAIN", "TRAIN", "TEST", "TEST", "TEST"], ALL, "split VAL is empty"),
        (SMALL.splits, np.array([1, 1, 1, 0, 1], bool), "split TEST is empty: none of its 1 videos has the label"),
    ],
)
def test_an_empty_split_is_refused(splits: list[str], has_target: np.ndarray, reason: str) -> None:
    with pytest.raises(EvaluationError, match=reason):
        split_rows(SMALL._replace(splits=splits), has_target)


def test_a_split_without_one_of_the_classes_is_refused() -> None:
    known = videos(10, 1)
    codes = np.array([place // 5 for place in range(10)])
    assert class_rows(known, Classes(("no", "yes"), 0, codes)).counts() == {"train": 6, "val": 2, "test": 2}
    codes[9] = 0
    with pytest.raises(EvaluationError, match="split TEST has no video of class yes; each of TRAIN, VAL and TEST"):
        class_rows(known, Classes(("no", "yes"), 0, codes))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_refused(value: float) -> None:
    x = np.ones((5, 2), np.float32)
    x[3, 1] = value
    with pytest.raises(FeaturesError, match=r"not finite.*1 clip\(s\): 'd'"):
        pose(SMALL, x, np.arange(5), split_rows(SMALL, ALL))


def test_features_of_other_videos_are_refused() -> None:
    with pytest.raises(EvaluationError, match="features of 4 videos, and there are 5"):
        pose(SMALL, np.ones((4, 2), np.float32), np.arange(5), split_rows(SMALL, ALL))
