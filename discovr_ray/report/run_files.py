"""Reads the folder of a run. Every file is optional: a run that has just begun, or failed, gets a page as well."""

from __future__ import annotations

import io
import json
import logging
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import yaml

from discovr_ray.data import storage
from discovr_ray.train import checkpoint

SAMPLES_FILE = "samples.npz"
logger = logging.getLogger(__name__)


class Samples(NamedTuple):
    """Clips with what the model sees in them; T', h and w count tokens."""

    frames: npt.NDArray[np.uint8]  # [n, T, H, W]
    attention: npt.NDArray[np.float32]  # [n, T', h, w], CLS attention of the video teacher
    prototypes: npt.NDArray[np.int32]  # [n, T', h, w], nearest prototype of each token
    clip_ids: list[str]
    step: int  # of the checkpoint they lie in


class CheckpointRow(NamedTuple):
    """One checkpoint folder; an incomplete one has no files."""

    name: str
    step: int
    complete: bool
    num_files: int
    num_bytes: int


class RunFiles(NamedTuple):
    """What was found of a run."""

    name: str
    uri: str
    config: dict[str, dict[str, Any]]
    metrics: list[dict[str, Any]]  # one per logged step
    quarantine: list[dict[str, Any]]
    checkpoints: list[CheckpointRow]  # newest first
    samples: Samples | None
    steps_done: int
    total_steps: int | None  # None while neither a checkpoint nor a record tells the length of an epoch
    num_clips: int | None  # None before the first checkpoint


def read_run(run_uri: str) -> RunFiles:
    """Collect the files of a run.

    Errors:
        StorageError: the storage cannot be reached.
    """
    uri = storage.absolute(run_uri)
    config = _config(uri)
    metrics = _records(storage.join(uri, "metrics.jsonl"))
    complete = list(checkpoint.find_checkpoints(uri))
    num_clips = complete[0].state.num_clips if complete else None
    steps = [int(record["step"]) for record in metrics] + [item.state.step for item in complete]
    return RunFiles(
        name=str(config.get("run", {}).get("name") or uri.rsplit("/", 1)[-1]),
        uri=uri,
        config=config,
        metrics=metrics,
        quarantine=_records(storage.join(uri, "quarantine.jsonl")),
        checkpoints=_checkpoint_rows(uri, complete),
        samples=_samples(complete),
        steps_done=max(steps, default=0),
        total_steps=_total_steps(config, metrics, num_clips),
        num_clips=num_clips,
    )


def _config(uri: str) -> dict[str, dict[str, Any]]:
    path = storage.join(uri, "config.yaml")
    values = yaml.safe_load(storage.read_bytes(path)) if storage.exists(path) else None
    return values if isinstance(values, dict) else {}


def _records(uri: str) -> list[dict[str, Any]]:
    """Objects of a JSONL file. A line that was cut when the run was killed or the disk was full is left out."""
    if not storage.exists(uri):
        return []
    records = []
    for number, line in enumerate(storage.read_bytes(uri).decode(errors="replace").splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            logger.warning("%s: line %d is not valid JSON and is left out of the report", uri, number)
    return [record for record in records if isinstance(record, dict)]


def _checkpoint_rows(uri: str, complete: list[checkpoint.Checkpoint]) -> list[CheckpointRow]:
    by_name = {item.uri.rsplit("/", 1)[-1]: item for item in complete}
    rows = []
    for folder in storage.list_folders(uri):
        name = folder.rstrip("/").rsplit("/", 1)[-1]
        if name in by_name:
            item = by_name[name]
            rows.append(
                CheckpointRow(name, item.state.step, True, len(item.files), sum(file.num_bytes for file in item.files))
            )
        elif (step := checkpoint.step_of(name)) is not None:
            rows.append(CheckpointRow(name, step, False, 0, 0))
    return sorted(rows, key=lambda row: row.step, reverse=True)


def _samples(complete: list[checkpoint.Checkpoint]) -> Samples | None:
    """Of the newest checkpoint that has readable ones."""
    for item in complete:
        if not any(file.name == SAMPLES_FILE for file in item.files):
            continue
        uri = storage.join(item.uri, SAMPLES_FILE)
        try:
            with np.load(io.BytesIO(storage.read_bytes(uri))) as file:
                ids = [str(clip_id) for clip_id in file["clip_ids"]]
                return Samples(file["frames"], file["attention"], file["prototypes"], ids, item.state.step)
        except (ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            logger.warning("%s: not readable, so it is left out of the report: %s", uri, error)
    return None


def _total_steps(
    config: Mapping[str, Mapping[str, Any]], metrics: list[dict[str, Any]], num_clips: int | None
) -> int | None:
    """Length of the run, from the number of clips or, before the first checkpoint, from a record's step and epoch."""
    global_batch = config.get("engine", {}).get("global_batch")
    epochs, max_steps = (config.get("schedule", {}).get(name) for name in ("epochs", "max_steps"))
    if num_clips and global_batch:
        steps_per_epoch = num_clips // int(global_batch)
    elif metrics and metrics[-1].get("epoch"):
        steps_per_epoch = round(float(metrics[-1]["step"]) / float(metrics[-1]["epoch"]))
    else:
        return None
    if not epochs:
        return None
    whole = steps_per_epoch * int(epochs)
    return min(whole, int(max_steps)) if max_steps else whole
