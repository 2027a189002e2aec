"""A sweep from the driver's side: check everything, have Ray Tune run the trials, carry signals, write the report."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray.tune
from optuna.trial import TrialState
from ray.tune.experiment import Trial

from discovr_ray.config import derive_plan
from discovr_ray.data import storage
from discovr_ray.data.stream.nodes import alive_nodes, keep_statistics_here
from discovr_ray.errors import CrashLoopError, RunExistsError, RunTakenError, SweepError
from discovr_ray.launch.dry_run import number_of_clips
from discovr_ray.launch.embedded import embedded_manifest
from discovr_ray.launch.owner import hold, new_claim
from discovr_ray.launch.preflight import absolute_paths, check_cluster, load_clips
from discovr_ray.launch.stop import ask_to_stop, run_interruptible, start_stop_flag
from discovr_ray.launch.sweep_room import needs, refuse_too_many, trials_at_once
from discovr_ray.launch.sweep_search import RungScheduler, StudySearch
from discovr_ray.launch.sweep_trial import TrialTask, run_trial
from discovr_ray.report.sweep_report import write_sweep_report
from discovr_ray.sweep.book import Book
from discovr_ray.sweep.dimension import Values
from discovr_ray.sweep.folder import SWEEP_FILE, run_name
from discovr_ray.sweep.objective import measured
from discovr_ray.sweep.space import describe
from discovr_ray.sweep.spec import Sweep, masked, spec_text
from discovr_ray.sweep.study import find_study, open_study, rungs_of
from discovr_ray.sweep.warm_starts import warm_starts

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


@dataclass(frozen=True)
class SweepPlan:
    """A sweep for which everything was checked that can be without a cluster."""

    sweep: Sweep  # with its steps known
    folder: str
    first: tuple[Values, ...]  # what is tried first; nothing where the sweep has begun
    resume: bool


def prepare(sweep: Sweep, resume: bool = False, from_study: str = "") -> SweepPlan:
    """Check the sweep; starts and writes nothing.

    Args:
        from_study: see `warm_starts`; "": none.
    Errors:
        SweepError, ConfigError, ManifestError, StorageError: impossible, or its name is taken.
    """
    storage.configure(sweep.config.storage)
    name, folder = sweep.spec.name, sweep_folder(sweep)
    if not resume and storage.exists(storage.join(folder, SWEEP_FILE)):
        raise SweepError([f"name = {name!r}: {folder} already holds a sweep; choose another name, or --resume it"])
    sweep = planned(sweep)
    study = find_study(sweep, folder, resume)
    if study and study.get_trials(deepcopy=False):
        if from_study:
            raise SweepError([f"--from-study {masked(from_study)}: the sweep {name!r} has begun, with its own trials"])
        return SweepPlan(sweep, folder, (), resume)
    points = [sweep.space.first(sweep.spec.first, sweep.config)]
    return SweepPlan(sweep, folder, (*points, *(warm_starts(from_study, sweep.space) if from_study else ())), resume)


def run_sweep(plan: SweepPlan) -> SweepSummary:
    """Run or continue a sweep; needs an initialised Ray (`ray_session.start_ray`).

    Errors:
        SweepError, ConfigError, ManifestError, StorageError: refused before any trial starts.
        CrashLoopError: `max_failures` trials have failed one after another.
        RunTakenError: another start has taken the sweep over, since this one gave no sign of life.
    """
    sweep = plan.sweep
    check_cluster(sweep.config)
    refuse_too_many(sweep.config, alive_nodes(), sweep.spec.concurrent)
    mine = new_claim(sweep.config.run.claim_timeout_s)
    flag = start_stop_flag(mine.start)
    try:
        with hold(plan.folder, mine, on_lost=lambda: ask_to_stop(flag)) as still_held:
            summary = _run(plan, flag, mine.start)
            if not still_held():
                raise RunTakenError(f"{plan.folder}: another start of the sweep has taken it over")
            return summary
    except RunExistsError as error:
        raise SweepError([f"name = {sweep.spec.name!r}: another start of the sweep goes on now ({error})"]) from None


def sweep_folder(sweep: Sweep) -> str:
    return storage.join(storage.absolute(sweep.spec.storage_path), sweep.spec.name)


def planned(sweep: Sweep) -> Sweep:
    """With the steps of a whole trial, absolute paths, and figures switched on; the space is checked.

    Errors:
        SweepError, ConfigError, ManifestError: the space is impossible, or trials are shorter than wished.
    """
    sweep.space.refuse_impossible(sweep.config)
    config = absolute_paths(sweep.config)
    num_clips = number_of_clips(measured(config, sweep.objectives, 1))  # so that the label is looked at, too
    available = derive_plan(config, num_clips).total_steps
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


def describe_sweep(plan: SweepPlan) -> str:
    """Several lines for people, as `--dry-run` prints them."""
    spec = plan.sweep.spec
    end = [f"{spec.trials} trials"] * bool(spec.trials) + [f"{spec.hours:g} hours"] * bool(spec.hours)
    lines = [
        f"sweep        {plan.folder}",
        *(f"searched     {one.name}: {one.describe()}" for one in plan.sweep.space.dimensions),
        f"maximised    {', '.join(plan.sweep.objectives)}",
        f"steps        {', '.join(map(str, rungs_of(plan.sweep)))}",
        f"until        {' or '.join(end)}",
        f"each trial   {needs(plan.sweep.config)}",
    ]
    return "\n".join([*lines, *(f"tried first  {describe(values)}" for values in plan.first)])


def _run(plan: SweepPlan, flag: Any, start: str) -> SweepSummary:
    sweep, folder = plan.sweep, plan.folder
    shared = dataclasses.replace(sweep.config.run, storage_path=storage.absolute(sweep.spec.storage_path))
    config = embedded_manifest(dataclasses.replace(sweep.config, run=shared))  # one data set for all its sweeps
    load_clips(config)  # refuses what the trials would
    study = open_study(sweep, folder, plan.resume)
    storage.write_bytes(storage.join(folder, SWEEP_FILE), spec_text(sweep.spec).encode())
    book = Book(study, sweep)
    if not any(book.count().values()):
        book.enqueue_first(plan.first)
    keep_statistics_here()
    task = TrialTask(config.to_dict(), folder, tuple(book.rungs), sweep.objectives, storage.access(), flag)
    signals: list[int] = []

    def on_interrupt(number: int) -> None:
        signals.append(number)
        logger.warning("signal %d: trials save a checkpoint and end; the same signal again ends at once", number)
        book.is_stopping = True
        ask_to_stop(flag)

    ended = Countdown(lambda: _try_report(folder, sweep.spec.storage))
    tuner = _tuner(sweep, folder, start, book, task, ended.tick)
    try:
        run_interruptible(tuner.fit, on_interrupt)
    finally:
        book.close()
    counts, report_uri = book.count(), write_report(folder, sweep.spec.storage)
    if book.given_up:
        raise CrashLoopError(f"{book.given_up}\nremove the cause and --resume the sweep; its report: {report_uri}")
    return SweepSummary(
        folder=folder,
        trained=counts[TrialState.COMPLETE],
        stopped_early=counts[TrialState.PRUNED],
        failed=counts[TrialState.FAIL],
        report_uri=report_uri,
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
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the book tells what happens
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # its remarks on those records, and on every try
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
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=ray.tune.RunConfig(
            name=start,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.tune.FailureConfig(max_failures=sweep.spec.retries),
            verbose=0,
        ),
    )


def _name(trial: Trial) -> str:
    return run_name(int(trial.config["number"]))


def write_report(folder: str, database: str) -> str:
    """report.html and best.yaml of the sweep in `folder`; the page's address.

    Errors:
        SweepError, ConfigError, StorageError: see `write_sweep_report`.
    """
    return write_sweep_report(folder, database)


def _try_report(folder: str, database: str) -> None:
    """While the sweep goes on."""
    try:
        write_report(folder, database)
    except Exception as error:  # whatever a page meets, it is no reason to end a sweep; the last one is not tried
        logger.warning("no report this time: %s: %s", type(error).__name__, error)
