"""Reads the folder of a sweep and its study. Trials are read as they stand: a sweep that goes on has a page as well."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from discovr_ray.data import storage
from discovr_ray.report.sweep_trials import (
    Objective,
    SweepResults,
    SweepTrial,
    field_of,
    outcome_of,
    space_of,
    values_of,
)
from discovr_ray.sweep.folder import (
    OBJECTIVES,
    RUNGS,
    SECONDS,
    STEPS,
    WHY,
    trial_folder,
)
from discovr_ray.sweep.study import load_study, locate_study
from discovr_ray.train.run_log import METRICS_FILE, read_records


def read_sweep(folder: str, database: str = "") -> SweepResults:
    """Everything that the page shows.

    Args:
        database: URL of the study, where it cannot be that of sweep.yaml.
    Errors:
        SweepError: the folder holds no sweep, or its study cannot be read. StorageError: the storage did not answer.
    """
    uri = storage.absolute(folder)
    name, database = locate_study(uri, database)
    study = load_study(uri, name, database)
    trials = sorted(study.get_trials(deepcopy=False), key=lambda trial: trial.number)
    space = space_of(trials)
    rungs = tuple(map(int, study.user_attrs.get(RUNGS, ())))
    return SweepResults(
        name=name,
        uri=uri,
        rungs=rungs,
        objectives=_objectives(study),
        fields=tuple(field_of(field, distribution) for field, distribution in space.items()),
        space=space,
        trials=[_trial(uri, trial, rungs[-1] if rungs else 0) for trial in trials],
    )


def _objectives(study: optuna.Study) -> tuple[Objective, ...]:
    names = list(study.user_attrs.get(OBJECTIVES, ()))
    names += [f"value {place + 1}" for place in range(len(names), len(study.directions))]
    pairs = zip(names, study.directions, strict=False)
    return tuple(Objective(name, direction == StudyDirection.MAXIMIZE) for name, direction in pairs)


def _trial(uri: str, trial: FrozenTrial, whole: int) -> SweepTrial:
    records = read_records(trial_folder(uri, trial.number), METRICS_FILE)
    seconds: Any = trial.user_attrs.get(SECONDS)
    if seconds is None and trial.duration is not None:
        seconds = trial.duration.total_seconds()
    steps = int(trial.user_attrs.get(STEPS, records[-1]["step"] if records else 0))
    return SweepTrial(
        number=trial.number,
        outcome=outcome_of(trial, steps, whole),
        params=dict(trial.params),
        values=values_of(trial),
        rungs=dict(trial.intermediate_values),
        why=str(trial.user_attrs.get(WHY, "")),
        steps=steps,
        seconds=None if seconds is None else float(seconds),
        records=records,
    )
