"""The attentive probe as a part of an evaluation: patch tokens of every video, of the encoder and its floors."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from discovr_ray.data import storage
from discovr_ray.evaluate.attentive import attentive_probe
from discovr_ray.evaluate.dense import WHOLE, Item
from discovr_ray.evaluate.embedding import sources_of
from discovr_ray.evaluate.features import read_features
from discovr_ray.evaluate.kept import KeptResults, Kind, library_versions
from discovr_ray.evaluate.probes import result_of
from discovr_ray.evaluate.questions import Questions, pose_questions, problem_of
from discovr_ray.evaluate.results import (
    ClassResult,
    NumberResult,
    class_from_plain,
    number_from_plain,
    without_videos,
)
from discovr_ray.evaluate.segmentation import TokenArray
from discovr_ray.evaluate.settings import ProbeSettings
from discovr_ray.evaluate.splits import Problem, Videos
from discovr_ray.exchange.pixels import PatchPixels
from discovr_ray.launch.dense_tokens import extract
from discovr_ray.launch.evaluate import Prepared
from discovr_ray.report.attentive_section import attentive_section
from discovr_ray.report.section import Section

logger = logging.getLogger(__name__)

NAME = "attentive"
VERSION = 2  # of what is computed here; another one makes kept results worthless
KINDS = {
    "class": Kind("attentive_class", class_from_plain),
    "number": Kind("attentive_number", number_from_plain),
}
Answered = dict[str, dict[str, ClassResult | NumberResult]]  # "class" or "number" -> model -> result


def run_attentive(prepared: Prepared) -> tuple[Mapping[str, Any], Sequence[Section]]:
    """As of launch.evaluate.Further; runs after the videos were embedded."""
    encoder, random = (prepared.embeddings[model].encoder for model in ("encoder", "random"))
    encoders = {"encoder": encoder, "random": random, "pixels": PatchPixels(encoder.card).eval()}
    known = read_features(storage.join(prepared.output, "features", "encoder"))
    sources = sources_of(prepared.clips)
    items = [
        Item(clip_id, WHOLE, sources[clip_id])
        for clip_id, split in zip(known.clip_ids, known.splits, strict=True)
        if split
    ]
    uri = storage.join(prepared.output, "clip_tokens")
    extracted = extract(encoders, prepared.clips, items, uri, prepared.embeddings["encoder"].options)
    place = {clip_id: row for row, clip_id in enumerate(known.clip_ids)}
    rows = [place[item.clip_id] for item in extracted.items]
    columns = ([of[row] for row in rows] for of in (known.clip_ids, known.patient_ids, known.splits))
    questions = pose_questions(Videos(*columns), [known.labels[row] for row in rows], prepared.settings)
    results: Answered = {"class": {}} if questions.numbers is None else {"class": {}, "number": {}}
    kept = KeptResults(storage.join(prepared.output, "answers"))
    for model, folder in extracted.folders.items():
        tokens = folder.read(extracted.items)
        for about, of in results.items():
            of[model] = _answer(kept, (model, about), _problem(questions, about), (tokens, prepared.settings))
            logger.info("attentive probe of %s, %s: done", model, about)
    plain = {about: {model: without_videos(result) for model, result in of.items()} for about, of in results.items()}
    return {**plain, "failed": len(extracted.failed)}, [attentive_section(results, len(extracted.failed))]


def _problem(questions: Questions, about: str) -> Problem:
    """The question about each video, with its row number in the place of features."""
    return problem_of(questions, about, np.arange(len(questions.videos.clip_ids), dtype=np.float32)[:, None])


def _answer(
    kept: KeptResults, named: tuple[str, str], problem: Problem, asked: tuple[TokenArray, ProbeSettings]
) -> ClassResult | NumberResult:
    (model, about), (tokens, settings) = named, asked
    key = _key(problem, tokens, settings)
    found: ClassResult | NumberResult | None = kept.get(model, KINDS[about], key)
    if found is None:
        found = result_of(problem, settings, *attentive_probe(problem, tokens, settings.seed))
        kept.put(model, KINDS[about], key, found)
    return found


def _key(problem: Problem, tokens: TokenArray, settings: ProbeSettings) -> str:
    facts = [VERSION, problem.classes, settings.seed, settings.draws, library_versions(), torch.__version__]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for side in (problem.train, problem.val, problem.test):
        digest.update(json.dumps([side.clip_ids, side.patient_ids.tolist(), side.y.tolist()]).encode())
        digest.update(side.x.tobytes())
    digest.update(np.ascontiguousarray(tokens).data)
    return digest.hexdigest()
