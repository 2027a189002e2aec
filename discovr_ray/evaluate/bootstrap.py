"""Intervals over patients: how far a number would move, had other patients of the same kind been in the test split.

The percentile bootstrap (Efron and Tibshirani, 1993), patients drawn with replacement together with all their videos. A
draw is a weight for each video, so a metric needs `sample_weight` and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from discovr_ray.errors import EvaluationError

Weights = npt.NDArray[np.float64]  # [n], how often each video was drawn
LOW, HIGH = 2.5, 97.5  # percentiles of the interval
MAX_ROUNDS = 200  # of drawing again


class Estimate(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Resamples:
    """The same draws for every metric and every model that is asked about the same videos, so they can be compared."""

    counts: npt.NDArray[np.uint16]  # [R, P], how often a draw has each patient
    patient: npt.NDArray[np.intp]  # [n], patient of each video
    redrawn: int  # draws that were thrown away because a class was missing in them

    def __iter__(self) -> Iterator[Weights]:
        """One draw after the other; nothing of [R, n] is held."""
        return (counts[self.patient].astype(np.float64) for counts in self.counts)


def draw_patients(
    patient_ids: npt.NDArray[np.str_], num_resamples: int, seed: int, classes: npt.NDArray[np.int64] | None = None
) -> Resamples:
    """Draw as many patients as there are, `num_resamples` times.

    Args:
        patient_ids: [n], of each video.
        classes: [n], class of each video. A draw in which one of them has no video is drawn again, since no recall or
            ROC curve exists for it; `Resamples.redrawn` counts these. The interval is then that of splits which have
            every class, as the splits of a probe must have. None: every draw counts.
    Errors:
        EvaluationError: classes have so few patients that hardly a draw has all.
    """
    patients, patient = np.unique(patient_ids, return_inverse=True)
    present = _patients_of_classes(patient, classes, len(patients))
    generator = np.random.default_rng(seed)
    kept: list[npt.NDArray[np.uint16]] = []
    missing, redrawn = num_resamples, 0
    for _ in range(MAX_ROUNDS):
        drawn = _counts(generator, missing, len(patients))
        whole = ((drawn @ present) > 0).all(axis=1)
        kept.append(drawn[whole])
        missing -= int(whole.sum())
        redrawn += int((~whole).sum())
        if not missing:
            return Resamples(np.concatenate(kept), patient, redrawn)
    raise EvaluationError(
        f"no intervals: {redrawn} draws of {len(patients)} patients lacked a class; the rarest class has "
        f"{int(present.sum(axis=0).min())} patient(s)"
    )


def values_of(metric: Callable[[Weights], float], resamples: Resamples) -> npt.NDArray[np.float64]:
    """The metric of every draw, [R]."""
    return np.array([metric(weights) for weights in resamples])


def estimate(value: float, values: npt.NDArray[np.float64]) -> Estimate:
    """A value with the percentile interval of its draws."""
    low, high = np.percentile(values, (LOW, HIGH))
    return Estimate(float(value), float(low), float(high))


def _counts(generator: np.random.Generator, num_draws: int, num_patients: int) -> npt.NDArray[np.uint16]:
    counts = np.zeros((num_draws, num_patients), np.uint16)
    for row in counts:
        row += np.bincount(generator.integers(num_patients, size=num_patients), minlength=num_patients).astype(
            np.uint16
        )
    return counts


def _patients_of_classes(
    patient: npt.NDArray[np.intp], classes: npt.NDArray[Any] | None, num_patients: int
) -> npt.NDArray[np.int64]:
    """[P, C], 1 where a patient has a video of the class; one class of all where none are given."""
    codes = np.zeros(len(patient), np.int64) if classes is None else np.unique(classes, return_inverse=True)[1]
    present = np.zeros((num_patients, int(codes.max()) + 1), np.int64)
    present[patient, codes] = 1
    return present
