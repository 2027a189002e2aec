"""A sweep's file -> a checked SweepSpec."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, get_type_hints

import yaml

from discovr_ray.config import Config, load_config, read_yaml
from discovr_ray.errors import ConfigError, SweepError
from discovr_ray.sweep.objective import QUALITY, resolve
from discovr_ray.sweep.space import Space, parse_space

OWN_FIELDS = ("run.name", "run.storage_path", "run.resume")  # of a trial; name and storage_path of a sweep are others
STRICT = {"extra": "forbid", "strict": True}  # read by pydantic when a file is loaded


@dataclass(frozen=True)
class Asha:
    """Rungs at which trials are compared: first_steps, times reduction, times reduction again, ... up to `steps`."""

    __pydantic_config__: ClassVar[Any] = STRICT

    first_steps: int = 0  # optimiser steps until the first comparison; 0: every trial runs to its end
    reduction: int = 3  # at a rung, the best 1/reduction of those that reached it go on


@dataclass(frozen=True)
class Search:
    """How the next trial's values are chosen."""

    __pydantic_config__: ClassVar[Any] = STRICT

    sampler: Literal["tpe", "random"] = "tpe"  # TPE is multivariate: it looks at fields together
    startup_trials: int = 10  # drawn at random before TPE has something to learn from
    seed: int = 0  # of the choice of values; the seed of training is run.seed, the same for all trials


@dataclass(frozen=True)
class SweepSpec:
    """A whole sweep."""

    __pydantic_config__: ClassVar[Any] = STRICT

    name: str = "sweep"  # folder inside storage_path, and name of the Optuna study
    storage_path: str = "runs/sweeps"  # local path or URI; must be shared by all nodes
    storage: str = ""  # URL of the study's database, as postgresql://user:password@host/db; "": sweep.db in the folder
    config: str = "demo"  # preset or YAML file that all trials start from
    overrides: list[str] = field(default_factory=list)  # section.field=value, for all trials
    space: dict[str, Any] = field(default_factory=dict)  # section.field -> {uniform: [low, high]} and the like
    first: dict[str, Any] = field(default_factory=dict)  # values of trial 0; missing: the paper's, else the config's
    steps: int = 0  # optimiser steps of a whole trial; 0: all of the config's
    asha: Asha = field(default_factory=Asha)
    search: Search = field(default_factory=Search)
    objective: list[str] = field(default_factory=lambda: [QUALITY])  # maximised; several: the best trade-offs
    trials: int = 0  # no new trial after so many; 0: no limit
    hours: float = (
        0.0  # of all starts of the sweep together; then nothing new begins, and trials end at their next rung
    )
    concurrent: int = 0  # trials at once; 0: as many as the cluster has room for
    retries: int = 2  # times that a failed trial is tried again, from its last checkpoint
    max_failures: int = 5  # trials that fail one after another, all tries included, and end the sweep; 0: no limit


@dataclass(frozen=True)
class Sweep:
    """A spec with what follows from it."""

    spec: SweepSpec
    config: Config  # of all trials, but for the swept fields
    space: Space
    objectives: tuple[str, ...]  # names of figures


def load_sweep(source: str | Path, overrides: Sequence[str] = (), changes: dict[str, Any] | None = None) -> Sweep:
    """Read a sweep's file and the configuration that it names, and check both.

    Args:
        overrides: section.field=value, for all trials, beyond those of the file.
        changes: fields of SweepSpec that replace those of the file, as command-line flags do.
    Errors:
        SweepError: everything that is wrong with the sweep or its configuration, one line each.
    """
    try:
        values = read_yaml(source) if Path(source).exists() else _refuse_missing(source)
    except ConfigError as error:
        raise SweepError([re.sub("^config ", "sweep ", problem) for problem in error.problems]) from None
    spec, problems = _validate(values | (changes or {}))
    spec = dataclasses.replace(spec, overrides=[*spec.overrides, *overrides])
    space, space_problems = parse_space(spec.space)
    problems += [*_check(spec), *space_problems]
    try:
        config = load_config(spec.config, spec.overrides)
    except ConfigError as error:
        raise SweepError([*problems, *error.problems]) from None
    problems += _check_config(config)
    objectives, objective_problems = resolve(spec.objective, config)
    problems += objective_problems
    if len(objectives) > 1 and spec.asha.first_steps:
        problems.append(
            f"objective = {spec.objective}: ASHA compares by a single one; leave asha.first_steps away with several"
        )
    problems += [
        f"first.{name} = {value!r}: " + ("outside the space" if name in spec.space else "not in the space")
        for name, value in spec.first.items()
        if not any(one.name == name and one.contains(value) for one in space.dimensions)
    ]
    if problems:
        raise SweepError(problems)
    return Sweep(spec, config, space, objectives)


def spec_text(spec: SweepSpec) -> str:
    """The spec as YAML, with which the sweep can be continued; a password of the storage is masked."""
    values = dataclasses.asdict(dataclasses.replace(spec, storage=masked(spec.storage)))
    text: str = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=110)
    return text


def masked(url: str) -> str:
    """A database URL with *** for its password."""
    url = re.sub(r"(://[^:/]*):.*@", r"\1:***@", url)  # a user's name may have an @, and so may a password
    return re.sub(r"([?&][^=&]*pass[^=&]*=)[^&]*", r"\1***", url)


def _refuse_missing(source: str | Path) -> dict[str, Any]:
    near = difflib.get_close_matches(Path(source).name, [path.name for path in Path(source).parent.glob("*.yaml")], n=1)
    raise ConfigError([f"config {str(source)!r}: no such file{f'; did you mean {near[0]}?' if near else ''}"])


def _validate(values: dict[str, Any]) -> tuple[SweepSpec, list[str]]:
    """The spec without its unknown keys and wrongly typed values, and one line for each of those."""
    from pydantic import TypeAdapter, ValidationError

    adapter = TypeAdapter(SweepSpec)
    try:
        return adapter.validate_json(json.dumps(values, default=str), strict=True), []
    except ValidationError as error:
        items = error.errors()
    problems = dict.fromkeys(_explain([str(part) for part in item["loc"]], item) for item in items)
    wrong = {str(item["loc"][0]) for item in items}
    rest, _ = _validate({name: value for name, value in values.items() if str(name) not in wrong})
    return rest, list(problems)


def _explain(location: list[str], item: Any) -> str:
    key = ".".join(location[:2])
    if item["type"] not in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{key} = {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"
    owner = SweepSpec if len(location) == 1 else get_type_hints(SweepSpec)[location[0]]
    names = [one.name for one in dataclasses.fields(owner)]
    near = difflib.get_close_matches(location[-1], names, n=1, cutoff=0.5)
    return f"{key}: unknown" + (f"; did you mean {near[0]}?" if near else f"; valid names: {', '.join(names)}")


def _check(spec: SweepSpec) -> list[str]:
    problems = [
        f"{name} = {value}: must be at least {low}"
        for name, value, low in (
            ("steps", spec.steps, 0),
            ("asha.first_steps", spec.asha.first_steps, 0),
            ("asha.reduction", spec.asha.reduction, 2),
            ("search.startup_trials", spec.search.startup_trials, 1),
            ("search.seed", spec.search.seed, 0),
            ("trials", spec.trials, 0),
            ("hours", spec.hours, 0),
            ("concurrent", spec.concurrent, 0),
            ("retries", spec.retries, 0),
            ("max_failures", spec.max_failures, 0),
        )
        if not value >= low
    ]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", spec.name):
        problems.append(f"name = {spec.name!r}: must be letters, digits, '.', '_' and '-' (it names a folder)")
    if not spec.trials and not spec.hours:
        problems.append("trials = 0: must be above 0 where hours = 0; a sweep needs an end")
    problems += [
        f"overrides: {override}: a sweep sets that for each trial"
        for override in spec.overrides
        if override.partition("=")[0] in OWN_FIELDS
    ]
    if spec.storage and "://" not in spec.storage:
        problems.append(f"storage = {spec.storage!r}: must be a database's URL, as postgresql://user@host/database")
    if not spec.storage and "://" in spec.storage_path:
        problems.append(
            f"storage = '': must be a database's URL where storage_path = {spec.storage_path!r}; "
            "SQLite needs a folder on a disk"
        )
    return problems


def _check_config(config: Config) -> list[str]:
    if isinstance(config.run.workers, int):
        return []
    return [f"run.workers = {list(config.run.workers)}: must be one number in a sweep, so that room can be planned"]
