"""The attentive probe as a part of an evaluation: patch tokens of every video, of the encoder and its floors."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from discovr_ray.data import storage
from discovr_ray.evaluate.attentive import Fitted, attentive_probe, fitted_from
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
    to_plain,
    without_videos,
)
from discovr_ray.evaluate.segmentation import TokenArray
from discovr_ray.evaluate.settings import ProbeSettings
from discovr_ray.evaluate.splits import Problem, Videos
from discovr_ray.exchange.pixels import PatchPixels
from discovr_ray.launch.dense_tokens import extract
from discovr_ray.launch.evaluate import Prepared
from discovr_ray.launch.robust_tokens import Attended, attentive_drops
from discovr_ray.launch.segment import Task
from discovr_ray.report.attentive_section import MAIN, MODELS, attentive_section
from discovr_ray.report.robustness_sections import DENSE_LEAD, tokens_section
from discovr_ray.report.section import Section

logger = logging.getLogger(__name__)

NAME = "attentive"
VERSION = 2  # of what is computed here; another one makes kept results worthless
KINDS = {
    "class": Kind("attentive_class", class_from_plain),
    "number": Kind("attentive_number", number_from_plain),
}


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
    options = prepared.embeddings["encoder"].options
    extracted = extract(encoders, prepared.clips, items, uri, options)
    place = {clip_id: row for row, clip_id in enumerate(known.clip_ids)}
    rows = [place[item.clip_id] for item in extracted.items]
    columns = ([of[row] for row in rows] for of in (known.clip_ids, known.patient_ids, known.splits))
    questions = pose_questions(Videos(*columns), [known.labels[row] for row in rows], prepared.settings)
    abouts = ("class",) if questions.numbers is None else ("class", "number")
    asked = {about: Attended(_problem(questions, about), {}, {}) for about in abouts}
    answers = storage.join(prepared.output, "answers")
    for model, folder in extracted.folders.items():
        tokens = folder.read(extracted.items)
        for about, of in asked.items():
            found = _answer(answers, (model, about), of.problem, (tokens, prepared.settings))
            of.results[model], of.fitted[model] = found
            logger.info("attentive probe of %s, %s: done", model, about)
    del tokens  # all of one model's, while those of the degraded videos are read
    task = Task(prepared.manifest, prepared.clips, encoders, prepared.output, prepared.settings, options)
    drops = attentive_drops(task, asked)
    results = {about: of.results for about, of in asked.items()}
    plain = {about: {model: without_videos(result) for model, result in of.items()} for about, of in results.items()}
    titles = {MAIN[about][0]: points for about, points in drops.items()}
    sections = [
        attentive_section(results, len(extracted.failed)),
        tokens_section(NAME, "Attentive probe when pictures are worse", DENSE_LEAD, titles, MODELS),
    ]
    return {**plain, "failed": len(extracted.failed), "robustness": to_plain(drops)}, sections


def _problem(questions: Questions, about: str) -> Problem:
    """The question about each video, with its row number in the place of features."""
    return problem_of(questions, about, np.arange(len(questions.videos.clip_ids), dtype=np.float32)[:, None])


def _answer(
    answers: str, named: tuple[str, str], problem: Problem, asked: tuple[TokenArray, ProbeSettings]
) -> tuple[ClassResult | NumberResult, Fitted]:
    """Kept from an earlier time, or fitted."""
    (model, about), (tokens, settings) = named, asked
    kept, kind, key = KeptResults(answers), KINDS[about], _key(problem, tokens, settings)
    fitted_uri = storage.join(answers, model, f"{kind.name}.safetensors")
    found: ClassResult | NumberResult | None = kept.get(model, kind, key)
    if found is not None and storage.exists(fitted_uri):
        return found, fitted_from(load(storage.read_bytes(fitted_uri)))
    probe = attentive_probe(problem, tokens, settings.seed)
    found = result_of(problem, settings, probe.answers, probe.chosen, probe.validation)
    storage.remove_tree(kept.uri_of(model, kind))  # else, killed here, an earlier result would find this probe
    storage.write_bytes(fitted_uri, save(probe.fitted.to_tensors()))
    kept.put(model, kind, key, found)
    return found, probe.fitted


def _key(problem: Problem, tokens: TokenArray, settings: ProbeSettings) -> str:
    facts = [VERSION, problem.classes, settings.seed, settings.draws, library_versions(), torch.__version__]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for side in (problem.train, problem.val, problem.test):
        digest.update(json.dumps([side.clip_ids, side.patient_ids.tolist(), side.y.tolist()]).encode())
        digest.update(side.x.tobytes())
    digest.update(np.ascontiguousarray(tokens).data)
    return digest.hexdigest()
