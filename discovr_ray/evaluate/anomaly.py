"""Anomaly detection: how far a video is from the normal videos of the training split, by cosine distance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_curve
from sklearn.neighbors import NearestNeighbors

from discovr_ray.errors import EvaluationError
from discovr_ray.evaluate.features import FeatureArray
from discovr_ray.evaluate.knn import refuse_zeros
from discovr_ray.evaluate.metrics import ClassPredictions
from discovr_ray.evaluate.splits import Problem


class Anomalies(NamedTuple):
    """Answers for the test split: class 0 is normal, 1 is anything else."""

    answers: ClassPredictions
    threshold: float  # distance from which a video counts as abnormal, chosen on the validation split
    num_normal: int  # videos in the bank


def anomalies(problem: Problem, neighbours: int) -> Anomalies:
    """Score every test video by its mean distance to the nearest normal videos of the training split.

    The threshold is the one with the best macro F1 on the validation split.

    Errors:
        EvaluationError: no class is the normal one, or the training split has fewer normal videos than `neighbours`.
    """
    if not problem.has_normal:
        raise EvaluationError(
            f"no class is the normal one among {', '.join(problem.classes)}; name it (--normal CLASS)"
        )
    bank = problem.train.x[problem.train.y == 0]
    if not 1 <= neighbours <= len(bank):
        raise EvaluationError(
            f"anomaly neighbours = {neighbours}: must be from 1 to the {len(bank)} normal videos of the training split"
        )
    refuse_zeros(bank, problem.val.x, problem.test.x)
    index = NearestNeighbors(n_neighbors=neighbours, metric="cosine", algorithm="brute").fit(bank.astype(np.float64))
    threshold = best_threshold((problem.val.y != 0).astype(np.int64), _distances(index, problem.val.x))
    scores = _distances(index, problem.test.x)
    truth = (problem.test.y != 0).astype(np.int64)
    both = np.stack([-scores, scores], axis=1)
    return Anomalies(ClassPredictions(truth, (scores >= threshold).astype(np.int64), both), threshold, len(bank))


def best_threshold(abnormal: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> float:
    """The cut between two neighbouring scores with the best macro F1; of equals the one in the middle."""
    false_share, true_share, thresholds = roc_curve(abnormal, scores, drop_intermediate=False)
    if len(thresholds) < 3:  # all scores are equal
        return float(scores[0])
    num_abnormal = int(abnormal.sum())
    hits, alarms = true_share * num_abnormal, false_share * (len(abnormal) - num_abnormal)
    rest = len(abnormal) - num_abnormal - alarms
    f1_abnormal = 2 * hits / (hits + alarms + num_abnormal)
    f1_normal = 2 * rest / (2 * rest + num_abnormal - hits + alarms).clip(1)
    found = ((f1_abnormal + f1_normal) / 2)[1:-1]  # without the ends, where all videos get the same answer
    best = np.flatnonzero(found >= found.max() - 1e-12) + 1
    place = best[len(best) // 2]
    return float(thresholds[place] + thresholds[place + 1]) / 2


def _distances(index: NearestNeighbors, x: FeatureArray) -> npt.NDArray[np.float64]:
    return np.asarray(index.kneighbors(x.astype(np.float64))[0].mean(axis=1), np.float64)
