"""How much each swept field mattered, and how sure that is: fANOVA (Hutter et al., ICML 2014) over resampled trials."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator

from discovr_ray.report.sweep_trials import Field, SweepResults, SweepTrial

MIN_TRIALS = 6  # below it a forest of trees has nothing to split
RESAMPLES = 40
TREES = 16
INTERVAL = (5.0, 95.0)  # percentiles: 40 draws cannot tell the 2.5th


class Importance(NamedTuple):
    """Share, 0 to 1, of the variance of the values over the search space that goes with one field."""

    field: str
    share: float
    low: float
    high: float


def importances(sweep: SweepResults, trials: Sequence[SweepTrial], objective: int) -> list[Importance]:
    """Largest first; empty where they cannot be told: fewer than MIN_TRIALS, all values equal, or no common field.

    The interval is that of a bootstrap over trials: other trials of the same number could have given other shares.
    """
    names = [field.name for field in sweep.fields if all(field.name in trial.params for trial in trials)]
    names = [name for name in names if len({trial.params[name] for trial in trials}) > 1]
    if len(trials) < MIN_TRIALS or not names or len({trial.values[objective] for trial in trials}) < 2:
        return []
    draws = np.random.default_rng(0)
    with _quiet():
        shares = _shares(sweep, trials, names, objective, 0)
        resampled = []
        for number in range(RESAMPLES):
            drawn = [trials[place] for place in draws.integers(0, len(trials), len(trials))]
            if len({trial.values[objective] for trial in drawn}) > 1:
                resampled.append(_shares(sweep, drawn, names, objective, number))
    low, high = np.percentile(resampled, INTERVAL, axis=0)
    found = [
        Importance(name, float(shares[place]), float(low[place]), float(high[place]))
        for place, name in enumerate(names)
    ]
    return sorted(found, key=lambda item: -item.share)


def _shares(
    sweep: SweepResults, trials: Sequence[SweepTrial], names: list[str], objective: int, seed: int
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    fields = [field for field in sweep.fields if field.name in names]
    study = optuna.create_study(direction="maximize" if sweep.objectives[objective].maximise else "minimize")
    study.add_trials(
        [
            optuna.trial.create_trial(
                value=trial.values[objective],
                params={field.name: _axis_value(field, trial.params[field.name]) for field in fields},
                distributions={field.name: _axis(field, sweep.space[field.name]) for field in fields},
            )
            for trial in trials
        ]
    )
    evaluator = FanovaImportanceEvaluator(n_trees=TREES, seed=seed)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=names)
    return np.array([found[name] for name in names])


def _axis_value(field: Field, value: Any) -> Any:
    return field.place(value) if field.log else value


def _axis(field: Field, distribution: BaseDistribution) -> BaseDistribution:
    """fANOVA weighs a range evenly, logarithmic ones too; so those are given to it as ranges of the logarithm."""
    if not field.log:
        return distribution
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return FloatDistribution(field.place(distribution.low), field.place(distribution.high))


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna announces every study that it makes in memory."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
