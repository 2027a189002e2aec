"""Robustness as a part of an evaluation: test videos are embedded again, worse, and the clean probes asked."""

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
from discovr_ray.evaluate.feature_folder import FeatureFolder
from discovr_ray.evaluate.features import FeatureArray, read_features
from discovr_ray.evaluate.kept import KeptResults, Kind, library_versions
from discovr_ray.evaluate.questions import pose_questions, problem_of
from discovr_ray.evaluate.results import to_plain
from discovr_ray.evaluate.robustness import robustness, robustness_from_plain
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
    clean = read_features(storage.join(prepared.output, "features", "encoder"))
    x = getattr(clean, settings.feature)
    questions = pose_questions(Videos(clean.clip_ids, clean.patient_ids, clean.splits), clean.labels, settings)
    problems = {"class": problem_of(questions, "class", x)}
    if questions.numbers is not None:
        problems["number"] = problem_of(questions, "number", x)
    ids = sorted({clip_id for problem in problems.values() for clip_id in problem.test.clip_ids})
    degraded = _embed_degraded(prepared, ids, kinds)
    kept, key = KeptResults(storage.join(prepared.output, "answers")), _key(prepared, problems, degraded)
    result = kept.get("encoder", RESULT, key)
    if result is None:
        result = robustness(problems, degraded, kinds, settings)
        kept.put("encoder", RESULT, key, result)
    section = robustness_section(result, kinds)
    pictures, lost = _pictures(prepared, ids[0], kinds)
    return to_plain(result), [section._replace(paragraphs=[*section.paragraphs, *lost], pictures=pictures)]


def _embed_degraded(prepared: Prepared, ids: Sequence[str], kinds: Sequence[str]) -> dict[str, FeatureArray]:
    """degraded_id -> features; one row for each video, kind and level, embedded like videos of a manifest.

    Errors:
        EvaluationError: a video that could be read before cannot be read now.
    """
    encoder, _, _, folder, options = prepared.embeddings["encoder"]
    chosen = prepared.clips.filter(pc.is_in(prepared.clips["clip_id"], pa.array(ids, pa.string())))
    rows = [
        row | {"clip_id": degraded_id(row["clip_id"], kind, level)}
        for row in chosen.to_pylist()
        for kind in kinds
        for level in LEVELS
    ]
    table = pa.Table.from_pylist(rows, schema=chosen.schema).sort_by("clip_id")
    preprocessing = DegradedPreprocessing(**dataclasses.asdict(folder.settings.preprocessing))
    own = FeatureFolder(
        storage.join(prepared.output, "features", "degraded"),
        dataclasses.replace(folder.settings, preprocessing=preprocessing),
    )
    own.claim()
    logger.info("robustness: %d test videos, %d degradations of each", len(ids), len(kinds) * len(LEVELS))
    summary = embed.carry_out(embed.Prepared(encoder, table, sources_of(table), own, options), decode_degraded)
    found = read_features(summary.videos_uri)
    features = dict(zip(found.clip_ids, getattr(found, prepared.settings.feature), strict=True))
    missing = set(table["clip_id"].to_pylist()) - features.keys()
    if missing:
        raise EvaluationError(
            f"robustness: {len(missing)} test videos could be embedded clean and not degraded, such as "
            f"{min(missing)!r}; reasons in {summary.failed_uri}"
        )
    return features


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
