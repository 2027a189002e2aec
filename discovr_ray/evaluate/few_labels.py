"""How much a probe learns from a share of the labelled patients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from discovr_ray.evaluate.splits import Problem, Side

SHARES = (0.01, 0.05, 0.1, 1.0)  # of the training patients


class Few(NamedTuple):
    """What a probe says after it has seen some of the training patients."""

    share: float
    seed: int
    num_patients: int
    num_videos: int
    answers: Any  # metrics.ClassPredictions or metrics.NumberPredictions of the whole test split


def few_labels(problem: Problem, probe: Callable[[Problem], Any], seeds: range, min_patients: int = 1) -> list[Few]:
    """Fit `probe` on shares of the training patients, each share within the next larger one of the same seed.

    The validation split stays whole, since it only chooses one number. With all patients there is nothing to draw, so
    that share has one entry, of the first seed.

    Args:
        probe: problem -> answers for its test split.
        min_patients: a share has at least so many; and of a classification as many more, in the order they were
            drawn, as it takes until every class is there. `Few.num_patients` says what it came to.
    """
    found = []
    for seed in seeds:
        order = patient_order(problem.train, seed)
        smallest = max(min_patients, _patients_until_all_classes(problem, order))
        for share in SHARES:
            if share == 1 and seed != seeds[0]:
                continue
            chosen = order[: max(smallest, math.ceil(share * len(order)))]
            side = problem.train.take(np.flatnonzero(np.isin(problem.train.patient_ids, chosen)))
            answers = probe(problem._replace(train=side))
            found.append(Few(share, seed, len(chosen), len(side.clip_ids), answers))
    return found


def patient_order(side: Side, seed: int) -> npt.NDArray[np.str_]:
    """The patients of a split, shuffled; a share takes them from the front."""
    return np.random.default_rng(seed).permutation(np.unique(side.patient_ids))


def _patients_until_all_classes(problem: Problem, order: npt.NDArray[np.str_]) -> int:
    """How many patients from the front of the order have a video of every class."""
    place = {patient: number for number, patient in enumerate(order.tolist(), start=1)}
    first: dict[int, int] = {}
    for patient, code in zip(problem.train.patient_ids.tolist(), problem.train.y.tolist(), strict=True):
        if problem.classes:
            first[code] = min(first.get(code, len(order)), place[patient])
    return max(first.values(), default=1)
