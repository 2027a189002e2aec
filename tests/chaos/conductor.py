"""One performance: a run under faults, then the same steps in calm, on the same stage."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fault_actors import Actors, Strike
from fault_plan import Fault
from history import Leg, read_legs
from stage import Job, Stage, wait_until

from discovr_ray.config import load_config
from discovr_ray.data import storage
from discovr_ray.data.manifest import read_manifest
from discovr_ray.train import checkpoint
from discovr_ray.train.run_log import read_records

log = logging.getLogger("chaos")

NUM_CLIPS = 96
MANIFEST = "s3://bucket/manifest/manifest.parquet"
# the demo, on clips that make up whole global batches, each worker on a node of its own
DEMO_SIZE: dict[str, Any] = {
    "data.manifest": MANIFEST,
    "data.split": "",
    "run.cpus_per_worker": 2,
    "run.threads_per_worker": 1,
    "run.max_failures_per_step": 1000,  # faults may come faster than checkpoints
    "run.resize_interval_s": 5,
    "run.log_every_steps": 1,  # a record of several steps is their mean, and not that of another few of them
    "schedule.epochs": 100_000,  # it is stopped from outside
    "checkpoint.every_steps": 10,
}
START_S = 300.0  # within which a run must do a step, or make a checkpoint
STOPPED = 143  # exit code after SIGTERM


@dataclass(frozen=True)
class Scenario:
    """What is played."""

    faults: Sequence[Fault]
    seconds: float = 0.0  # from the first step to the stop; 0: until the run has recovered from the last fault
    one_by_one: bool = False  # a fault waits until a checkpoint was made since the one before, whatever its time
    overrides: dict[str, Any] = field(default_factory=dict)  # of the configuration


class Played(NamedTuple):
    """What a run leaves for the books."""

    legs: list[Leg]
    strikes: list[Strike]
    started: float  # seconds since 1970, when the job was started
    ended: float  # when it had ended
    end_step: int
    encoder: bytes
    records: list[dict[str, Any]]  # metrics.jsonl


class RunEndedError(Exception):
    """The job ended, though nobody asked it to."""


def steps_per_epoch(scenario: Scenario) -> int:
    config = load_config("demo", [f"{name}={value}" for name, value in {**DEMO_SIZE, **scenario.overrides}.items()])
    assert NUM_CLIPS % config.engine.global_batch == 0  # each clip once an epoch, without exception
    return NUM_CLIPS // config.engine.global_batch


def make_clips(stage: Stage) -> set[str]:
    """The manifest of the stage's clips; their ids."""
    command = [sys.executable, "-m", "jobs.ingest", "s3://bucket/echo", "--output", MANIFEST.rpartition("/")[0]]
    subprocess.run(command, env=stage.environment(), check=True, stdout=subprocess.DEVNULL, timeout=START_S)
    return set(read_manifest(MANIFEST)["clip_id"].to_pylist())


def play_faults(stage: Stage, scenario: Scenario) -> Played:
    job = stage.job("chaos", {**DEMO_SIZE, **scenario.overrides})
    started = time.time()
    job.start()
    try:
        strikes = _strike_all(stage, job, scenario)
        code = job.stop()
    finally:
        job.end()
    if code != STOPPED:
        raise RunEndedError(f"exit code {code} when it was asked to stop:\n{job.output()[-4000:]}")
    return _played(job, strikes, started)


def play_calm(stage: Stage, scenario: Scenario, end_step: int) -> Played:
    """The same run up to `end_step`, without a fault."""
    job = stage.job("calm", {**DEMO_SIZE, **scenario.overrides, "schedule.max_steps": end_step})
    started = time.time()
    job.start()
    try:
        code = job.wait(timeout_s=3600)
    finally:
        job.end()
    if code:
        raise RunEndedError(f"the calm run: exit code {code}:\n{job.output()[-4000:]}")
    return _played(job, [], started)


def _strike_all(stage: Stage, job: Job, scenario: Scenario) -> list[Strike]:
    actors, strikes = Actors(stage, job), []
    _wait_for(job, lambda legs: any(leg.whole_steps() for leg in legs), "a first step")
    first_step = time.time()
    for fault in scenario.faults:
        if scenario.one_by_one:
            _wait_for_checkpoint(job, since=strikes[-1].at if strikes else 0.0)
        else:
            _sleep(job, until=first_step + fault.at_s)
        log.info("%6.1f s  %s", time.time() - first_step, fault.kind)
        strikes.append(actors.strike(fault))
    if scenario.seconds:
        _sleep(job, until=first_step + scenario.seconds)
    else:
        _wait_for_checkpoint(job, since=strikes[-1].at)
    return strikes


def _wait_for_checkpoint(job: Job, since: float) -> None:
    """A checkpoint by workers that were started, or went on, after this time."""
    _wait_for(job, lambda legs: any(at > since for leg in legs for at in leg.sealed.values()), "a checkpoint")


def _wait_for(job: Job, condition: Callable[[list[Leg]], bool], what: str) -> None:
    def is_true() -> bool:
        _refuse_end(job)
        return condition(read_legs(job.records))

    wait_until(is_true, START_S, f"{what}:\n{job.output()[-2000:]}")


def _sleep(job: Job, until: float) -> None:
    while time.time() < until:
        _refuse_end(job)
        time.sleep(min(1.0, max(0.0, until - time.time())))


def _refuse_end(job: Job) -> None:
    if job.exit_code() is not None:
        raise RunEndedError(f"exit code {job.exit_code()}:\n{job.output()[-4000:]}")


def _played(job: Job, strikes: list[Strike], started: float) -> Played:
    ended = time.time()
    newest = next(checkpoint.find_checkpoints(job.run_uri))
    encoder = storage.read_bytes(storage.join(job.run_uri, "encoder.safetensors"))
    records = read_records(job.run_uri, "metrics.jsonl")
    return Played(read_legs(job.records), strikes, started, ended, newest.state.step, encoder, records)
