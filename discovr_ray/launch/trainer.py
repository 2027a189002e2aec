"""A pretraining run from the driver's side: check, start Ray Train, carry signals, collect what the run leaves."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from discovr_ray.config import Config, RunPlan, derive_plan
from discovr_ray.data import storage
from discovr_ray.data.manifest import fingerprint
from discovr_ray.data.stream.nodes import keep_statistics_here
from discovr_ray.errors import DiscovrError, RunTakenError
from discovr_ray.launch.embedded import embedded_manifest
from discovr_ray.launch.owner import hold, new_claim
from discovr_ray.launch.preflight import (
    absolute_paths,
    check_cluster,
    claim_run_folder,
    config_text,
    load_clips,
    refuse_taken_name,
    run_uri,
)
from discovr_ray.launch.session import WorkerTask
from discovr_ray.launch.start_weights import check_start_weights
from discovr_ray.launch.stop import ask_to_stop, run_interruptible, run_watched, start_stop_flag
from discovr_ray.launch.supervise import Supervisor
from discovr_ray.launch.usage import Cost, cost_of_run
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


def pretrain(config: Config, asked: Callable[[], int | None] | None = None) -> RunSummary:
    """Run or continue a pretraining run; needs an initialised Ray (`ray_session.start_ray`).

    Args:
        asked: looked at every second, for the number of a signal that somebody else took, to end early; None: take
            signals here, which only a main thread can.
    Errors:
        ConfigError, ManifestError, RunExistsError, StorageError: refused before any worker starts.
        RunTakenError: another start has taken the run over, since this one gave no sign of life.
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
    uri = run_uri(config)
    init_sha256 = check_start_weights(config, uri)
    mine = new_claim(config.run.claim_timeout_s)
    stop_flag = start_stop_flag(mine.start)
    with hold(uri, mine, on_lost=lambda: ask_to_stop(stop_flag)) as still_held:
        claim_run_folder(config, clips)
        log_plan(config, plan)
        keep_statistics_here()
        sha256 = fingerprint(clips)
        task = WorkerTask(config.to_dict(), uri, storage.access(), sha256, stop_flag, mine.start, init_sha256)
        steps, stopped_by = _train(config, task, asked)
        if not still_held():
            raise RunTakenError(f"{uri}: another start of the job has taken this run over")
        return _collect(config, plan, steps, stopped_by)


def _train(config: Config, task: WorkerTask, asked: Callable[[], int | None] | None) -> tuple[int, int | None]:
    """Steps done, and the number of the signal that ended training before its end."""
    signals: list[int] = []
    supervisor = Supervisor(config, task, lambda: bool(signals))

    def on_interrupt(number: int) -> None:
        signals.append(number)
        logger.warning("signal %d: saving a checkpoint and ending; the same signal again ends at once", number)
        ask_to_stop(task.stop_flag)

    try:
        if asked:
            result = run_watched(supervisor.run, asked, on_interrupt, every_s=1.0)
        else:
            result = run_interruptible(supervisor.run, on_interrupt)
        if result.error:
            raise result.error
    except RunTakenError:
        raise  # the folder is no longer ours to write a report into
    except DiscovrError:
        logger.info("report of the failed run: %s", write_report(task.run_uri))
        raise
    ended_early = result.stopped or result.leaves
    return result.steps, signals[0] if ended_early and signals else None


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


def _collect(config: Config, plan: RunPlan, steps: int, stopped_by: int | None) -> RunSummary:
    """Copy the last checkpoint's encoder, once verified, beside the config, and draw the report."""
    uri = run_uri(config)
    with tempfile.TemporaryDirectory(prefix="discovr-take-home-") as folder:
        saved = next(found for found in checkpoint.find_checkpoints(uri) if found.state.step == steps)
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
