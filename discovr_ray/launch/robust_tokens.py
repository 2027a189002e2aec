"""Robustness of what patch tokens say: masks and attentive answers of worse videos, by what clean ones taught.

Tokens of all levels are extracted at once and read part by part, so nothing here grows with the number of levels but
the answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from discovr_ray.data import storage
from discovr_ray.errors import EvaluationError
from discovr_ray.evaluate.attentive import Fitted, predictions
from discovr_ray.evaluate.bootstrap import draw_for_classes, draw_for_numbers
from discovr_ray.evaluate.degradations import KINDS, LEVELS, degraded_id
from discovr_ray.evaluate.dense import WHOLE, Item
from discovr_ray.evaluate.embedding import sources_of
from discovr_ray.evaluate.metrics import Doubles, metrics_of
from discovr_ray.evaluate.results import ClassResult, NumberResult
from discovr_ray.evaluate.robustness import Named, Point, levels_of, points_of
from discovr_ray.evaluate.segmentation import Head, TokenArray, dice, predict
from discovr_ray.evaluate.segmentation_scores import draws_of, mean_over
from discovr_ray.evaluate.settings import ProbeSettings
from discovr_ray.evaluate.splits import Problem
from discovr_ray.launch.dense_tokens import Extracted, extract
from discovr_ray.launch.segment import Segmented, Task

logger = logging.getLogger(__name__)

WORSE = [(kind, level) for kind in KINDS for level in LEVELS]
Answer = Callable[[TokenArray, list[int]], Doubles]  # tokens [k, N, D], and which moments they are of -> [k, C]


class _Worse(NamedTuple):
    """Tokens of all moments at all levels, level after level."""

    extracted: Extracted
    items: list[Item]
    num_moments: int

    def answers(self, model: str, answer: Answer) -> Doubles:
        """[levels, moments, C]."""
        found: Doubles | None = None
        for places, tokens in self.extracted.folders[model].stream(self.items):
            values = answer(tokens, (places % self.num_moments).tolist())
            if found is None:
                found = np.zeros((len(self.items), values.shape[1]))
            found[places] = values
        assert found is not None  # there are test videos, or no head had been fitted
        return found.reshape(len(WORSE), self.num_moments, -1)


def segmentation_drops(task: Task, found: Segmented) -> dict[str, list[Point]]:
    """Model -> mean Dice of the test frames, clean and at every level, by the heads that clean frames taught.

    Errors:
        EvaluationError: a video that could be read before cannot be read now. Others as of launch.dense_tokens.extract.
    """
    moments = list(zip(found.clip_ids, found.frames, strict=True))
    worse = _extract(task, moments, "frame_tokens")
    size, count = found.truth.shape[1], len(found.structures)
    patient = dict(zip(task.clips["clip_id"].to_pylist(), task.clips["patient_id"].to_pylist(), strict=True))
    patients = [patient[clip_id] for clip_id in found.clip_ids]
    draws = draws_of(patients, task.settings.draws, task.settings.seed)
    points = {}
    for model, head in found.heads.items():

        def overlaps(tokens: TokenArray, rows: list[int], head: Head = head) -> Doubles:
            return dice(predict(head, tokens, size), found.truth[rows], count)

        of_levels = [np.array(found.results[model].dice), *worse.answers(model, overlaps)]
        named = Named("segmentation", "dice", higher_is_better=True)
        points[model] = points_of(named, levels_of(tuple(KINDS)), [mean_over(of) for of in of_levels], draws)
        logger.info("robustness of segmentation by %s: done", model)
    return points


class Attended(NamedTuple):
    """What the attentive probe said and learnt of one question, on clean videos."""

    problem: Problem  # its test videos are made worse
    results: dict[str, ClassResult | NumberResult]  # model -> result
    fitted: dict[str, Fitted]


def attentive_drops(task: Task, asked: Mapping[str, Attended]) -> dict[str, dict[str, list[Point]]]:
    """ "class" or "number" -> model -> macro F1, or MAE, clean and at every level, by what clean videos taught.

    Args:
        asked: "class" or "number" -> what is known of it.
    Errors:
        As of segmentation_drops.
    """
    clip_ids = sorted({clip_id for of in asked.values() for clip_id in of.problem.test.clip_ids})
    worse = _extract(task, [(clip_id, WHOLE) for clip_id in clip_ids], "clip_tokens")
    place = {clip_id: row for row, clip_id in enumerate(clip_ids)}
    points: dict[str, dict[str, list[Point]]] = {about: {} for about in asked}
    for model in task.encoders:

        def outputs(tokens: TokenArray, rows: list[int], model: str = model) -> Doubles:
            return np.concatenate([of.fitted[model].outputs(tokens) for of in asked.values()], axis=1)

        answers, start = worse.answers(model, outputs), 0
        for about, of in asked.items():
            rows, width = [place[clip_id] for clip_id in of.problem.test.clip_ids], max(1, len(of.problem.classes))
            part, start = answers[:, rows, start : start + width], start + width
            points[about][model] = _attentive_points(task.settings, of, model, part)
        logger.info("robustness of the attentive probe by %s: done", model)
    return points


def _attentive_points(settings: ProbeSettings, asked: Attended, model: str, worse: Doubles) -> list[Point]:
    """`worse`: outputs [levels, test videos, C]."""
    clean, test = asked.results[model], asked.problem.test
    if isinstance(clean, ClassResult):
        named = Named("attentive_class", "macro_f1", higher_is_better=True)
        draws = draw_for_classes(test.patient_ids, test.y, settings.draws, settings.seed)
        levels = [np.array(clean.scores), *worse]
    else:
        named = Named("attentive_number", "mae", higher_is_better=False)
        draws = draw_for_numbers(test.patient_ids, test.y, settings.draws, settings.seed)
        levels = [np.array(clean.predicted)[:, None], *worse]
    metrics = [metrics_of(predictions(test.y, of))[named.metric] for of in levels]
    return points_of(named, levels_of(tuple(KINDS)), metrics, draws)


def _extract(task: Task, moments: Sequence[tuple[str, int]], folder: str) -> _Worse:
    """Tokens of moments (clip, frame) at every level, into folder/degraded/<model>/ of the output.

    Errors:
        EvaluationError: a video that could be read before cannot be read now.
    """
    clips = {clip_id for clip_id, _ in moments}
    chosen = task.clips.filter(pc.is_in(task.clips["clip_id"], pa.array(clips, pa.string())))
    rows = [row | {"clip_id": degraded_id(row["clip_id"], *level)} for row in chosen.to_pylist() for level in WORSE]
    sources = sources_of(chosen)
    items = [
        Item(degraded_id(clip_id, *level), frame, sources[clip_id]) for level in WORSE for clip_id, frame in moments
    ]
    table = pa.Table.from_pylist(rows, schema=chosen.schema)
    uri = storage.join(storage.absolute(task.output), folder, "degraded")
    logger.info("robustness: %d moments, %d degradations of each", len(moments), len(WORSE))
    extracted = extract(task.encoders, table, items, uri, task.options, degraded=True)
    if extracted.failed:
        item, reason = next(iter(extracted.failed.items()))
        raise EvaluationError(
            f"robustness: {len(extracted.failed)} moments of test videos could be read clean and not degraded, such as "
            f"{item.clip_id!r}: {reason}"
        )
    return _Worse(extracted, items, len(moments))
