"""The book of a sweep: which trial is next, whether one goes on, and what the study is told. The study alone keeps it.

A trial is written down as running until it ended, so a start after a kill finds those that were interrupted, and has
them go on. What a rung decided is written down, too, and is never decided again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import optuna
from optuna.trial import TrialState

from discovr_ray.config import check_config
from discovr_ray.errors import ConfigError
from discovr_ray.sweep.asha import goes_on
from discovr_ray.sweep.dimension import Values
from discovr_ray.sweep.folder import RUNGS, SECONDS, STEPS, STOPPED_EARLY, WHY
from discovr_ray.sweep.objective import WORST
from discovr_ray.sweep.space import apply_values, describe
from discovr_ray.sweep.spec import Sweep
from discovr_ray.sweep.study import make_sampler

logger = logging.getLogger(__name__)

PASSED = "passed"  # user attribute of a trial: rungs after which it went on
SPENT = "spent_s"  # user attribute of the study: time of all starts together


class Assignment(NamedTuple):
    """A trial to be run, from its newest checkpoint if there is one."""

    number: int
    values: Values
    passed: list[int]  # rungs that need not be reported again


class Book:
    """Of one start of the sweep; a single thread uses it."""

    def __init__(self, study: optuna.Study, sweep: Sweep) -> None:
        self._study, self._sweep = study, sweep
        self._rungs: list[int] = study.user_attrs[RUNGS]
        self._open: dict[int, optuna.Trial] = {}  # of this start, by number
        self._since: dict[int, float] = {}  # number -> start of its clock
        self._started, self._spent_before = time.monotonic(), float(study.user_attrs.get(SPENT, 0.0))
        self._interrupted = [trial.number for trial in study.get_trials(states=[TrialState.RUNNING])]
        self._failures = 0  # trials of this start that failed one after another
        self.given_up = ""  # why nothing new begins after `max_failures` of them
        self.is_stopping = False  # somebody asked: nothing new begins, and what is under way stays written down so

    @property
    def rungs(self) -> Sequence[int]:
        return self._rungs

    def enqueue_first(self, points: Sequence[Values]) -> None:
        """What is tried before the sampler is asked; missing fields are its choice. For a new study."""
        for values in points:
            self._study.enqueue_trial(dict(values), skip_if_exists=True)

    def next_trial(self) -> Assignment | None:
        """Interrupted ones first; None when nothing more begins.

        A combination that the configuration refuses, which the check of the space has not met, is a failed trial.
        """
        while not self.is_stopping and not self.given_up:
            if self._interrupted:
                number = self._interrupted.pop(0)  # a kill may have come before all its values were drawn
                self._study.sampler = make_sampler(self._sweep.spec.search, number)
                trial = self._reopened(number)
            elif self._is_spent():
                return None
            else:
                begun = len(self._study.get_trials(deepcopy=False, states=_BEGUN))
                self._study.sampler = make_sampler(self._sweep.spec.search, begun)
                trial = self._study.ask()
            values = self._sweep.space.suggest(trial)
            self._open[trial.number], self._since[trial.number] = trial, time.monotonic()
            if not (problems := check_config(apply_values(self._sweep.config, values))):
                passed = [int(rung) for rung in trial.user_attrs.get(PASSED, [])]
                logger.info("trial %d %s: %s", trial.number, "goes on" if passed else "begins", describe(values))
                return Assignment(trial.number, values, passed)
            self.fail(trial.number, str(ConfigError(problems)))
        return None

    def report(self, number: int, step: int, values: Sequence[float]) -> bool:
        """Take the figures at a rung; whether the trial goes on. A trial that does not is over.

        A report that comes again, after a trial was tried again, changes nothing.
        """
        trial = self._open[number]
        passed = [int(rung) for rung in trial.user_attrs.get(PASSED, [])]
        if step in passed:
            return True
        trial.set_user_attr(STEPS, step)
        if step == self._rungs[-1]:
            self._close(number, TrialState.COMPLETE, values, "trained to the end")
            return False
        value, others = values[0], self._others_at(step, number)
        trial.report(value, step)
        if not goes_on(value, others, self._sweep.spec.asha.reduction):
            better = sum(other > value for other in others)
            why = f"{STOPPED_EARLY}: at step {step}, {better} of {len(others)} others were better"
            self._close(number, TrialState.PRUNED, None, why)
            return False
        if self._hours_are_over():
            self._close(
                number, TrialState.PRUNED, None, f"stopped at step {step}: hours = {self._sweep.spec.hours:g} spent"
            )
            return False
        trial.set_user_attr(PASSED, [*passed, step])
        logger.info("trial %d goes on after step %d: %s", number, step, self._named(values))
        return True

    def diverged(self, number: int, step: int, why: str) -> None:
        """Training itself ended the trial, as it would again: it is worth nothing, and the sampler learns that."""
        self._open[number].set_user_attr(STEPS, step)
        worst = [WORST] * len(self._sweep.objectives)
        self._close(number, TrialState.COMPLETE, worst, f"ended by its training: {why}")

    def fail(self, number: int, why: str) -> None:
        """The trial has no value, and is not tried again; after too many in a row nothing new begins."""
        self._close(number, TrialState.FAIL, None, f"failed: {why}")
        limit = self._sweep.spec.max_failures
        self._failures += 1
        if self._failures == limit:
            self.given_up = (
                f"max_failures = {limit}: so many trials have failed one after another, the last one, {number}: {why}"
            )

    def is_open(self, number: int) -> bool:
        return number in self._open

    def count(self) -> Mapping[TrialState, int]:
        states = [trial.state for trial in self._study.get_trials(deepcopy=False)]
        return {state: states.count(state) for state in TrialState}

    def close(self) -> None:
        """The end of this start."""
        self._write_time()

    def _reopened(self, number: int) -> optuna.Trial:
        (frozen,) = [trial for trial in self._study.get_trials(deepcopy=False) if trial.number == number]
        return optuna.Trial(self._study, frozen._trial_id)

    def _others_at(self, step: int, number: int) -> list[float]:
        """Values of the other trials that have come to a rung."""
        trials = [trial for trial in self._study.get_trials(deepcopy=False) if trial.number != number]
        return [trial.intermediate_values[step] for trial in trials if step in trial.intermediate_values]

    def _close(self, number: int, state: TrialState, values: Sequence[float] | None, why: str) -> None:
        if state != TrialState.FAIL:
            self._failures = 0
        trial = self._open.pop(number)
        seconds = float(trial.user_attrs.get(SECONDS, 0.0)) + time.monotonic() - self._since.pop(number)
        trial.set_user_attr(SECONDS, round(seconds, 1))
        trial.set_user_attr(WHY, why)
        self._study.tell(trial, list(values) if values else None, state)
        told = self._study.get_trials(deepcopy=False)[number]
        logger.info(
            "trial %d: %s; %s; %s; %.0f s", number, describe(told.params), self._named(told.values or []), why, seconds
        )
        self._write_time()

    def _named(self, values: Sequence[float]) -> str:
        pairs = zip(self._sweep.objectives, values, strict=False)
        return ", ".join(f"{name} {value:.4g}" for name, value in pairs) or "no value"

    def _is_spent(self) -> bool:
        limit = self._sweep.spec.trials
        begun = self._study.get_trials(deepcopy=False, states=_BEGUN)
        return self._hours_are_over() or bool(limit and len(begun) >= limit)

    def _spent_s(self) -> float:
        return self._spent_before + time.monotonic() - self._started

    def _hours_are_over(self) -> bool:
        return 0 < self._sweep.spec.hours * 3600 <= self._spent_s()

    def _write_time(self) -> None:
        self._study.set_user_attr(SPENT, round(self._spent_s(), 1))


_BEGUN = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
