"""What runs on every training worker: set up the process, then its Session."""

from __future__ import annotations

import logging

import pyarrow as pa
import ray.train
import torch

from discovr_ray.config import Config, parse_config
from discovr_ray.data import storage
from discovr_ray.data.manifest import fingerprint, read_manifest, select_clips
from discovr_ray.errors import (
    CheckpointError,
    CollapseError,
    CrashLoopError,
    NonFiniteError,
    RunTakenError,
    TooManyBadClipsError,
)
from discovr_ray.launch.failures import refuse_crash_loop
from discovr_ray.launch.logs import show_progress
from discovr_ray.launch.session import Session, WorkerResult, WorkerTask
from discovr_ray.train.allocator import keep_freed_memory

logger = logging.getLogger(__name__)

ENDS = (NonFiniteError, CollapseError, TooManyBadClipsError, CheckpointError, CrashLoopError, RunTakenError)


def run_worker(task: WorkerTask) -> WorkerResult:
    """The train function. Starts at the newest complete checkpoint of the run, whoever wrote it."""
    storage.adopt(task.access)
    config = parse_config(task.config)
    _set_up_process(config)
    try:
        refuse_crash_loop(config.run.max_failures_per_step, task.run_uri, task.stop_flag)
        return Session(config, task, _clips(config, task.clips_sha256), _device(config)).run()
    except ENDS as error:
        # every rank raises these at the same step; a restart would only meet them again
        logger.error("%s", error)
        return WorkerResult(error=error)


def _clips(config: Config, wanted: str) -> pa.Table:
    """The run's rows of the manifest; refuses one that was written anew since the driver looked.

    Errors:
        CheckpointError: other clips than those that the run was started with.
    """
    clips = select_clips(read_manifest(config.data.manifest), config.data.split, config.data.label_filter)
    if fingerprint(clips) != wanted:
        raise CheckpointError(f"{config.data.manifest}: holds other clips than when the run was started")
    return clips


def _device(config: Config) -> torch.device:
    if not config.run.use_gpu:
        return torch.device("cpu")
    device: torch.device = ray.train.torch.get_device()
    torch.cuda.set_device(device)
    return device


def _set_up_process(config: Config) -> None:
    show_progress()
    logging.getLogger().setLevel(logging.WARNING)  # Ray Train sets INFO and would tell of every report twice
    if not config.run.use_gpu:
        keep_freed_memory()
    threads = config.run.threads_per_worker
    if not threads:
        threads = max(1, int(torch.get_num_threads() if config.run.use_gpu else config.run.cpus_per_worker))
    torch.set_num_threads(threads)
