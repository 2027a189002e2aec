"""Reads the folder of a sweep and its study. Trials are read as they stand: a sweep that goes on has a page as well."""

from __future__ import annotations

from typing import Any

import optuna
import yaml
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from discovr_ray.data import storage
from discovr_ray.errors import SweepError
from discovr_ray.report.sweep_trials import Objective, Sweep, SweepTrial, field_of, outcome_of, space_of, values_of
from discovr_ray.sweep.folder import (
    DATABASE_FILE,
    OBJECTIVES,
    RUNGS,
    SECONDS,
    STEPS,
    SWEEP_FILE,
    WHY,
    database_url,
    trial_folder,
)
from discovr_ray.sweep.study import load_study
from discovr_ray.train.run_log import METRICS_FILE, read_records


def sweep_name(folder: str) -> str:
    """Of the sweep in `folder`, as its sweep.yaml says, or else that of the folder.

    Errors:
        SweepError: no sweep.yaml there, or not one of ours.
    """
    uri = storage.join(folder, SWEEP_FILE)
    if not storage.exists(uri):
        raise SweepError([f"{folder}: no sweep: it has no {SWEEP_FILE}; give <storage_path>/<name> of jobs/sweep.py"])
    try:
        values = yaml.safe_load(storage.read_bytes(uri))
    except yaml.YAMLError as error:
        raise SweepError([f"{uri}: cannot be read as YAML: {error}"]) from error
    if not isinstance(values, dict):
        raise SweepError([f"{uri}: must hold the fields of a sweep, is a {type(values).__name__}"])
    return str(values.get("name") or folder.rstrip("/").rsplit("/", 1)[-1])


def read_sweep(folder: str, database: str = "") -> Sweep:
    """Everything that the page shows.

    Args:
        database: URL of the study where it is not the folder's own file.
    Errors:
        SweepError: the folder holds no sweep, or its study cannot be read. StorageError: the storage did not answer.
    """
    uri = storage.absolute(folder)
    name = sweep_name(uri)
    study = open_study(uri, name, database)
    trials = sorted(study.get_trials(deepcopy=False), key=lambda trial: trial.number)
    space = space_of(trials)
    return Sweep(
        name=name,
        uri=uri,
        rungs=tuple(map(int, study.user_attrs.get(RUNGS, ()))),
        objectives=_objectives(study),
        fields=tuple(field_of(field, distribution) for field, distribution in space.items()),
        space=space,
        trials=[_trial(uri, trial) for trial in trials],
    )


def open_study(uri: str, name: str, database: str) -> optuna.Study:
    """The study of a sweep, to be read.

    Errors:
        SweepError: its database is not there, cannot be reached, or does not have it.
    """
    if not database and not storage.exists(storage.join(uri, DATABASE_FILE)):
        raise SweepError([f"{uri}: no {DATABASE_FILE}; a study that is kept elsewhere needs its URL: --storage"])
    try:
        return load_study(uri, name, database)
    except KeyError as error:
        raise SweepError([f"{_shown_url(uri, database)}: has no study {name!r}"]) from error
    except (SQLAlchemyError, ImportError, RuntimeError, ValueError) as error:
        raise SweepError([f"{_shown_url(uri, database)}: the study cannot be read: {type(error).__name__}"]) from error


def _shown_url(uri: str, database: str) -> str:
    """Without what stands before the host: it may be a password."""
    url = database_url(uri, database)
    scheme, separator, rest = url.partition("://")
    return scheme + separator + rest.rpartition("@")[2]


def _objectives(study: optuna.Study) -> tuple[Objective, ...]:
    names = list(study.user_attrs.get(OBJECTIVES, ()))
    names += [f"value {place + 1}" for place in range(len(names), len(study.directions))]
    pairs = zip(names, study.directions, strict=False)
    return tuple(Objective(name, direction == StudyDirection.MAXIMIZE) for name, direction in pairs)


def _trial(uri: str, trial: FrozenTrial) -> SweepTrial:
    why = str(trial.user_attrs.get(WHY, ""))
    records = read_records(trial_folder(uri, trial.number), METRICS_FILE)
    seconds: Any = trial.user_attrs.get(SECONDS)
    if seconds is None and trial.duration is not None:
        seconds = trial.duration.total_seconds()
    steps = trial.user_attrs.get(STEPS, records[-1]["step"] if records else 0)
    return SweepTrial(
        number=trial.number,
        outcome=outcome_of(trial, why),
        params=dict(trial.params),
        values=values_of(trial),
        why=why,
        steps=int(steps),
        seconds=None if seconds is None else float(seconds),
        records=records,
    )
