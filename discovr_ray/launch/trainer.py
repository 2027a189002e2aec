"""A pretraining run from the driver's side: check, start Ray Train, carry signals, collect what the run leaves."""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from discovr_ray.config import Config, RunPlan, derive_plan
from discovr_ray.data import storage
from discovr_ray.data.manifest import fingerprint
from discovr_ray.errors import DiscovrError
from discovr_ray.launch.embedded import embedded_manifest
from discovr_ray.launch.failures import FailureReporter
from discovr_ray.launch.preflight import (
    absolute_paths,
    check_cluster,
    claim_run_folder,
    config_text,
    load_clips,
    refuse_taken_name,
    run_uri,
)
from discovr_ray.launch.start_weights import check_start_weights
from discovr_ray.launch.stop import ask_to_stop, run_interruptible, start_stop_flag
from discovr_ray.launch.usage import Cost, cost_of_run
from discovr_ray.launch.worker import WorkerResult, WorkerTask, run_worker
from discovr_ray.report.run_report import write_report
from discovr_ray.train import checkpoint

logger = logging.getLogger(__name__)

TAKE_HOME = ("encoder.safetensors", "encoder.json")


@dataclass(frozen=True)
class RunSummary:
    """What `pretrain` leaves behind."""

    steps: int
    total_steps: int
    stopped_by: int | None  # signal number, when the run was asked to end early
    run_uri: str
    encoder_uri: str
    report_uri: str
    cost: Cost


class TrainingFailedError(DiscovrError):
    """The workers failed more often than `run.max_failures`; the message holds the first cause."""


def pretrain(config: Config) -> RunSummary:
    """Run or continue a pretraining run; needs an initialised Ray (`ray_session.start_ray`).

    Errors:
        ConfigError, ManifestError, RunExistsError, StorageError: refused before any worker starts.
        NonFiniteError, CollapseError, TooManyBadClipsError, CheckpointError: the run ended because of what it met.
        CrashLoopError: more than `run.max_failures_per_step` worker groups failed from one and the same checkpoint.
        TrainingFailedError: workers died more often than `run.max_failures`.
    """
    storage.configure(config.storage)
    config = absolute_paths(config)
    refuse_taken_name(config)
    check_cluster(config)
    config = embedded_manifest(config)
    clips = load_clips(config)
    plan = derive_plan(config, clips.num_rows)
    init_sha256 = check_start_weights(config, run_uri(config))
    claim_run_folder(config, clips)
    log_plan(config, plan)

    stop_flag = start_stop_flag()
    uri = run_uri(config)
    task = WorkerTask(config.to_dict(), uri, storage.access(), fingerprint(clips), stop_flag, init_sha256)
    trainer = _trainer(config, task)
    signals: list[int] = []

    def on_interrupt(number: int) -> None:
        signals.append(number)
        logger.warning("signal %d: saving a checkpoint and ending; the same signal again ends at once", number)
        ask_to_stop(stop_flag)

    try:
        result = run_interruptible(lambda: _fit(trainer), on_interrupt)
        if result.error:
            raise result.error
    except DiscovrError:
        logger.info("report of the failed run: %s", write_report(uri))
        raise
    return _collect(config, plan, result.steps, signals[0] if result.stopped and signals else None)


def log_plan(config: Config, plan: RunPlan) -> None:
    """The resolved configuration, once, and what follows from it."""
    logger.info("configuration:\n%s", config_text(config))
    logger.info(
        "run %s: %d clips, %d steps an epoch, %d steps in all, global batch %d = %d workers x %d clips x %d passes, "
        "ZeRO stage %d, %s",
        config.run.name,
        plan.num_clips,
        plan.steps_per_epoch,
        plan.total_steps,
        config.engine.global_batch,
        config.run.max_workers,
        config.engine.micro_batch,
        plan.accumulation,
        config.engine.zero_stage,
        config.engine.precision,
    )


def _trainer(config: Config, task: WorkerTask) -> TorchTrainer:
    run = config.run
    resources = {"CPU": run.cpus_per_worker} | ({"GPU": 1.0} if run.use_gpu else {})
    env_vars = {} if run.use_gpu else {"DS_ACCELERATOR": "cpu"}  # no credentials: Ray logs them
    filesystem, path = storage.arrow_filesystem(run.storage_path)
    return TorchTrainer(
        run_worker_on_ray,
        train_loop_config={"task": task},
        torch_config=TorchConfig(backend="nccl" if run.use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=run.workers,
            use_gpu=run.use_gpu,
            resources_per_worker=resources,
            label_selector=run.worker_node_labels or None,
            elastic_resize_monitor_interval_s=run.resize_interval_s,
        ),
        run_config=ray.train.RunConfig(
            name=run.name,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=run.max_failures),
            callbacks=[FailureReporter(task.stop_flag)],
            worker_runtime_env={"env_vars": env_vars},
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),  # it repeats every checkpoint on every worker
        ),
    )


def run_worker_on_ray(loop_config: dict[str, WorkerTask]) -> WorkerResult:
    """Ray hands the train function one dict."""
    return run_worker(loop_config["task"])


def _fit(trainer: TorchTrainer) -> WorkerResult:
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")  # the run's state on Ray's dashboard and its API
    try:
        result = trainer.fit().return_value
    except ray.train.TrainingFailedError as error:
        raise TrainingFailedError(_first_cause(error)) from error
    assert isinstance(result, WorkerResult)
    return result


def _first_cause(error: Exception) -> str:
    failures = getattr(error, "worker_failures", {})
    causes = [f"worker {rank}: {cause}" for rank, cause in sorted(failures.items())]
    return "\n".join(causes) or str(error)


def _collect(config: Config, plan: RunPlan, steps: int, stopped_by: int | None) -> RunSummary:
    """Copy the last checkpoint's encoder, once verified, beside the config, and draw the report."""
    uri = run_uri(config)
    with tempfile.TemporaryDirectory(prefix="discovr-take-home-") as folder:
        saved = checkpoint.read(storage.join(uri, checkpoint.folder_name(steps)))
        checked = checkpoint.fetch(saved, Path(folder), lambda name: name in TAKE_HOME)
        for name in TAKE_HOME:
            storage.put_file(str(checked.directory / name), storage.join(uri, name))
    return RunSummary(
        steps=steps,
        total_steps=plan.total_steps,
        stopped_by=stopped_by,
        run_uri=uri,
        encoder_uri=storage.join(uri, TAKE_HOME[0]),
        report_uri=write_report(uri),
        cost=cost_of_run(uri, steps * config.engine.global_batch, config.run.price_per_hour),
    )
