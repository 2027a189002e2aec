"""Robustness as a part of an evaluation: test videos are embedded again, worse, and the clean probes asked.

The encoder and both floors see the same degraded frames, decoded once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from discovr_ray.data import storage
from discovr_ray.data.clip import load_clip
from discovr_ray.data.outage import without_path
from discovr_ray.errors import ClipError, EvaluationError
from discovr_ray.evaluate.degradations import (
    KINDS,
    LEVELS,
    DegradedPreprocessing,
    decode_degraded,
    degrade,
    degraded_id,
    strength_text,
)
from discovr_ray.evaluate.embedding import sources_of
from discovr_ray.evaluate.evaluation import MODELS
from discovr_ray.evaluate.feature_folder import FeatureFolder
from discovr_ray.evaluate.features import FeatureArray, read_features
from discovr_ray.evaluate.floors import PixelFloor
from discovr_ray.evaluate.kept import KeptResults, Kind, library_versions
from discovr_ray.evaluate.questions import Questions, pose_questions, problem_of
from discovr_ray.evaluate.results import to_plain
from discovr_ray.evaluate.robustness import RobustnessResult, robustness, robustness_from_plain
from discovr_ray.evaluate.splits import Problem, Videos
from discovr_ray.launch import embed
from discovr_ray.launch.evaluate import Prepared
from discovr_ray.report.data_samples import FRAME_MS, PICTURE
from discovr_ray.report.robustness_sections import robustness_section
from discovr_ray.report.section import Picture, Section

logger = logging.getLogger(__name__)

NAME = "robustness"
VERSION = 1  # of what is computed here; another one makes kept results worthless
RESULT = Kind(NAME, robustness_from_plain)


def run_robustness(prepared: Prepared) -> tuple[Mapping[str, Any], Sequence[Section]]:
    """As of launch.evaluate.Further; runs after the clean videos were embedded."""
    settings, kinds = prepared.settings, tuple(KINDS)
    known = read_features(storage.join(prepared.output, "features", "encoder"))
    questions = pose_questions(Videos(known.clip_ids, known.patient_ids, known.splits), known.labels, settings)
    rows = {*questions.rows.test, *(questions.numbers.rows.test if questions.numbers else ())}
    ids = sorted(known.clip_ids[row] for row in rows)
    folders = _embed_degraded(prepared, ids, kinds)
    kept = KeptResults(storage.join(prepared.output, "answers"))
    results: dict[str, RobustnessResult] = {}
    for model in MODELS:  # one at a time: all of them at once would be as much again as the evaluation holds
        x, degraded = _features(prepared, questions, model, folders[model])
        problems = {"class": problem_of(questions, "class", x)}
        if questions.numbers is not None:
            problems["number"] = problem_of(questions, "number", x)
        key = _key(prepared, problems, degraded)
        result: RobustnessResult | None = kept.get(model, RESULT, key)
        if result is None:
            result = robustness(problems, degraded, kinds, settings)
            kept.put(model, RESULT, key, result)
        results[model] = result
        logger.info("robustness of %s: done", model)
    section = robustness_section(results, kinds)
    pictures, lost = _pictures(prepared, ids[0], kinds)
    section = section._replace(paragraphs=[*section.paragraphs, *lost], pictures=pictures)
    return {"results": to_plain(results)}, [section]


def _features(
    prepared: Prepared, questions: Questions, model: str, folder: str
) -> tuple[FeatureArray, dict[str, FeatureArray]]:
    """What a model's probes see: clean features [n, D] of the questions' videos, and degraded_id -> features [D]."""
    settings = prepared.settings
    clean, worse = read_features(storage.join(prepared.output, "features", model)), read_features(folder)
    if model == "pixels":  # components of clean training videos
        floor = PixelFloor(clean.cls, questions.rows.train, settings.seed)
        x, degraded = floor.features(clean.cls), floor.features(worse.cls)
    else:
        x, degraded = getattr(clean, settings.feature), getattr(worse, settings.feature)
    return x, dict(zip(worse.clip_ids, degraded, strict=True))


def _embed_degraded(prepared: Prepared, ids: Sequence[str], kinds: Sequence[str]) -> dict[str, str]:
    """Model -> folder of features; one row for each video, kind and level, embedded like videos of a manifest.

    Errors:
        EvaluationError: a video that could be read before cannot be read now.
    """
    chosen = prepared.clips.filter(pc.is_in(prepared.clips["clip_id"], pa.array(ids, pa.string())))
    rows = [
        row | {"clip_id": degraded_id(row["clip_id"], kind, level)}
        for row in chosen.to_pylist()
        for kind in kinds
        for level in LEVELS
    ]
    table = pa.Table.from_pylist(rows, schema=chosen.schema).sort_by("clip_id")
    sources = sources_of(table)
    todo = {}
    for model in MODELS:
        encoder, _, _, folder, options = prepared.embeddings[model]
        preprocessing = DegradedPreprocessing.of(folder.settings.preprocessing)
        own = FeatureFolder(
            storage.join(prepared.output, "features", "degraded", model),
            dataclasses.replace(folder.settings, preprocessing=preprocessing),
        )
        own.claim()
        todo[model] = embed.Prepared(encoder, table, sources, own, options)
    logger.info("robustness: %d test videos, %d degradations of each", len(ids), len(kinds) * len(LEVELS))
    summaries = embed.carry_out_together(list(todo.values()), decode_degraded)
    if reasons := summaries[0].reasons:
        raise EvaluationError(
            f"robustness: {sum(reasons.values())} test videos could be embedded clean and not degraded, such as for "
            f"{next(iter(reasons))!r}; see {summaries[0].failed_uri}"
        )
    return {model: of.folder.uri for model, of in todo.items()}


def _key(prepared: Prepared, problems: Mapping[str, Problem], degraded: Mapping[str, FeatureArray]) -> str:
    settings = prepared.settings
    facts = [VERSION, to_plain(settings), library_versions(), sorted(degraded)]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for problem in problems.values():
        for side in (problem.train, problem.val, problem.test):
            digest.update(json.dumps([side.clip_ids, side.patient_ids.tolist()]).encode())
            digest.update(np.ascontiguousarray(side.x).tobytes() + np.ascontiguousarray(side.y).tobytes())
    for name in sorted(degraded):
        digest.update(np.ascontiguousarray(degraded[name]).tobytes())
    return digest.hexdigest()


def _pictures(prepared: Prepared, clip_id: str, kinds: Sequence[str]) -> tuple[list[Picture], list[str]]:
    """One video at the worst level of each kind, and why it cannot be shown."""
    (row,) = prepared.clips.filter(pc.equal(prepared.clips["clip_id"], clip_id)).to_pylist()
    try:
        frames = load_clip(row, PICTURE, 0.5).frames
    except ClipError as error:
        return [], [f"{clip_id} cannot be shown: {without_path(error, row['uri'])}"]
    pictures = [Picture("clean", clip_id, frames, FRAME_MS)]
    for kind in kinds:
        worse = degrade(frames[None], kind, LEVELS[-1], clip_id)[0]
        pictures.append(Picture(kind.replace("_", " "), strength_text(kind, LEVELS[-1]), worse, FRAME_MS))
    return pictures, []
