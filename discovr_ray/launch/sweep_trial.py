"""One trial: a pretraining run of its own, in legs from rung to rung; each goes on from the last checkpoint."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray
import ray.tune

from discovr_ray.config import Config, parse_config
from discovr_ray.data import storage
from discovr_ray.errors import (
    CheckpointError,
    CollapseError,
    ConfigError,
    ManifestError,
    NonFiniteError,
    TooManyBadClipsError,
)
from discovr_ray.launch.preflight import CONFIG_FILE, run_uri
from discovr_ray.launch.trainer import pretrain
from discovr_ray.sweep.dimension import Values
from discovr_ray.sweep.folder import TRIALS_FOLDER, run_name
from discovr_ray.sweep.objective import is_logged, values_at
from discovr_ray.sweep.space import apply_values
from discovr_ray.train import checkpoint
from discovr_ray.train.run_log import METRICS_FILE, read_records

logger = logging.getLogger(__name__)

DIVERGED = (NonFiniteError, CollapseError)  # what the values of a trial can cause
HOPELESS = (ConfigError, ManifestError, CheckpointError, TooManyBadClipsError)  # another try would meet it again


@dataclass(frozen=True)
class TrialTask:
    """What all trials of a sweep are told; can be pickled."""

    config: dict[str, Any]  # of the sweep
    folder: str  # of the sweep
    rungs: tuple[int, ...]
    figures: tuple[str, ...]
    access: storage.Access  # the driver's
    stop_flag: Any  # handle of launch.stop.StopFlag, the sweep's


class Outcome(NamedTuple):
    """What a trial reports: figures at a rung, or why it ends without."""

    step: int
    values: list[float]
    diverged: str = ""
    failed: str = ""
    stopped: bool = False  # somebody asked for it


def trial_config(task: TrialTask, number: int, values: Values) -> Config:
    """Of trial `number`, whole: it differs from the others in the swept fields and its name alone."""
    config = apply_values(parse_config(task.config), values)
    run = dataclasses.replace(
        config.run, name=run_name(number), storage_path=storage.join(task.folder, TRIALS_FOLDER), resume=False
    )
    return dataclasses.replace(config, run=run)


def run_trial(assignment: dict[str, Any], task: TrialTask) -> None:
    """Tune's trainable. Reports an Outcome as a dict at every rung; Tune lets it go on from there, or ends it."""
    storage.adopt(task.access)
    number, passed = int(assignment["number"]), list(assignment["passed"])
    config = trial_config(task, number, dict(zip(assignment["names"], assignment["values"], strict=True)))
    for rung in task.rungs:
        if rung not in passed:
            outcome = run_leg(config, rung, task.figures, lambda: _asked(task.stop_flag))
            ray.tune.report(outcome._asdict())


def run_leg(config: Config, rung: int, figures: Sequence[str], asked: Callable[[], int | None]) -> Outcome:
    """Train to `rung` from the newest checkpoint, unless that is there already, and read the figures.

    What is worth another try is raised.
    """
    schedule = dataclasses.replace(config.schedule, max_steps=rung)
    uri = run_uri(config)
    begun = storage.exists(storage.join(uri, CONFIG_FILE))
    leg = dataclasses.replace(config, schedule=schedule, run=dataclasses.replace(config.run, resume=begun))
    try:
        retract_unmeasured(uri, rung, figures)
        if _saved_step(uri) < rung:
            summary = pretrain(leg, asked)
            if summary.steps < rung:
                return Outcome(summary.steps, [], stopped=True)
        return Outcome(rung, values_at(read_records(uri, METRICS_FILE), rung, figures, config))
    except DIVERGED as error:
        return Outcome(_saved_step(uri), [], diverged=str(error))
    except HOPELESS as error:
        return Outcome(_saved_step(uri), [], failed=str(error))


def retract_unmeasured(uri: str, rung: int, figures: Sequence[str]) -> None:
    """Have the way to a rung trained again where its checkpoint is there and its figures are not.

    So it is after a kill between the checkpoint's upload and the log's, or a probe that could not be answered.
    """
    if _saved_step(uri) >= rung and not is_logged(read_records(uri, METRICS_FILE), rung, figures):
        logger.warning("%s: figures of step %d are missing; it is trained again", uri, rung)
        checkpoint.retract(uri, newer_than=rung - 1)


def _saved_step(uri: str) -> int:
    newest = next(checkpoint.find_checkpoints(uri), None)
    return newest.state.step if newest else 0


def _asked(stop_flag: Any) -> int | None:
    """A signal's number for a run that is asked to end; whose it was, the sweep's driver knows."""
    return 2 if ray.get(stop_flag.requested.remote()) else None
