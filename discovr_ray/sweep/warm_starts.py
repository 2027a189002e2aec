"""Warm starts: what another sweep found best is tried first."""

from __future__ import annotations

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from discovr_ray.data import storage
from discovr_ray.errors import SweepError
from discovr_ray.sweep.dimension import Values
from discovr_ray.sweep.folder import RUNGS, STEPS, SWEEP_FILE
from discovr_ray.sweep.space import Space
from discovr_ray.sweep.spec import masked
from discovr_ray.sweep.study import DATABASES, connect, load_study, locate_study


def warm_starts(source: str, space: Space, most: int = 5) -> list[Values]:
    """Values of the best trials of another study that this space has, best first.

    Args:
        source: a sweep's folder, or the URL of a database with a single study, or URL::name.
    Errors:
        SweepError: no such folder or study, several studies, or none of its trials fits the space.
    """
    study = _load_source(source)
    done = [trial for trial in study.get_trials(deepcopy=False) if trial.values and trial.state.is_finished()]
    whole, sign = (study.user_attrs.get(RUNGS) or [0])[-1], -1 if study.directions[0] == StudyDirection.MAXIMIZE else 1
    done = [  # without those that diverged
        trial for trial in done if trial.state != TrialState.COMPLETE or trial.user_attrs.get(STEPS, whole) >= whole
    ]
    best = {trial.number for trial in study.best_trials} if len(study.directions) > 1 else set()
    order = {TrialState.COMPLETE: 0, TrialState.PRUNED: 1}
    done.sort(key=lambda trial: (trial.number not in best, order.get(trial.state, 2), sign * trial.values[0]))
    fitting = [dict(trial.params) for trial in done if space.fits(trial.params)]
    if not fitting:
        raise SweepError([f"--from-study {masked(source)}: none of its {len(done)} finished trials fits the space"])
    return [values for place, values in enumerate(fitting) if values not in fitting[:place]][:most]


def _load_source(source: str) -> optuna.Study:
    if not source.startswith(DATABASES):
        return _study_in_folder(source)
    url, _, name = source.partition("::")
    names = optuna.get_all_study_names(connect(url))
    if not name and len(names) != 1:
        raise SweepError([f"--from-study {masked(url)}: has {len(names)} studies; name one with URL::name"])
    return load_study("", name or names[0], url)


def _study_in_folder(folder: str) -> optuna.Study:
    if not storage.exists(storage.join(folder, SWEEP_FILE)):
        raise SweepError([f"--from-study {folder}: no database's URL, and no sweep's folder with a {SWEEP_FILE}"])
    return load_study(folder, *locate_study(folder))
