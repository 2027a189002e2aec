"""One trial of `prove.py`: videos, a pretraining run and its evaluation, each by the jobs' own code, each done once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from verdicts import ENCODER, Measure

from discovr_ray.config import Config
from discovr_ray.data import storage
from discovr_ray.data.manifest import read_manifest
from discovr_ray.data.synthetic import write_dataset
from discovr_ray.errors import StreamError
from discovr_ray.evaluate.features import read_features
from discovr_ray.evaluate.probes import run_knn, run_ridge
from discovr_ray.evaluate.questions import pose_questions, problem_of
from discovr_ray.evaluate.settings import ProbeSettings
from discovr_ray.evaluate.splits import Videos
from discovr_ray.evaluate.targets import ClassRule
from discovr_ray.launch.embed import embed
from discovr_ray.launch.encode_videos import EmbedOptions
from discovr_ray.launch.evaluate import EvaluationSummary, carry_out, prepare
from discovr_ray.launch.ingest import ingest
from discovr_ray.launch.preflight import run_uri
from discovr_ray.launch.splits import SplitRule
from discovr_ray.launch.trainer import pretrain
from discovr_ray.model.weights import CARD_FILE

# more test videos than the generator's own split has: intervals are as wide as these are few
SPLITS = SplitRule("hash", (0.5, 0.15, 0.35))
SETTINGS = ProbeSettings(ClassRule("abnormal"), feature="patches", suite="quick")
OPTIONS = EmbedOptions(clips_per_video=2, batch_size=16)
ASKED = (
    ("zero-shot kNN", "knn", "balanced_accuracy"),
    ("ejection fraction by ridge regression", "ridge", "r2"),
)


class Trial(NamedTuple):
    config: Config  # data.manifest is below `output`
    output: Path


def make_manifest(trial: Trial) -> dict[str, int]:
    """Videos of each split; made where they are not there yet."""
    data = trial.config.data
    if not Path(data.manifest).exists():
        videos = trial.output / "echo"
        write_dataset(videos, data.synthetic_clips, data.synthetic_seed, os.cpu_count() or 1)
        ingest([str(videos)], str(Path(data.manifest).parent), SPLITS)
    splits = read_manifest(data.manifest)["split"].to_pylist()
    return {split: splits.count(split) for split in sorted(set(splits))}


def pretrained(trial: Trial) -> str:
    """Folder of the finished run; an unfinished one goes on. Needs an initialised Ray.

    Errors:
        As of launch.trainer.pretrain; StreamError: it was asked to stop.
    """
    config = dataclasses.replace(trial.config, run=dataclasses.replace(trial.config.run, resume=True))
    uri = run_uri(config)
    if not storage.exists(storage.join(uri, CARD_FILE)):
        summary = pretrain(config)
        if summary.steps < summary.total_steps:
            raise StreamError(f"{uri}: stopped after {summary.steps} steps; the same command goes on")
    return uri


def measures_of_encoder(trial: Trial, run: str) -> list[Measure]:
    """The same numbers of the encoder alone, asked by the same probes."""
    manifest, folder = trial.config.data.manifest, f"{trial.output}/features/{trial.config.run.name}"
    features = read_features(embed(run, manifest, folder, OPTIONS).videos_uri)
    videos = Videos(features.clip_ids, features.patient_ids, features.splits)
    questions = pose_questions(videos, features.labels, SETTINGS)
    x = getattr(features, SETTINGS.feature)
    found = {
        "knn": run_knn(problem_of(questions, "class", x), SETTINGS),
        "ridge": run_ridge(problem_of(questions, "number", x), SETTINGS),
    }
    return _measures({ENCODER: found})


def evaluated(trial: Trial, run: str) -> EvaluationSummary:
    return carry_out(prepare(trial.config.data.manifest, run, str(trial.output / "evaluation"), SETTINGS, OPTIONS))


def measures_of(trial: Trial, run: str) -> list[Measure]:
    """The numbers that are judged, of the encoder and its floors."""
    return _measures(evaluated(trial, run).evaluation.results)


def _measures(results: Mapping[str, Mapping[str, Any]]) -> list[Measure]:
    """Args: results: model -> name of the probe -> its result."""
    return [
        Measure(
            title, metric, {model: found[probe].metrics[metric] for model, found in results.items() if probe in found}
        )
        for title, probe, metric in ASKED
    ]
