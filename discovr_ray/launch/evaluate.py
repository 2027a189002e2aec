"""Evaluate an encoder on a labelled manifest: embed it and its floors, ask all probes, write results and page.

Folder of an evaluation; the same command again goes on with what is missing, and computes nothing twice:

evaluation.json          which encoder and clips; written first, and held against every later call
features/<model>/        embeddings of the encoder, of random weights and of plain pixels (evaluate/feature_folder.py)
answers/<model>/         one file for each probe, with the answer for every test video
results.json             all numbers; written when all are there
report.html              the page
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa

from discovr_ray.data import storage
from discovr_ray.data.manifest import fingerprint, read_labels, read_manifest
from discovr_ray.errors import EvaluationError
from discovr_ray.evaluate.embedding_map import embedding_map
from discovr_ray.evaluate.evaluation import FORMAT, MODELS, NO_FEATURES, Evaluation, Subject
from discovr_ray.evaluate.features import FeatureArray, Features, read_features
from discovr_ray.evaluate.floors import pixel_features
from discovr_ray.evaluate.kept import KeptResults, library_versions, result_key
from discovr_ray.evaluate.probes import PROBES
from discovr_ray.evaluate.questions import Questions, pose_questions, problem_of
from discovr_ray.evaluate.results import Result, to_plain
from discovr_ray.evaluate.settings import ProbeSettings
from discovr_ray.evaluate.splits import Videos
from discovr_ray.launch import embed
from discovr_ray.launch.encode_videos import EmbedOptions
from discovr_ray.launch.ray_session import ray_session
from discovr_ray.report.cases import case_sections
from discovr_ray.report.evaluation_page import evaluation_page
from discovr_ray.report.section import Section

logger = logging.getLogger(__name__)

CLAIM_FILE, RESULTS_FILE, REPORT_FILE = "evaluation.json", "results.json", "report.html"
MAX_MAP_VIDEOS = 2000  # t-SNE needs a minute for so many


class Prepared(NamedTuple):
    """What is known before a video has been opened."""

    encoder: str
    manifest: str
    output: str
    settings: ProbeSettings
    clips: pa.Table  # manifest rows
    embeddings: dict[str, embed.Prepared]  # model -> what is to be embedded


class Further(NamedTuple):
    """Something else to evaluate, such as segmentation: plain values for results.json, and sections for the page."""

    name: str
    run: Callable[[Prepared], tuple[Mapping[str, Any], Sequence[Section]]]


class EvaluationSummary(NamedTuple):
    evaluation: Evaluation
    results_uri: str
    report_uri: str


def evaluate(
    manifest: str, encoder: str, output: str, settings: ProbeSettings, options: EmbedOptions
) -> EvaluationSummary:
    """Evaluate an encoder on a manifest, into the folder `output`: `prepare` and `carry_out`, which see."""
    return carry_out(prepare(manifest, encoder, output, settings, options))


def prepare(manifest: str, encoder: str, output: str, settings: ProbeSettings, options: EmbedOptions) -> Prepared:
    """Read encoder and manifest, and refuse what can be refused before a video is opened.

    Errors:
        ManifestError: no manifest. CheckpointError, ConfigError: no such encoder.
        EvaluationError: labels, splits or settings that no probe can be trusted with, or `output` is the folder of
            another evaluation.
        FeaturesError: the videos do not fit the encoder, or `output` has features of another one.
        StorageError: `output` cannot be read or written.
    """
    manifest, output = storage.absolute(manifest), storage.absolute(output)
    clips = read_manifest(manifest)
    videos = Videos(*(clips[name].to_pylist() for name in ("clip_id", "patient_id", "split")))
    questions = pose_questions(videos, read_labels(clips), settings)
    for probe, reason in questions.skipped.items():
        logger.warning("%s is not asked: %s", probe, reason)
    embeddings = {}
    for model, source in zip(MODELS, (encoder, f"random:{encoder}", f"pixels:{encoder}"), strict=True):
        folder = storage.join(output, "features", model)
        embeddings[model] = embed.prepare(source, manifest, folder, options, seed=settings.seed)
        if model == MODELS[0]:
            _claim(output, embeddings[model], clips)
    return Prepared(encoder, manifest, output, settings, clips, embeddings)


def carry_out(prepared: Prepared, further: Sequence[Further] = ()) -> EvaluationSummary:
    """Embed what is not embedded, ask what is not answered, and write results and page.

    Args:
        further: run after the probes, in this order.
    Errors:
        As of launch.embed.carry_out, and EvaluationError where the videos without features leave too few of a class.
        What is done stays done.
    """
    output, settings = prepared.output, prepared.settings
    results_uri, report_uri = storage.join(output, RESULTS_FILE), storage.join(output, REPORT_FILE)
    for uri in (results_uri, report_uri):
        storage.remove_tree(uri)  # an attempt that fails must not leave those of an earlier one
    features = _embed_all(prepared)
    known = features["encoder"]
    questions = pose_questions(Videos(known.clip_ids, known.patient_ids, known.splits), known.labels, settings)
    inputs = {model: getattr(found, settings.feature) for model, found in features.items()}
    inputs["pixels"] = pixel_features(features["pixels"].cls, questions.rows.train, settings.seed)
    results = _ask_all(KeptResults(storage.join(output, "answers")), questions, inputs, settings)
    rows = questions.rows.test[:MAX_MAP_VIDEOS]
    evaluation = Evaluation(
        subject=_subject(prepared, known),
        settings=settings,
        questions=questions,
        results=results,
        places=embedding_map(inputs["encoder"][rows], settings.seed),
        place_rows=rows,
        versions=library_versions(),
    )
    found = _run_all(prepared, further)
    sections = [section for _, parts in found.values() for section in parts]
    cases = case_sections(evaluation, prepared.clips)
    page = evaluation_page(evaluation, cases, sections, datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    storage.write_bytes(report_uri, page.encode())
    plain = {**evaluation.to_plain(), "further": {name: to_plain(values) for name, (values, _) in found.items()}}
    storage.write_bytes(results_uri, (json.dumps(plain, indent=1, allow_nan=False) + "\n").encode())
    return EvaluationSummary(evaluation, results_uri, report_uri)


def _run_all(prepared: Prepared, further: Sequence[Further]) -> dict[str, tuple[Mapping[str, Any], Sequence[Section]]]:
    if not further:
        return {}
    with ray_session():  # one for all
        return {item.name: item.run(prepared) for item in further}


def _embed_all(prepared: Prepared) -> dict[str, Features]:
    """Features of all models, of the same videos."""
    features: dict[str, Features] = {}
    with ray_session():  # one for all three
        for model, embedding in prepared.embeddings.items():
            logger.info("embedding: %s", model)
            features[model] = read_features(embed.carry_out(embedding).videos_uri)
    for model, found in features.items():
        if found.clip_ids != features["encoder"].clip_ids:
            differing = set(found.clip_ids) ^ set(features["encoder"].clip_ids)
            raise EvaluationError(
                f"features of {model} and encoder are of different videos, such as {min(differing)!r}; "
                "a video that could be read only once is named in features/*/failed.parquet"
            )
    return features


def _ask_all(
    kept: KeptResults, questions: Questions, inputs: Mapping[str, FeatureArray], settings: ProbeSettings
) -> dict[str, dict[str, Result]]:
    """Every probe of the suite for every model; what does not depend on features once."""
    probes = [probe for probe in PROBES if settings.suite in probe.suites and probe.name not in questions.skipped]
    asked = [(model, probe) for model in inputs for probe in probes if probe.of_features]
    asked += [(NO_FEATURES, probe) for probe in probes if not probe.of_features]
    results: dict[str, dict[str, Result]] = {model: {} for model, _ in asked}
    for count, (model, probe) in enumerate(asked, start=1):
        problem = problem_of(questions, probe.about, inputs.get(model, inputs["encoder"]))
        key, started = result_key(probe, problem, settings), time.monotonic()
        result = kept.get(model, probe, key)
        done = "kept"
        if result is None:
            result = probe.run(problem, settings)
            kept.put(model, probe, key, result)
            done = f"{time.monotonic() - started:.1f} s"
        results[model][probe.name] = result
        logger.info("probe %d of %d: %s of %s, %s", count, len(asked), probe.name, model, done)
    return results


def _claim(output: str, embedding: embed.Prepared, clips: pa.Table) -> None:
    """Make the folder this encoder's and these clips', or refuse.

    Errors:
        EvaluationError: it is another evaluation's; names what differs.
    """
    wanted = {
        "format": FORMAT,
        "model_sha256": embedding.encoder.card.model_sha256,
        "preprocessing_sha256": embedding.folder.settings.preprocessing.sha256,
        "clips_sha256": fingerprint(clips),
    }
    uri = storage.join(output, CLAIM_FILE)
    if storage.exists(uri):
        try:
            found = dict(json.loads(storage.read_bytes(uri)))
        except (ValueError, TypeError) as error:
            raise EvaluationError(f"{uri}: not the description of an evaluation: {error}") from error
        differing = [
            f"{name} {found.get(name)} there, {value} now" for name, value in wanted.items() if found.get(name) != value
        ]
        if differing:
            raise EvaluationError(f"{output}: holds another evaluation: {'; '.join(differing)}; choose another folder")
        return
    storage.write_bytes(uri, (json.dumps(wanted, indent=1) + "\n").encode())


def _subject(prepared: Prepared, known: Features) -> Subject:
    embedding = prepared.embeddings["encoder"]
    return Subject(
        encoder=prepared.encoder,
        step=embedding.encoder.card.step,
        model_sha256=known.model_sha256,
        preprocessing_sha256=known.preprocessing_sha256,
        preprocessing=to_plain(embedding.folder.settings.preprocessing),
        manifest=prepared.manifest,
        clips_sha256=fingerprint(prepared.clips),
        num_failed=prepared.clips.num_rows - len(known.clip_ids),
    )
