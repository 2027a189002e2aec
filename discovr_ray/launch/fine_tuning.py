"""Fine-tuning as a part of an evaluation: one Ray task, with a GPU where there is one, for each start."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayError

from discovr_ray.data import storage
from discovr_ray.data.microbatch import COLUMNS
from discovr_ray.errors import DiscovrError, StreamError
from discovr_ray.evaluate.features import read_features
from discovr_ray.evaluate.fine_tuning import Tuned, TuneSettings, fine_tune
from discovr_ray.evaluate.kept import KeptResults, Kind, library_versions
from discovr_ray.evaluate.probes import result_of
from discovr_ray.evaluate.questions import pose_questions, problem_of
from discovr_ray.evaluate.results import (
    ClassResult,
    NumberResult,
    class_from_plain,
    number_from_plain,
    without_videos,
)
from discovr_ray.evaluate.splits import Problem, Videos
from discovr_ray.launch.evaluate import Prepared
from discovr_ray.model.weights import PretrainedEncoder
from discovr_ray.report.fine_tuning_section import fine_tuning_section
from discovr_ray.report.section import Section

logger = logging.getLogger(__name__)

NAME = "fine_tuning"
VERSION = 1  # of what is computed here; another one makes kept results worthless
TUNED = ("encoder", "random")  # plain pixels have no blocks


def run_fine_tuning(prepared: Prepared) -> tuple[Mapping[str, Any], Sequence[Section]]:
    """As of launch.evaluate.Further; the regression where there is one, else the classes."""
    known = read_features(storage.join(prepared.output, "features", "encoder"))
    questions = pose_questions(Videos(known.clip_ids, known.patient_ids, known.splits), known.labels, prepared.settings)
    about = "class" if questions.numbers is None else "number"
    problem = problem_of(questions, about, np.zeros((len(known.clip_ids), 1), np.float32))
    results = {model: _answer(prepared, model, about, problem) for model in TUNED}
    blocks = prepared.settings.finetune_blocks
    plain = {model: without_videos(of) for model, of in results.items()}
    return {"blocks": blocks, "about": about, "results": plain}, [fine_tuning_section(results, blocks)]


def _answer(prepared: Prepared, model: str, about: str, problem: Problem) -> ClassResult | NumberResult:
    """Kept from an earlier time, or tuned now."""
    settings, embedding = prepared.settings, prepared.embeddings[model]
    options = embedding.options
    tuning = TuneSettings(
        settings.finetune_blocks, settings.feature, options.batch_size, options.precision, settings.seed
    )
    kept = KeptResults(storage.join(prepared.output, "answers"))
    kind = Kind(f"{NAME}_{about}", class_from_plain if about == "class" else number_from_plain)
    key = _key(prepared, embedding.encoder, problem, tuning)
    found: ClassResult | NumberResult | None = kept.get(model, kind, key)
    if found is None:
        found = result_of(problem, settings, *_in_task(prepared, embedding.encoder, problem, tuning))
        kept.put(model, kind, key, found)
    return found


def _in_task(prepared: Prepared, encoder: PretrainedEncoder, problem: Problem, tuning: TuneSettings) -> Tuned:
    """Errors: StreamError: the task died, or a video that could be read before cannot be read now."""
    options = prepared.embeddings["encoder"].options
    columns = [name for name in COLUMNS if name in prepared.clips.column_names]
    rows = {row["clip_id"]: row for row in prepared.clips.select(columns).to_pylist()}
    task = ray.remote(_tune).options(num_cpus=options.cpus_per_worker, num_gpus=int(options.use_gpu), max_retries=1)
    arguments = ray.put(encoder), problem, rows, tuning
    try:
        tuned: Tuned | str = ray.get(
            task.remote(*arguments, (storage.access(), options.use_gpu, options.cpus_per_worker))
        )
    except RayError as error:
        raise StreamError(f"fine-tuning: the task could not do its work: {error}") from error
    if isinstance(tuned, str):
        raise StreamError(f"fine-tuning stopped: {tuned}")
    return tuned


def _tune(
    encoder: PretrainedEncoder,
    problem: Problem,
    rows: Mapping[str, Mapping[str, Any]],
    tuning: TuneSettings,
    place: tuple[storage.Access, bool, float],
) -> Tuned | str:
    """In the task; why it could not be done where a file or the storage is at fault."""
    access, use_gpu, cpus = place
    storage.adopt(access)
    if not use_gpu:
        torch.set_num_threads(max(1, int(cpus)))
    try:
        return fine_tune(encoder.to("cuda" if use_gpu else "cpu"), problem, rows, tuning)
    except DiscovrError as error:
        return str(error)


def _key(prepared: Prepared, encoder: PretrainedEncoder, problem: Problem, tuning: TuneSettings) -> str:
    preprocessing = prepared.embeddings["encoder"].folder.settings.preprocessing.sha256
    facts = [VERSION, encoder.card.model_sha256, preprocessing, tuning, problem.classes, prepared.settings.draws]
    digest = hashlib.sha256(json.dumps([facts, library_versions(), torch.__version__], sort_keys=True).encode())
    sources = prepared.embeddings["encoder"].sources
    for side in (problem.train, problem.val, problem.test):
        of = [side.clip_ids, side.patient_ids.tolist(), side.y.tolist(), [sources[name] for name in side.clip_ids]]
        digest.update(json.dumps(of).encode())
    return digest.hexdigest()
