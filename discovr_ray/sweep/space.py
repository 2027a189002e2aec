"""What is searched: fields of the configuration, each with the values that it may take."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna

from discovr_ray.config import MODEL_SIZES, Config, check_config, check_types
from discovr_ray.errors import SweepError
from discovr_ray.sweep.dimension import Dimension, Value, Values, parse_dimension

# A sweep sets these itself, or trials could not be compared if they differed in them
FIXED_SECTIONS = {"storage", "checkpoint", "health", "probe", "run"}  # all but run.seed
FIXED_FIELDS = {
    "data.manifest",
    "data.split",
    "data.label_filter",
    "data.synthetic_clips",
    "data.synthetic_seed",
    "data.decode_cpus",
    "data.max_decode_cpus",
    "data.decode_node_labels",
    "schedule.max_steps",
}
SIZE_FIELDS = ("width", "depth", "heads", "mlp_ratio")  # which model.size fills
MAX_CORNERS = 1024  # combinations of extreme values that are looked at; beyond, so many drawn ones
NUM_DRAWN = 128  # combinations of inner values that are looked at, too
MAX_SHOWN = 8  # impossible combinations that are told


@dataclass(frozen=True)
class Space:
    """Dimensions in the order of the file; a condition names fields before it."""

    dimensions: tuple[Dimension, ...]

    def suggest(self, trial: optuna.trial.BaseTrial) -> Values:
        """Values of a trial; what it was given already stays. Dimensions that do not apply are missing."""
        return self._assign(lambda dimension: dimension.suggest(trial))

    def first(self, wanted: Mapping[str, Value], base: Config) -> Values:
        """Of trial 0: what is wanted, else the paper's defaults where the space has them, else the base's.

        Where it has none of these the field is missing, and the sampler will draw it.
        """
        paper, values = Config(), Values()
        for dimension in self.dimensions:
            name = dimension.name
            candidates = [wanted[name]] if name in wanted else [get_field(paper, name), get_field(base, name)]
            fitting = next((value for value in candidates if dimension.contains(value)), None)
            if fitting is not None and dimension.applies(values):
                values[name] = fitting
        return values

    def fits(self, values: Mapping[str, Any]) -> bool:
        """Whether a trial can have exactly these values."""
        known: Values = {}
        for dimension in self.dimensions:
            if dimension.applies(known) != (dimension.name in values):
                return False
            if dimension.name in values:
                if not dimension.contains(values[dimension.name]):
                    return False
                known[dimension.name] = values[dimension.name]
        return set(known) == set(values)

    def refuse_impossible(self, base: Config) -> None:
        """Try every value range on the configuration, and combinations of extremes and of drawn values.

        Errors:
            SweepError: fields that do not exist or are not for sweeping, values of a wrong type or beyond their range,
                combinations that break a rule of the configuration.
        """
        problems = [problem for dimension in self.dimensions for problem in _check_alone(dimension, base)]
        if not problems:
            tried = ((values, check_config(apply_values(base, values))) for values in self._combinations())
            broken = {problem: values for values, found in tried for problem in found}
            problems = [f"{problem} (with {describe(values)})" for problem, values in broken.items()]
        if len(problems) > MAX_SHOWN:
            problems[MAX_SHOWN:] = [f"and {len(problems) - MAX_SHOWN} more"]
        if problems:
            raise SweepError(problems)

    def _combinations(self) -> Iterator[Values]:
        rng = np.random.default_rng(0)
        extremes = [dimension.extremes() for dimension in self.dimensions]
        if math.prod(len(values) for values in extremes) <= MAX_CORNERS:
            for corner in itertools.product(*extremes):
                at = dict(zip((dimension.name for dimension in self.dimensions), corner, strict=True))
                yield self._assign(lambda dimension, at=at: at[dimension.name])  # type: ignore[misc]
        else:
            for _ in range(MAX_CORNERS):
                yield self._assign(lambda dimension: dimension.extremes()[int(rng.integers(len(dimension.extremes())))])
        for _ in range(NUM_DRAWN):
            yield self._assign(lambda dimension: dimension.draw(rng))

    def _assign(self, pick: Callable[[Dimension], Value]) -> Values:
        values: Values = {}
        for dimension in self.dimensions:
            if dimension.applies(values):
                values[dimension.name] = pick(dimension)
        return values


def parse_space(raw: Mapping[str, Any]) -> tuple[Space, list[str]]:
    """The space of a sweep's file, and what is wrong with it; wrong dimensions are left out."""
    dimensions: list[Dimension] = []
    problems = [] if raw else ["space: must name at least one field, as in loss.w_scd: {uniform: [0, 2]}"]
    for name, entry in raw.items():
        found = parse_dimension(str(name), entry, {one.name: one for one in dimensions})
        if isinstance(found, Dimension):
            dimensions.append(found)
        else:
            problems.append(f"space.{name} = {entry!r}: {found}")
    return Space(tuple(dimensions)), problems


def apply_values(base: Config, values: Mapping[str, Value]) -> Config:
    """The base with these fields set; unchecked. A swept `model.size` fills width, depth and heads anew."""
    for name, value in values.items():
        base = _set_field(base, name, value)
        if name == "model.size":
            sizes = dict(zip(SIZE_FIELDS, MODEL_SIZES[str(value)], strict=True))
            model = {size: number for size, number in sizes.items() if f"model.{size}" not in values}
            base = dataclasses.replace(base, model=dataclasses.replace(base.model, **model))  # type: ignore[arg-type]
    return base


def get_field(config: Config, name: str) -> Any:
    """Value of section.field."""
    section, _, key = name.partition(".")
    return getattr(getattr(config, section), key)


def describe(values: Mapping[str, Any]) -> str:
    """One line for people."""
    texts = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in values.items()}
    return " ".join(f"{name}={text}" for name, text in texts.items())


def _set_field(config: Config, name: str, value: Value) -> Config:
    section, _, key = name.partition(".")
    if isinstance(get_field(config, name), float) and not isinstance(value, bool | str):
        value = float(value)
    changed = dataclasses.replace(getattr(config, section), **{key: value})
    return dataclasses.replace(config, **{section: changed})


def _check_alone(dimension: Dimension, base: Config) -> list[str]:
    """Whether the field exists, may be swept, and takes the extremes by themselves."""
    name = dimension.name
    section, _, key = name.partition(".")
    if name in FIXED_FIELDS or (section in FIXED_SECTIONS and name != "run.seed"):
        return [f"space.{name}: not for sweeping; set it for all trials, in the sweep's overrides"]
    size = dict(zip(SIZE_FIELDS, MODEL_SIZES[base.model.size], strict=True))
    if name == "model.size" and any(getattr(base.model, part) != value for part, value in size.items()):
        return ["space.model.size: the configuration sets model.width, depth, heads or mlp_ratio, which it would fill"]
    problems: list[str] = []
    for value in dimension.extremes():
        values = base.to_dict()
        values.setdefault(section, {})[key] = value
        problems += check_types(values)
    return problems
