"""What a page needs to know of a sweep: its trials, the fields they tried, and what the values mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

Outcome = Literal["finished", "stopped", "diverged", "failed", "running", "waiting"]
OUTCOMES: tuple[Outcome, ...] = ("finished", "stopped", "diverged", "failed", "running", "waiting")
WORDS = dict(zip(OUTCOMES, ("finished", "stopped early", "diverged", "failed", "running", "waiting"), strict=True))


class Objective(NamedTuple):
    """One column of values."""

    name: str  # also its key in metrics.jsonl, where it is logged
    maximise: bool

    def better(self, first: float, second: float) -> bool:
        return first > second if self.maximise else first < second


class Field(NamedTuple):
    """A swept field of the configuration as an axis."""

    name: str
    log: bool
    choices: tuple[Any, ...]  # in the order of the axis; empty where it is a range

    def place(self, value: Any) -> float:
        """Where a value lies on a linear axis: the number, its logarithm (base 10), or the number of its choice."""
        if self.choices:
            return float(self.choices.index(value))
        return math.log10(value) if self.log else float(value)


class SweepTrial(NamedTuple):
    number: int
    outcome: Outcome
    params: dict[str, Any]  # by config field; a conditional field is missing where it does not apply
    values: tuple[
        float, ...
    ]  # one for each objective, or none; of a stopped trial the last, of a diverged one the worst
    rungs: dict[int, float]  # optimiser steps -> first value when it was compared there
    why: str
    steps: int  # optimiser steps that it was trained for
    seconds: float | None
    records: list[dict[str, Any]]  # of its metrics.jsonl


class SweepResults(NamedTuple):
    """A sweep as it stands now."""

    name: str
    uri: str
    rungs: tuple[int, ...]  # optimiser steps at which trials are compared; the last is a whole trial
    objectives: tuple[Objective, ...]
    fields: tuple[Field, ...]
    space: dict[str, BaseDistribution]  # of the fields, wide enough for every value that was tried
    trials: list[SweepTrial]  # by number

    def of(self, *outcomes: Outcome) -> list[SweepTrial]:
        return [trial for trial in self.trials if trial.outcome in outcomes]

    @property
    def valued(self) -> list[SweepTrial]:
        """Trials whose values can be drawn."""
        return [trial for trial in self.of("finished", "stopped", "diverged") if trial.values]


def outcome_of(trial: FrozenTrial, steps: int, whole: int) -> Outcome:
    """A trial that is complete after fewer steps than a `whole` one was ended by its own training."""
    if trial.state == TrialState.COMPLETE:
        return "diverged" if steps < whole else "finished"
    if trial.state == TrialState.PRUNED:
        return "stopped"
    return {TrialState.FAIL: "failed", TrialState.RUNNING: "running"}.get(trial.state, "waiting")  # type: ignore[return-value]


def values_of(trial: FrozenTrial) -> tuple[float, ...]:
    """Finite values only: a trial with a value that is no number has none."""
    values: Sequence[float] = trial.values or ()
    if trial.state == TrialState.PRUNED and not values and trial.intermediate_values:
        values = [trial.intermediate_values[max(trial.intermediate_values)]]
    return tuple(map(float, values)) if all(map(math.isfinite, values)) else ()


def space_of(trials: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
    """Each field's range as it was used: a trial that was put in by hand may lie outside of what is searched."""
    space: dict[str, BaseDistribution] = {}
    for name in dict.fromkeys(name for trial in trials for name in trial.params):
        kinds = [trial.distributions[name] for trial in trials if name in trial.params]
        values = [trial.params[name] for trial in trials if name in trial.params]
        space[name] = _widened(kinds, values)
    return space


def _widened(kinds: Sequence[BaseDistribution], values: Sequence[Any]) -> BaseDistribution:
    first = kinds[0]
    if isinstance(first, CategoricalDistribution):
        return first
    assert isinstance(first, FloatDistribution | IntDistribution)
    ranges = [kind for kind in kinds if isinstance(kind, FloatDistribution | IntDistribution)]
    low = min([*values, *(kind.low for kind in ranges)])
    high = max([*values, *(kind.high for kind in ranges)])
    if isinstance(first, IntDistribution):
        return IntDistribution(low, high, log=first.log)
    return FloatDistribution(low, high, log=first.log)


def field_of(name: str, distribution: BaseDistribution) -> Field:
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        numbers = all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in choices)
        return Field(name, False, tuple(sorted(choices)) if numbers else tuple(choices))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return Field(name, distribution.log, ())


class Comparison(NamedTuple):
    """Trials that one chart sets against each other, in words too."""

    words: str
    trials: list[SweepTrial]  # their values of the objective are those of the comparison


def fair_comparison(sweep: SweepResults, objective: int) -> Comparison:
    """As many trials as possible at equal numbers of steps.

    Where some were stopped early, everybody's value at the first rung; where one has none there, the values as they
    are, each after its own number of steps. Diverged trials count with the worst value.
    """
    if not sweep.of("stopped"):
        return Comparison("all whole trials", sweep.valued)
    rung = sweep.rungs[0] if sweep.rungs else 0
    if objective == 0 and all(rung in trial.rungs or trial.outcome == "diverged" for trial in sweep.valued):
        at_rung = [
            trial._replace(values=(trial.rungs.get(rung, trial.values[0]), *trial.values[1:])) for trial in sweep.valued
        ]
        return Comparison(f"all trials after {rung:,} steps", at_rung)
    return Comparison("all trials, each after its own steps", sweep.valued)


def pareto_front(sweep: SweepResults) -> list[SweepTrial]:
    """Finished trials that no other finished trial beats in one objective without losing in another.

    With one objective: the best trial alone, the first of equals.
    """
    finished = [trial for trial in sweep.of("finished") if trial.values]
    front = [trial for trial in finished if not any(_dominates(sweep, other, trial) for other in finished)]
    return front[:1] if len(sweep.objectives) == 1 else front


def _dominates(sweep: SweepResults, first: SweepTrial, second: SweepTrial) -> bool:
    pairs = list(zip(sweep.objectives, first.values, second.values, strict=True))
    worse = any(objective.better(other, own) for objective, own, other in pairs)
    return not worse and any(objective.better(own, other) for objective, own, other in pairs)
