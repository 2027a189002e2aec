"""The videos that a probe gets most right and most wrong, as small moving pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from discovr_ray.data.clip import load_clip
from discovr_ray.data.microbatch import COLUMNS
from discovr_ray.data.outage import without_path
from discovr_ray.errors import ClipError
from discovr_ray.evaluate.evaluation import Evaluation
from discovr_ray.evaluate.results import ClassResult, NumberResult
from discovr_ray.report.data_samples import FRAME_MS, PICTURE
from discovr_ray.report.section import Picture, Section

logger = logging.getLogger(__name__)

SHOWN = 4  # of the best, and of the worst


class Case(NamedTuple):
    clip_id: str
    caption: str
    error: float  # the larger, the worse


def case_sections(evaluation: Evaluation, clips: pa.Table) -> list[Section]:
    """Best and worst test videos of the encoder's regression, or of its linear probe where there is none.

    Args:
        clips: rows of the manifest.
    Errors:
        StorageError: the storage did not answer.
    """
    numbers = evaluation.of("ridge", NumberResult).get("encoder")
    classes = evaluation.of("linear", ClassResult).get("encoder")
    found = []
    if numbers is not None:
        found.append(_section("cases-number", "Regression: worst and best", number_cases(numbers), clips))
    if classes is not None:
        found.append(_section("cases-class", "Linear probe: worst and best", class_cases(classes), clips))
    return found


def number_cases(result: NumberResult) -> list[Case]:
    return [
        Case(clip_id, f"true {truth:.1f}, predicted {predicted:.1f}", abs(predicted - truth))
        for clip_id, truth, predicted in zip(result.clip_ids, result.truth, result.predicted, strict=True)
    ]


def class_cases(result: ClassResult) -> list[Case]:
    """The error is how little the true class was believed in."""
    rows = zip(result.clip_ids, result.truth, result.predicted, result.scores, strict=True)
    return [
        Case(
            clip_id,
            f"true {result.classes[truth]} ({scores[truth]:.0%}), predicted {result.classes[predicted]}",
            1 - scores[truth],
        )
        for clip_id, truth, predicted, scores in rows
    ]


def extremes(cases: Sequence[Case]) -> tuple[list[Case], list[Case]]:
    """(worst, best), no video in both."""
    ordered = sorted(cases, key=lambda case: (-case.error, case.clip_id))
    count = min(SHOWN, len(ordered) // 2)
    return ordered[:count], ordered[len(ordered) - count :][::-1]


def _section(slug: str, title: str, cases: Sequence[Case], clips: pa.Table) -> Section:
    worst, best = extremes(cases)
    show = _shower(clips)
    pictures, lost = [], []
    for name, chosen in (("worst", worst), ("best", best)):
        for case in chosen:
            picture = show(case, name)
            if isinstance(picture, Picture):
                pictures.append(picture)
            else:
                lost.append(picture)
    lead = "Test videos that the encoder's features get most wrong, then most right; at the heart's own speed."
    return Section(slug, title, [lead, *lost], pictures=pictures)


def _shower(clips: pa.Table) -> Callable[[Case, str], Picture | str]:
    """What loads a case's picture, or says why it cannot."""
    names = [name for name in COLUMNS if name in clips.column_names]

    def show(case: Case, name: str) -> Picture | str:
        (row,) = clips.filter(pc.equal(clips["clip_id"], case.clip_id)).select(names).to_pylist()
        try:
            frames = load_clip(row, PICTURE, 0.5).frames
        except ClipError as error:
            reason = f"{case.clip_id} ({name}) cannot be shown: {without_path(error, row['uri'])}"
            logger.warning(reason)
            return reason
        return Picture(f"{name}: {case.clip_id}", case.caption, frames, FRAME_MS)

    return show
