"""Intervals over patients: how far a number would move, had other patients of the same kind been in the test split.

The percentile bootstrap (Efron and Tibshirani, 1993), patients drawn with replacement together with all their videos. A
draw is a weight for each video, so a metric needs `sample_weight` and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

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
    redrawn: int  # draws that were thrown away because no metric exists for them

    def __iter__(self) -> Iterator[Weights]:
        """One draw after the other; nothing of [R, n] is held."""
        return (counts[self.patient].astype(np.float64) for counts in self.counts)


def draw_for_classes(
    patient_ids: npt.NDArray[np.str_], classes: npt.NDArray[np.int64], num_resamples: int, seed: int
) -> Resamples:
    """Draw as many patients as there are, `num_resamples` times, for metrics of a classification.

    A draw in which one of the classes has no video is drawn again, since no recall or ROC curve exists for it;
    `Resamples.redrawn` counts these. The interval is then that of splits which have every class, as a probe's must.

    Args:
        patient_ids, classes: [n], of each video.
    Errors:
        EvaluationError: classes have so few patients that hardly a draw has all.
    """
    patients, patient = np.unique(patient_ids, return_inverse=True)
    codes = np.unique(classes, return_inverse=True)[1]
    present = np.zeros((len(patients), int(codes.max()) + 1), np.int64)
    present[patient, codes] = 1
    rule = f"has a video of every class; the rarest class has {int(present.sum(axis=0).min())} patient(s)"
    return _draw(patient, num_resamples, seed, lambda drawn: np.asarray(((drawn @ present) > 0).all(axis=1)), rule)


def draw_for_numbers(
    patient_ids: npt.NDArray[np.str_], values: npt.NDArray[np.float64], num_resamples: int, seed: int
) -> Resamples:
    """The same for metrics of a regression: a draw in which all videos have the same value is drawn again, since no R2
    exists for it.

    Args:
        patient_ids, values: [n], of each video.
    Errors:
        EvaluationError: hardly a draw has two values.
    """
    patients, patient = np.unique(patient_ids, return_inverse=True)
    lowest, highest = np.full(len(patients), np.inf), np.full(len(patients), -np.inf)
    np.minimum.at(lowest, patient, values)
    np.maximum.at(highest, patient, values)

    def differ(drawn: npt.NDArray[np.uint16]) -> npt.NDArray[np.bool_]:
        there = drawn > 0
        low, high = np.where(there, lowest, np.inf), np.where(there, highest, -np.inf)
        return np.asarray(low.min(axis=1) < high.max(axis=1))

    return _draw(patient, num_resamples, seed, differ, "has videos of two values")


def draw_for_means(patient_ids: npt.NDArray[np.str_], num_resamples: int, seed: int) -> Resamples:
    """The same for means over videos or frames, which every draw has."""
    patient = np.unique(patient_ids, return_inverse=True)[1]
    return _draw(patient, num_resamples, seed, lambda drawn: np.ones(len(drawn), bool), "")


def values_of(metric: Callable[[Weights], float], resamples: Resamples) -> npt.NDArray[np.float64]:
    """The metric of every draw, [R]."""
    return np.array([metric(weights) for weights in resamples])


def estimate(value: float, values: npt.NDArray[np.float64]) -> Estimate:
    """A value with the percentile interval of its draws."""
    low, high = np.percentile(values, (LOW, HIGH))
    return Estimate(float(value), float(low), float(high))


def _draw(
    patient: npt.NDArray[np.intp],
    num_resamples: int,
    seed: int,
    usable: Callable[[npt.NDArray[np.uint16]], npt.NDArray[np.bool_]],
    rule: str,
) -> Resamples:
    """Draws [R, P] that are usable. `rule` says in an error which ones are."""
    num_patients = int(patient.max()) + 1
    generator = np.random.default_rng(seed)
    kept: list[npt.NDArray[np.uint16]] = []
    missing, redrawn = num_resamples, 0
    for _ in range(MAX_ROUNDS):
        drawn = _counts(generator, missing, num_patients)
        good = usable(drawn)
        kept.append(drawn[good])
        missing -= int(good.sum())
        redrawn += int((~good).sum())
        if not missing:
            return Resamples(np.concatenate(kept), patient, redrawn)
    raise EvaluationError(f"no intervals: of {redrawn} draws of {num_patients} test patients hardly one {rule}")


def _counts(generator: np.random.Generator, num_draws: int, num_patients: int) -> npt.NDArray[np.uint16]:
    counts = np.zeros((num_draws, num_patients), np.uint16)
    for row in counts:
        row += np.bincount(generator.integers(num_patients, size=num_patients), minlength=num_patients).astype(
            np.uint16
        )
    return counts
