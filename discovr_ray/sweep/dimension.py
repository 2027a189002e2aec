"""One searched field: the values that it may take, and how a sweep's file says so."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import optuna

Value = bool | int | float | str
Values = dict[str, Value]  # section.field -> value

KINDS = ("choice", "int", "uniform", "log_uniform")


@dataclass(frozen=True)
class Dimension:
    """One field. A number's bounds belong to the range."""

    name: str  # section.field
    kind: Literal["choice", "int", "uniform", "log_uniform"]
    choices: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: int = 1  # of an int: low, low + step, ...
    log: bool = False  # an int that is drawn evenly on a logarithmic scale
    when: dict[str, tuple[Value, ...]] = field(default_factory=dict)  # only where these fields have one of the values

    def applies(self, values: Mapping[str, Value]) -> bool:
        """`values` of the fields before it; those that do not apply are missing."""
        return all(values.get(name) in wanted for name, wanted in self.when.items())

    def extremes(self) -> tuple[Value, ...]:
        if self.kind == "choice":
            return self.choices
        if self.kind == "int":
            last = int(self.high) - (int(self.high) - int(self.low)) % self.step
            return tuple(dict.fromkeys((int(self.low), last)))
        return tuple(dict.fromkeys((self.low, self.high)))

    def contains(self, value: Any) -> bool:
        if self.kind == "choice":
            return any(
                value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in self.choices
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return self.kind != "int" or (isinstance(value, int) and (value - int(self.low)) % self.step == 0)

    def describe(self) -> str:
        """One line for people."""
        if self.kind == "choice":
            text = " or ".join(map(str, self.choices))
        else:
            scale = ", logarithmic" if self.log or self.kind == "log_uniform" else ""
            steps = f" by {self.step}" if self.step > 1 else ""
            text = f"{self.low:g} to {self.high:g}{steps}{scale}"
        return text + "".join(
            f", where {name} is {' or '.join(map(str, values))}" for name, values in self.when.items()
        )

    def draw(self, rng: np.random.Generator) -> Value:
        """Evenly, for checks; the sampler of the study draws those of trials."""
        if self.kind == "choice":
            return self.choices[int(rng.integers(len(self.choices)))]
        if self.kind == "int":
            count = (int(self.high) - int(self.low)) // self.step + 1
            return int(self.low) + self.step * int(rng.integers(count))
        if self.kind == "log_uniform":
            return float(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return float(rng.uniform(self.low, self.high))

    def suggest(self, trial: optuna.trial.BaseTrial) -> Value:
        if self.kind == "choice":
            return cast(Value, trial.suggest_categorical(self.name, self.choices))
        if self.kind == "int":
            return trial.suggest_int(self.name, int(self.low), int(self.high), step=self.step, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.kind == "log_uniform")


def parse_dimension(name: str, entry: Any, before: Mapping[str, Dimension]) -> Dimension | str:
    """The dimension, or what is wrong with it; `before` are those that stand before it."""
    if not isinstance(entry, dict):
        return f"must be a mapping with one of {', '.join(KINDS)}"
    kinds = [kind for kind in KINDS if kind in entry]
    allowed = {*kinds, "when", *(("step", "log") if kinds == ["int"] else ())}
    if unknown := [str(key) for key in entry if key not in allowed]:
        near = difflib.get_close_matches(unknown[0], [*KINDS, "when", "step", "log"], n=1)
        return f"{unknown[0]}: unknown" + (f"; did you mean {near[0]}?" if near and near[0] not in entry else "")
    if len(kinds) != 1:
        return f"must have one of {', '.join(KINDS)}"
    kind = kinds[0]
    when = _parse_when(entry.get("when", {}), before)
    if isinstance(when, str):
        return when
    if kind == "choice":
        return _parse_choice(name, entry[kind], when)
    return _parse_numbers(name, kind, entry, when)


def _parse_choice(name: str, values: Any, when: dict[str, tuple[Value, ...]]) -> Dimension | str:
    if (
        not isinstance(values, list)
        or not values
        or not all(isinstance(value, bool | int | float | str) for value in values)
    ):
        return "choice must be a list of numbers, texts or booleans"
    if len({(type(value), value) for value in values}) < len(values):
        return "choice has a value twice"
    return Dimension(name, "choice", choices=tuple(values), when=when)


def _parse_numbers(
    name: str, kind: str, entry: Mapping[str, Any], when: dict[str, tuple[Value, ...]]
) -> Dimension | str:
    bounds, step, log = entry[kind], entry.get("step", 1), entry.get("log", False)
    wanted = int if kind == "int" else int | float
    if not isinstance(bounds, list) or len(bounds) != 2 or not all(_is_number(bound, wanted) for bound in bounds):
        return f"{kind} must be [low, high], two {'whole ' if kind == 'int' else ''}numbers"
    low, high = bounds
    if low > high:
        return f"{kind} must be [low, high], the smaller number first"
    if (kind == "log_uniform" or log is True) and low <= 0:
        return "a logarithmic scale begins above 0"
    if not isinstance(log, bool) or not _is_number(step, int) or step < 1:
        return "step must be a whole number of at least 1, and log true or false"
    if log and step > 1:
        return "step and log do not go together"
    if kind == "int":
        return Dimension(name, "int", low=low, high=high, step=step, log=log, when=when)
    chosen: Literal["uniform", "log_uniform"] = "log_uniform" if kind == "log_uniform" else "uniform"
    return Dimension(name, chosen, low=float(low), high=float(high), when=when)


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)


def _parse_when(raw: Any, before: Mapping[str, Dimension]) -> dict[str, tuple[Value, ...]] | str:
    if not isinstance(raw, dict):
        return "when must be a mapping from a field to the values that it must have"
    for name in raw:
        if name not in before:
            return f"when: {name} must be a field of the space that stands before"
    when = {name: tuple(wanted) if isinstance(wanted, list) else (wanted,) for name, wanted in raw.items()}
    for name, values in when.items():
        if before[name].kind not in ("choice", "int"):
            return f"when: {name} must be a choice or an int; a drawn number is never exactly one of these"
        if wrong := [value for value in values if not before[name].contains(value)]:
            return f"when: {name} is never {wrong[0]!r}: it is {before[name].describe()}"
    return when
