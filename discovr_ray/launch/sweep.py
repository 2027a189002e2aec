"""A sweep from the driver's side: check everything, have Ray Tune run the trials, carry signals, write the report."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray.tune
from optuna.trial import TrialState

from discovr_ray.config import derive_plan
from discovr_ray.data import storage
from discovr_ray.data.stream.nodes import alive_nodes, keep_statistics_here
from discovr_ray.errors import RunExistsError, SweepError
from discovr_ray.launch.dry_run import number_of_clips
from discovr_ray.launch.embedded import embedded_manifest
from discovr_ray.launch.owner import hold, new_claim
from discovr_ray.launch.preflight import absolute_paths, check_cluster
from discovr_ray.launch.stop import ask_to_stop, run_interruptible, start_stop_flag
from discovr_ray.launch.sweep_room import refuse_too_many, trials_at_once
from discovr_ray.launch.sweep_search import RungScheduler, StudySearch
from discovr_ray.launch.sweep_trial import TrialTask, run_trial
from discovr_ray.sweep.book import Book
from discovr_ray.sweep.dimension import Values
from discovr_ray.sweep.folder import REPORT_FILE, SWEEP_FILE, TRIALS_FOLDER
from discovr_ray.sweep.objective import measured
from discovr_ray.sweep.space import describe
from discovr_ray.sweep.spec import Sweep, spec_text
from discovr_ray.sweep.study import open_study, rungs_of, warm_starts

logger = logging.getLogger(__name__)

REPORT_EVERY = 4  # trials that have ended
TRIAL_MEMORY_BYTES = 2**28  # of a trial's driver, which takes no CPU that training could have
TUNE_FOLDER = "tune"


@dataclass(frozen=True)
class SweepSummary:
    """What `run_sweep` leaves behind."""

    folder: str
    trained: int  # trials that came to their end
    stopped_early: int
    failed: int
    report_uri: str
    stopped_by: int | None  # signal number, when the sweep was asked to end early


def run_sweep(sweep: Sweep, resume: bool = False, from_study: str = "") -> SweepSummary:
    """Run or continue a sweep; needs an initialised Ray (`ray_session.start_ray`).

    Errors:
        SweepError, ConfigError, ManifestError, StorageError: refused before any trial starts.
    """
    storage.configure(sweep.config.storage)
    folder = sweep_folder(sweep)
    refuse_taken_folder(folder, sweep.spec.name, resume)
    sweep = planned(sweep)
    check_cluster(sweep.config)
    refuse_too_many(sweep.config, alive_nodes(), sweep.spec.concurrent)
    points = first_points(sweep, from_study)
    mine = new_claim(sweep.config.run.claim_timeout_s)
    flag = start_stop_flag(mine.start)
    try:
        with hold(folder, mine, on_lost=lambda: ask_to_stop(flag)):
            return _run(sweep, folder, points, resume, flag, mine.start)
    except RunExistsError as error:
        raise SweepError([f"name = {sweep.spec.name!r}: another start of the sweep goes on now ({error})"]) from None


def sweep_folder(sweep: Sweep) -> str:
    return storage.join(storage.absolute(sweep.spec.storage_path), sweep.spec.name)


def refuse_taken_folder(folder: str, name: str, resume: bool) -> None:
    """Cheap enough to come before Ray starts.

    Errors:
        SweepError: the name is taken.
    """
    if not resume and storage.exists(storage.join(folder, SWEEP_FILE)):
        raise SweepError([f"name = {name!r}: {folder} already holds a sweep; choose another name, or --resume it"])


def planned(sweep: Sweep) -> Sweep:
    """With the steps of a whole trial, absolute paths, and figures switched on; the space is checked.

    Errors:
        SweepError, ConfigError, ManifestError: the space is impossible, or trials are shorter than wished.
    """
    sweep.space.refuse_impossible(sweep.config)
    config = absolute_paths(sweep.config)
    available = derive_plan(config, number_of_clips(config)).total_steps
    steps = sweep.spec.steps or available
    if steps > available:
        raise SweepError([f"steps = {steps}: the configuration has {available}; raise schedule.epochs or lower steps"])
    if sweep.spec.asha.first_steps >= steps:
        raise SweepError([f"asha.first_steps = {sweep.spec.asha.first_steps}: must be below steps = {steps}"])
    data = config.data
    limit = data.max_decode_cpus or data.decode_cpus  # what a trial decodes with, others cannot train with
    config = dataclasses.replace(config, data=dataclasses.replace(data, max_decode_cpus=limit))
    spec = dataclasses.replace(sweep.spec, steps=steps)
    return dataclasses.replace(sweep, spec=spec, config=measured(config, sweep.objectives, steps))


def first_points(sweep: Sweep, from_study: str) -> list[Values]:
    """Trial 0, and what another study found best.

    Errors:
        SweepError: see `warm_starts`.
    """
    return [
        sweep.space.first(sweep.spec.first, sweep.config),
        *(warm_starts(from_study, sweep.space) if from_study else []),
    ]


def describe_sweep(sweep: Sweep, from_study: str = "") -> str:
    """`--dry-run`: the checked sweep in words; starts nothing, writes nothing.

    Errors:
        SweepError, ConfigError, ManifestError, StorageError: what would also refuse the sweep itself, but for the
            cluster's size and the study.
    """
    sweep = planned(sweep)
    spec, run = sweep.spec, sweep.config.run
    end = [f"{spec.trials} trials"] * bool(spec.trials) + [f"{spec.hours:g} hours"] * bool(spec.hours)
    lines = [
        f"sweep        {sweep_folder(sweep)}",
        *(f"searched     {one.name}: {one.describe()}" for one in sweep.space.dimensions),
        f"maximised    {', '.join(sweep.objectives)}",
        f"steps        {', '.join(map(str, rungs_of(sweep)))}",
        f"until        {' or '.join(end)}",
        f"each trial   {run.workers} x {run.cpus_per_worker:g} CPUs, {sweep.config.data.decode_cpus:g} to decode",
    ]
    return "\n".join([*lines, *(f"tried first  {describe(point)}" for point in first_points(sweep, from_study))])


def _run(sweep: Sweep, folder: str, points: Sequence[Values], resume: bool, flag: Any, start: str) -> SweepSummary:
    study = open_study(sweep, folder, resume)
    storage.write_bytes(storage.join(folder, SWEEP_FILE), spec_text(sweep.spec).encode())
    book = Book(study, sweep)
    if not any(book.count().values()):
        book.enqueue_first(points)
    data_home = dataclasses.replace(
        sweep.config, run=dataclasses.replace(sweep.config.run, storage_path=storage.join(folder, TRIALS_FOLDER))
    )
    config = embedded_manifest(data_home)
    keep_statistics_here()
    task = TrialTask(config.to_dict(), folder, tuple(book.rungs), sweep.objectives, storage.access(), flag)
    signals: list[int] = []

    def on_interrupt(number: int) -> None:
        signals.append(number)
        logger.warning("signal %d: trials save a checkpoint and end; the same signal again ends at once", number)
        book.is_stopping = True
        ask_to_stop(flag)

    ended = Countdown(lambda: write_report(folder, sweep.spec.storage))
    tuner = _tuner(sweep, folder, start, book, task, ended.tick)
    try:
        run_interruptible(tuner.fit, on_interrupt)
    finally:
        book.close()
    counts = book.count()
    return SweepSummary(
        folder=folder,
        trained=counts[TrialState.COMPLETE],
        stopped_early=counts[TrialState.PRUNED],
        failed=counts[TrialState.FAIL],
        report_uri=write_report(folder, sweep.spec.storage),
        stopped_by=signals[0] if signals else None,
    )


class Countdown:
    """Calls `act` at every REPORT_EVERY-th tick."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act, self._ticks = act, 0

    def tick(self) -> None:
        self._ticks += 1
        if self._ticks % REPORT_EVERY == 0:
            self._act()


def _tuner(
    sweep: Sweep, folder: str, start: str, book: Book, task: TrialTask, on_end: Callable[[], None]
) -> ray.tune.Tuner:
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # each trial's run has its own records
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    filesystem, path = storage.arrow_filesystem(storage.join(folder, TUNE_FOLDER))
    errors: dict[str, str] = {}

    def trial(assignment: dict[str, Any]) -> None:
        run_trial(assignment, task)

    return ray.tune.Tuner(
        ray.tune.with_resources(trial, {"cpu": 0, "memory": TRIAL_MEMORY_BYTES}),
        tune_config=ray.tune.TuneConfig(
            search_alg=StudySearch(book, errors),
            scheduler=RungScheduler(book, errors, on_end),
            num_samples=-1,  # until the book has no more
            max_concurrent_trials=sweep.spec.concurrent or trials_at_once(sweep.config, alive_nodes()),
            reuse_actors=True,
        ),
        run_config=ray.tune.RunConfig(
            name=start,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.tune.FailureConfig(max_failures=sweep.spec.retries),
            verbose=0,
        ),
    )


def write_report(folder: str, database: str) -> str:
    """The report's address."""
    return storage.join(folder, REPORT_FILE)
