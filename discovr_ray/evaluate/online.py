"""The kNN probe of a run under way: which labelled videos it looks at, and what their features say."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from discovr_ray.config import Config
from discovr_ray.data.manifest import read_labels, read_manifest
from discovr_ray.data.microbatch import COLUMNS
from discovr_ray.errors import ConfigError, EvaluationError
from discovr_ray.evaluate.features import FeatureArray
from discovr_ray.evaluate.knn import knn_votes
from discovr_ray.evaluate.metrics import ClassPredictions, class_metrics
from discovr_ray.evaluate.splits import Side, Videos, check_patients
from discovr_ray.evaluate.targets import ClassRule, class_targets
from discovr_ray.randomness import clip_key, uniform

SALT = 0x50524F4245  # so that the choice is independent of everything else that is drawn from a key


class ProbeVideos(NamedTuple):
    """The bank from TRAIN and the queries from VAL, sorted by clip_id; the same ones for the same manifest."""

    rows: pa.Table  # of the manifest, microbatch.COLUMNS
    codes: npt.NDArray[np.int64]  # [n], class
    is_query: npt.NDArray[np.bool_]  # [n]
    num_classes: int


def probe_videos(config: Config) -> ProbeVideos:
    """At most `probe.max_train` and `probe.max_val` videos that have the label, whatever `data.label_filter` trains on.

    Errors:
        ConfigError: no such label, a class that one of the splits lacks, a patient in both, or fewer videos than
            neighbours. ManifestError: no manifest.
    """
    try:
        return _probe_videos(config)
    except EvaluationError as error:
        raise ConfigError([f"probe.label = {config.probe.label!r}: {error}"]) from error


def knn_balanced_accuracy(videos: ProbeVideos, x: FeatureArray, k: int, temperature: float) -> float:
    """Balanced accuracy of the queries; x [n, D] are features of all videos, NaN for those that have none.

    Errors:
        EvaluationError: too few videos have features.
    """
    known = np.isfinite(x).all(axis=1)
    bank, queries = known & ~videos.is_query, known & videos.is_query
    for name, rows in (("TRAIN", bank), ("VAL", queries)):
        if len(np.unique(videos.codes[rows])) < videos.num_classes:
            raise EvaluationError(f"of {name}, {int(rows.sum())} videos have features, and a class is missing")
    side = Side([], np.zeros(0, np.str_), x[bank], videos.codes[bank])
    shares = knn_votes(side, x[queries], videos.num_classes, k, temperature)
    answers = ClassPredictions(videos.codes[queries], shares.argmax(axis=1), shares)
    return class_metrics(answers)["balanced_accuracy"](None)


def _probe_videos(config: Config) -> ProbeVideos:
    probe = config.probe
    table = read_manifest(probe.manifest or config.data.manifest)
    check_patients(Videos(*(table[name].to_pylist() for name in ("clip_id", "patient_id", "split"))))
    splits = np.array(table["split"].to_pylist(), np.str_)
    classes = class_targets(read_labels(table), ClassRule(probe.label))
    keys = np.array([clip_key(clip_id) for clip_id in table["clip_id"].to_pylist()], np.uint64)
    order = np.argsort(uniform(SALT, keys), kind="stable")
    chosen = []
    for split, count in (("TRAIN", probe.max_train), ("VAL", probe.max_val)):
        rows = order[(splits[order] == split) & (classes.codes[order] >= 0)][:count]
        missing = [name for code, name in enumerate(classes.names) if code not in classes.codes[rows]]
        if missing:
            raise EvaluationError(f"no video of class {', '.join(missing)} among {len(rows)} of split {split}")
        chosen.append(rows)
    if probe.k > len(chosen[0]):
        raise EvaluationError(f"probe.k = {probe.k}: must be at most the {len(chosen[0])} videos of split TRAIN")
    rows = np.sort(np.concatenate(chosen))
    names = [name for name in COLUMNS if name in table.column_names]
    taken = table.select(names).take(pa.array(rows))
    return ProbeVideos(taken, classes.codes[rows], splits[rows] == "VAL", len(classes.names))
