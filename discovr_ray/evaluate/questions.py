"""What can be asked about the videos of a manifest: decided from labels and splits alone, before a video is opened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from discovr_ray.errors import EvaluationError
from discovr_ray.evaluate.features import FeatureArray
from discovr_ray.evaluate.settings import DEFAULT_NUMBER, ProbeSettings
from discovr_ray.evaluate.splits import Problem, Rows, Videos, class_rows, pose, split_rows
from discovr_ray.evaluate.targets import Classes, Labels, class_targets, number_targets


class Numbers(NamedTuple):
    """The regression."""

    name: str  # of the label
    values: npt.NDArray[np.float64]  # [n], NaN where a video has none
    rows: Rows


class Questions(NamedTuple):
    videos: Videos
    classes: Classes
    rows: Rows  # of the classification
    numbers: Numbers | None
    skipped: dict[str, str]  # name of a probe -> why it is not asked


def pose_questions(videos: Videos, labels: Sequence[Labels], settings: ProbeSettings) -> Questions:
    """Check labels and splits, and that no setting asks for more videos than there are.

    Errors:
        EvaluationError: as of the functions in targets.py and splits.py, k or anomaly_neighbours is above what the
            training split has, or there is no label `settings.number`.
    """
    classes = class_targets(labels, settings.classes)
    rows = class_rows(videos, classes)
    if settings.k > len(rows.train):
        raise EvaluationError(f"k = {settings.k}: must be at most the {len(rows.train)} videos of the training split")
    skipped = {}
    if classes.normal is None:
        skipped["anomaly"] = f"no class is the normal one among {', '.join(classes.names)} (--normal CLASS)"
    else:
        num_normal = int((classes.codes[rows.train] == classes.normal).sum())
        if settings.anomaly_neighbours > num_normal:
            raise EvaluationError(
                f"anomaly neighbours = {settings.anomaly_neighbours}: must be at most the {num_normal} normal videos "
                "of the training split"
            )
    numbers = _numbers(videos, labels, settings)
    if numbers is None:
        reason = f"no video has the label {DEFAULT_NUMBER!r}, and no other number was named"
        skipped |= dict.fromkeys(("ridge", "mlp", "mean", "few_labels_number"), reason)
    return Questions(videos, classes, rows, numbers, skipped)


def problem_of(questions: Questions, about: str, x: FeatureArray) -> Problem:
    """The classification ("class") or regression ("number") of features x [n, D].

    Errors:
        FeaturesError, EvaluationError: as of splits.pose.
    """
    if about == "class":
        return pose(questions.videos, x, questions.classes.codes, questions.rows, questions.classes)
    assert questions.numbers is not None
    return pose(questions.videos, x, questions.numbers.values, questions.numbers.rows)


def _numbers(videos: Videos, labels: Sequence[Labels], settings: ProbeSettings) -> Numbers | None:
    name = settings.number or DEFAULT_NUMBER
    if not settings.number and all(item.get(name) is None for item in labels):
        return None
    values = number_targets(labels, name)
    rows = split_rows(videos, np.isfinite(values))
    for split, chosen in (("TRAIN", rows.train), ("TEST", rows.test)):
        if len(np.unique(values[chosen])) < 2:
            raise EvaluationError(f"split {split}: all videos have the same {name}; two must differ")
    return Numbers(name, values, rows)
