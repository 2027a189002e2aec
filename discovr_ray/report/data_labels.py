"""Columns of values, split by split: counts of those with few values, histograms of numbers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from discovr_ray.errors import ManifestError

MAX_CLASSES = 12  # a label with more values is a measurement or a text
BINS = 24
HASHES = ("study",)  # labels that are ids, however few they are
MEASURED = ("heart_rate", "heart_rate_bpm")  # labels that are numbers, however few and whole they are

Counts = dict[str, int]  # split -> clips
Values = npt.NDArray[np.float64]  # one per clip; NaN where it has none


@dataclass(frozen=True)
class Histogram:
    """A number of all clips that have it."""

    clips: int
    minimum: float
    median: float
    maximum: float
    edges: list[float]  # of the bins, one more than there are bins
    counts: dict[str, list[int]]  # split -> clips per bin


class Labels(NamedTuple):
    classes: dict[str, dict[str, Counts]]  # label with few values -> value -> split -> clips
    numbers: dict[str, Values]
    texts: Counts  # label with many texts -> how many different ones


def read_labels(cells: Sequence[str], splits: Sequence[str]) -> Labels:
    """Labels of all clips by what kind of values they have; lists and objects count as texts.

    Errors:
        ManifestError: a cell is no JSON object.
    """
    columns: dict[str, list[Any]] = {}
    for place, cell in enumerate(cells):
        for name, value in _parse(cell).items():
            if name not in columns:
                columns[name] = [None] * len(cells)
            columns[name][place] = value
    labels = Labels({}, {}, {})
    for name, values in sorted(columns.items()):
        kinds = {type(value) for value in values if value is not None}
        different = {str(value) for value in values if value is not None}
        many = float in kinds or len(different) > MAX_CLASSES or name in MEASURED
        if kinds and kinds <= {int, float} and many:
            labels.numbers[name] = np.array([np.nan if value is None else value for value in values], np.float64)
        elif len(different) <= MAX_CLASSES and name not in HASHES:
            labels.classes[name] = count_by_split(["" if value is None else str(value) for value in values], splits)
        else:
            labels.texts[name] = len(different)
    return labels


def values_of(cells: Sequence[str], name: str) -> list[str]:
    """One label of all clips as text, "" where a clip has none."""
    found = (_parse(cell).get(name) for cell in cells)
    return ["" if value is None else str(value) for value in found]


def split_rank(split: str) -> tuple[int, str]:
    """Sorts in the order of training, others last."""
    known = ("TRAIN", "VAL", "TEST")
    return (known.index(split) if split in known else len(known), split)


def count_by_split(values: Sequence[str], splits: Sequence[str]) -> dict[str, Counts]:
    """Value -> split -> clips, most frequent value first; the empty value is left out."""
    pairs = Counter(zip(values, splits, strict=True))
    totals = Counter(values)
    return {
        value: {split: count for (of, split), count in sorted(pairs.items()) if of == value}
        for value, _ in sorted(totals.items(), key=lambda item: (-item[1], item[0]))
        if value
    }


def histogram(values: Values, splits: Sequence[str]) -> Histogram | None:
    """None where no clip has the number."""
    there = np.isfinite(values)
    if not there.any():
        return None
    found = values[there]
    low, high = float(found.min()), float(found.max())
    whole = bool((found == np.rint(found)).all()) and high - low < BINS
    # a bin for each whole number where there are few; equal values get one bin around them
    edges = np.arange(low - 0.5, high + 1) if whole else np.histogram_bin_edges(found, BINS)
    codes = np.array(splits)
    counts = {split: np.histogram(values[there & (codes == split)], edges)[0].tolist() for split in sorted(set(splits))}
    return Histogram(int(there.sum()), low, float(np.median(found)), high, edges.tolist(), counts)


def _parse(cell: str) -> dict[str, Any]:
    try:
        labels = json.loads(cell or "{}")
    except json.JSONDecodeError as error:
        raise ManifestError(f"column labels must hold JSON objects: {cell!r}: {error}") from error
    if not isinstance(labels, dict):
        raise ManifestError(f"column labels must hold JSON objects: {cell!r}")
    return labels
