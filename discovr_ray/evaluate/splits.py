"""Which videos teach, which choose and which are asked: a probe's three splits, and what must hold between them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from discovr_ray.errors import EvaluationError
from discovr_ray.evaluate.features import FeatureArray, check_finite
from discovr_ray.evaluate.targets import Classes

SPLITS = ("TRAIN", "VAL", "TEST")


class Videos(NamedTuple):
    """What is known of all videos beside their features; rows in the order of the features."""

    clip_ids: Sequence[str]
    patient_ids: Sequence[str]
    splits: Sequence[str]


class Side(NamedTuple):
    """Videos of one split."""

    clip_ids: list[str]
    patient_ids: npt.NDArray[np.str_]  # [n]
    x: FeatureArray  # [n, D]
    y: npt.NDArray[Any]  # [n], int64 class or float64 number

    def take(self, rows: npt.NDArray[np.intp]) -> Side:
        return Side([self.clip_ids[row] for row in rows], self.patient_ids[rows], self.x[rows], self.y[rows])


class Problem(NamedTuple):
    """A question about videos. What is fitted sees `train`, what is chosen sees `val`, numbers come from `test`."""

    train: Side
    val: Side
    test: Side
    classes: tuple[str, ...] = ()  # of a classification; the normal class, if any, is the first
    has_normal: bool = False


class Rows(NamedTuple):
    """Row numbers of each split, and why the other rows are in none."""

    train: npt.NDArray[np.intp]
    val: npt.NDArray[np.intp]
    test: npt.NDArray[np.intp]
    left_out: dict[str, int]  # reason -> videos

    def counts(self) -> dict[str, int]:
        return {"train": len(self.train), "val": len(self.val), "test": len(self.test)}


def split_rows(videos: Videos, has_target: npt.NDArray[np.bool_]) -> Rows:
    """Rows of TRAIN, VAL and TEST that have a target.

    Errors:
        EvaluationError: a patient without id or in two splits, or a split without a video. All rows count for the
            patients, also those without a target.
    """
    check_patients(videos)
    codes = np.array(videos.splits, np.str_)
    known = np.isin(codes, SPLITS)
    left_out = {
        "in none of TRAIN, VAL and TEST": int((~known).sum()),
        "without the label": int((known & ~has_target).sum()),
    }
    chosen = [np.flatnonzero((codes == split) & has_target) for split in SPLITS]
    for split, rows in zip(SPLITS, chosen, strict=True):
        if not len(rows):
            count = int((codes == split).sum())
            raise EvaluationError(
                f"split {split} is empty: "
                + (f"none of its {count} videos has the label" if count else f"splits are {_counted(videos.splits)}")
            )
    train, val, test = chosen
    return Rows(train, val, test, {reason: count for reason, count in left_out.items() if count})


def class_rows(videos: Videos, classes: Classes) -> Rows:
    """`split_rows` of a classification.

    Errors:
        EvaluationError: as of split_rows; or a split lacks a class, which then could not be learnt, chosen or scored.
    """
    rows = split_rows(videos, classes.codes >= 0)
    for split, chosen in zip(SPLITS, rows[:3], strict=True):
        missing = [name for code, name in enumerate(classes.names) if code not in classes.codes[chosen]]
        if missing:
            raise EvaluationError(
                f"split {split} has no video of class {', '.join(missing)}; each of TRAIN, VAL and TEST needs every "
                f"class ({', '.join(classes.names)})"
            )
    return rows


def pose(videos: Videos, x: FeatureArray, y: npt.NDArray[Any], rows: Rows, classes: Classes | None = None) -> Problem:
    """The problem of features x [n, D] and targets y [n] of all videos, cut up by `rows`.

    Errors:
        FeaturesError: a feature is NaN or infinite. EvaluationError: features of another number of videos.
    """
    if len(x) != len(videos.clip_ids):
        raise EvaluationError(f"features of {len(x)} videos, and there are {len(videos.clip_ids)}")
    check_finite(videos.clip_ids, x, "probe")
    everything = Side(list(videos.clip_ids), np.array(videos.patient_ids, np.str_), x, y)
    train, val, test = (everything.take(chosen) for chosen in (rows.train, rows.val, rows.test))
    return Problem(train, val, test, classes.names if classes else (), bool(classes and classes.normal is not None))


def check_patients(videos: Videos) -> None:
    """Refuse patients that cross splits.

    Errors:
        EvaluationError: a video without patient, or a patient in two splits; names one.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    for clip_id, patient, split in zip(videos.clip_ids, videos.patient_ids, videos.splits, strict=True):
        if not patient:
            raise EvaluationError(f"video {clip_id!r} has no patient_id; splits and intervals are those of patients")
        if split:
            splits[patient].add(split)
    torn = sorted(patient for patient, found in splits.items() if len(found) > 1)
    if torn:
        raise EvaluationError(
            f"{len(torn)} patient(s) are in more than one split, such as {torn[0]!r} in "
            f"{' and '.join(sorted(splits[torn[0]]))}; what is learnt of a patient must not be asked about it"
        )


def _counted(splits: Sequence[str]) -> str:
    return ", ".join(f"{split or 'none'} {count}" for split, count in sorted(Counter(splits).items())) or "no video"
