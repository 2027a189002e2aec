"""Zero-shot classification: the training split is the bank, its nearest videos vote, nothing is fitted.

Cosine similarity s, and votes exp(s / temperature), as of Wu et al., "Unsupervised feature learning via non-parametric
instance discrimination" (CVPR 2018). A video is one row, so it has one vote however many clips were taken of it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import KNeighborsClassifier

from discovr_ray.errors import EvaluationError
from discovr_ray.evaluate.features import FeatureArray
from discovr_ray.evaluate.metrics import ClassPredictions
from discovr_ray.evaluate.splits import Problem, Side


def knn_votes(
    bank: Side, queries: FeatureArray, num_classes: int, k: int, temperature: float
) -> npt.NDArray[np.float64]:
    """Shares of the votes that each class gets, [n, C]; each row adds up to 1.

    Errors:
        EvaluationError: the bank has fewer than k videos, or a feature without direction (all zeros).
    """
    if not 1 <= k <= len(bank.y):
        raise EvaluationError(f"k = {k}: must be from 1 to the {len(bank.y)} videos of the training split")

    def votes(distances: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        # against the nearest one, so that a low temperature leaves no row without votes
        return np.asarray(np.exp((distances.min(axis=1, keepdims=True) - distances) / temperature))

    refuse_zeros(bank.x, queries)
    model = KNeighborsClassifier(n_neighbors=k, metric="cosine", algorithm="brute", weights=votes)
    model.fit(bank.x.astype(np.float64), bank.y)  # in float32, ties and near-ties fall as the machine rounds
    shares = np.zeros((len(queries), num_classes))
    shares[:, model.classes_] = model.predict_proba(queries.astype(np.float64))
    return shares


def knn(problem: Problem, k: int, temperature: float) -> ClassPredictions:
    """Answers for the test split. Neither k nor temperature is chosen from data.

    Errors:
        EvaluationError: as of knn_votes.
    """
    shares = knn_votes(problem.train, problem.test.x, len(problem.classes), k, temperature)
    return ClassPredictions(problem.test.y, shares.argmax(axis=1), shares)


def refuse_zeros(*features: FeatureArray) -> None:
    for x in features:
        empty = int((~x.any(axis=1)).sum())
        if empty:
            raise EvaluationError(f"{empty} of {len(x)} videos have features of zeros, which no cosine is defined for")
