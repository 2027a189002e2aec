"""One trial of `prove.py`: videos, a pretraining run and its evaluation, each by the jobs' own code, each done once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from knowledge import facts_of, knowledge_of
from verdicts import ENCODER, MODELS, Measure

from discovr_ray.config import Config
from discovr_ray.data import storage
from discovr_ray.data.manifest import read_manifest
from discovr_ray.data.phantom.patient import Placement
from discovr_ray.data.synthetic import write_dataset
from discovr_ray.errors import ConfigError, StreamError
from discovr_ray.evaluate.bootstrap import Estimate
from discovr_ray.evaluate.features import Features, read_features
from discovr_ray.evaluate.floors import pixel_features
from discovr_ray.evaluate.probes import run_knn, run_ridge
from discovr_ray.evaluate.questions import pose_questions, problem_of
from discovr_ray.evaluate.segmentation_scores import LEFT_VENTRICLE
from discovr_ray.evaluate.settings import ProbeSettings
from discovr_ray.evaluate.splits import Videos
from discovr_ray.evaluate.targets import ClassRule
from discovr_ray.exchange.encoders import open_encoder
from discovr_ray.launch import segmentation_page
from discovr_ray.launch.embed import embed
from discovr_ray.launch.encode_videos import EmbedOptions
from discovr_ray.launch.evaluate import Further, Prepared, carry_out, prepare
from discovr_ray.launch.ingest import ingest
from discovr_ray.launch.preflight import CONFIG_FILE, differences, run_uri
from discovr_ray.launch.segment import Segmented, Task, segment
from discovr_ray.launch.splits import SplitRule
from discovr_ray.launch.trainer import pretrain
from discovr_ray.model.weights import CARD_FILE
from discovr_ray.report.section import Section

# few labels, as where pretraining matters, and many test videos: intervals are as wide as these are few
SPLITS = SplitRule("hash", (0.25, 0.1, 0.65))
NUM_LABELLED = 800
UNLABELLED_SEED = 1000  # added to the seed: pretraining sees other patients than any split of the labelled ones
SETTINGS = ProbeSettings(ClassRule("abnormal"), feature="patches", suite="quick")
OPTIONS = EmbedOptions(clips_per_video=2, batch_size=16)
ASKED = (
    ("zero-shot kNN", "knn", "balanced_accuracy"),
    ("ejection fraction by ridge regression", "ridge", "r2"),
)


class Trial(NamedTuple):
    """Pretraining takes `config.data.manifest`, which has no labelled video; probes take `labelled`."""

    config: Config
    output: Path  # of runs and answers
    labelled: str  # manifest
    placement: Placement = "steady"  # of the hearts in all videos


class Spread(NamedTuple):
    """How the features of all labelled videos vary."""

    first: float  # share of their variance in the first principal component
    gain: float  # correlation of that component with the scanner's gain, without sign


class Asked(NamedTuple):
    """Of the encoder alone."""

    measures: list[Measure]
    spread: Spread
    knows: dict[str, float]  # fact -> R2


class Judged(NamedTuple):
    """Of the encoder and its floors."""

    measures: list[Measure]
    knows: dict[str, dict[str, float]]  # model -> fact -> R2


def make_manifests(trial: Trial, num_labelled: int) -> dict[str, int]:
    """Both data sets, made where they are not there yet; returns the videos of each split, and of none."""
    data = trial.config.data
    labelled_seed = data.synthetic_seed - UNLABELLED_SEED
    _make(Path(data.manifest), data.synthetic_clips, data.synthetic_seed, SplitRule("none"), trial.placement)
    _make(Path(trial.labelled), num_labelled, labelled_seed, SPLITS, trial.placement)
    splits = read_manifest(trial.labelled)["split"].to_pylist()
    counts = {split: splits.count(split) for split in sorted(set(splits))}
    return {"unlabelled": read_manifest(data.manifest).num_rows, **counts}


def _make(manifest: Path, num_clips: int, seed: int, rule: SplitRule, placement: Placement = "steady") -> None:
    videos = manifest.parents[1] / "echo"
    workers = os.cpu_count() or 1
    write_dataset(videos, num_clips, seed, workers, placement)  # refuses a folder of another seed, number or placement
    if not manifest.exists():
        ingest([str(videos)], str(manifest.parent), rule)


def pretrained(trial: Trial) -> str:
    """Folder of the finished run; an unfinished one goes on. Needs an initialised Ray.

    Errors:
        As of launch.trainer.pretrain; StreamError: it was asked to stop. ConfigError: the finished run is of another
            configuration, so its numbers would stand below one that they are not of.
    """
    config = dataclasses.replace(trial.config, run=dataclasses.replace(trial.config.run, resume=True))
    uri = run_uri(config)
    if storage.exists(storage.join(uri, CARD_FILE)):
        stored = yaml.safe_load(storage.read_bytes(storage.join(uri, CONFIG_FILE)))
        if problems := differences(stored, config.to_dict()):
            raise ConfigError([f"{uri} is finished: {problem}" for problem in problems])
    else:
        summary = pretrain(config)
        if summary.steps < summary.total_steps:
            raise StreamError(f"{uri}: stopped after {summary.steps} steps; the same command goes on")
    return uri


def ask_encoder(trial: Trial, run: str) -> Asked:
    """The same numbers of the encoder alone, asked by the same probes."""
    manifest, folder = trial.labelled, f"{trial.output}/features/{trial.config.run.name}"
    features = read_features(embed(run, manifest, folder, OPTIONS).videos_uri)
    videos = Videos(features.clip_ids, features.patient_ids, features.splits)
    questions = pose_questions(videos, features.labels, SETTINGS)
    x = getattr(features, SETTINGS.feature)
    found = {
        "knn": run_knn(problem_of(questions, "class", x), SETTINGS),
        "ridge": run_ridge(problem_of(questions, "number", x), SETTINGS),
    }
    return Asked(
        _measures({ENCODER: found}, _dice_of_encoder(trial, run)),
        spread_of(features),
        knowledge_of(features, x, facts_of(features.patient_ids, trial.placement)),
    )


def spread_of(features: Features) -> Spread:
    x = getattr(features, SETTINGS.feature).astype(np.float64)
    left, deviations, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    gain = [labels["gain_db"] for labels in features.labels]
    return Spread(float(deviations[0] ** 2 / (deviations**2).sum()), float(abs(np.corrcoef(left[:, 0], gain)[0, 1])))


def judged(trial: Trial, run: str) -> Judged:
    """The numbers of the encoder and its floors, by the whole evaluation and its page."""
    dice: dict[str, Estimate] = {}

    def segmented(prepared: Prepared) -> tuple[Mapping[str, Any], Sequence[Section]]:
        values, sections = segmentation_page.run_segmentation(prepared)
        dice.update({model: found["metrics"][LEFT_VENTRICLE]["dice"] for model, found in values["results"].items()})
        return values, sections

    output = str(trial.output / "evaluation")
    prepared = prepare(trial.labelled, run, output, SETTINGS, OPTIONS)
    summary = carry_out(prepared, [Further(segmentation_page.NAME, segmented)])
    return Judged(_measures(summary.evaluation.results, dice), _knowledge(trial, output))


def _knowledge(trial: Trial, evaluation: str) -> dict[str, dict[str, float]]:
    """Of every model whose features the evaluation has left; pixels as their principal components."""
    features = {model: read_features(storage.join(evaluation, "features", model)) for model in MODELS}
    x = {model: getattr(found, SETTINGS.feature) for model, found in features.items()}
    known = features[ENCODER]
    train = np.flatnonzero(np.array(known.splits) == "TRAIN")
    x["pixels"] = pixel_features(features["pixels"].cls, train, SETTINGS.seed)
    facts = facts_of(known.patient_ids, trial.placement)
    return {model: knowledge_of(known, x[model], facts) for model in MODELS}


def _dice_of_encoder(trial: Trial, run: str) -> dict[str, Estimate]:
    manifest, output = trial.labelled, f"{trial.output}/segmentation/{trial.config.run.name}"
    encoders = {ENCODER: open_encoder(run)}
    found = segment(Task(manifest, read_manifest(manifest), encoders, output, SETTINGS, OPTIONS))
    assert isinstance(found, Segmented), found  # the generator traces every video
    return {model: result.metrics[LEFT_VENTRICLE]["dice"] for model, result in found.results.items()}


def _measures(results: Mapping[str, Mapping[str, Any]], dice: Mapping[str, Estimate]) -> list[Measure]:
    """Args: results: model -> name of the probe -> its result. dice: of the left ventricle, by model."""
    asked = [
        Measure(
            title, metric, {model: found[probe].metrics[metric] for model, found in results.items() if probe in found}
        )
        for title, probe, metric in ASKED
    ]
    return [*asked, Measure("left ventricle, linear head", "dice", dice)]
