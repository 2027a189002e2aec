"""What a trial is worth after so many steps: figures of its run's own metrics, all of which are maximised.

`quality` stands for the online kNN probe's balanced accuracy where a label is named, and for RankMe where none is. A
rank can be high for noise alone and says little near collapse, so a trial that shows a sign of collapse gets 0.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from discovr_ray.config import Config
from discovr_ray.errors import SweepError
from discovr_ray.train.collapse import collapse_signs

QUALITY = "quality"
KNN = "knn_balanced_accuracy"  # 0 .. 1
RANK_ME = "rank_me"  # 1 .. number of features
SPEED = "clips_per_s"
FIGURES = (KNN, RANK_ME, SPEED)
WORST = 0.0  # of every figure

Record = Mapping[str, Any]  # one logged step


def resolve(names: Sequence[str], config: Config) -> tuple[tuple[str, ...], list[str]]:
    """The figures that are meant, and what is wrong with `names`."""
    best = KNN if config.probe.label else RANK_ME
    figures = tuple(best if name == QUALITY else name for name in names)
    problems = [] if names else ["objective = []: must name at least one figure"]
    for name in figures:
        if name not in FIGURES:
            near = difflib.get_close_matches(name, [QUALITY, *FIGURES], n=1)
            known = f"did you mean {near[0]}?" if near else f"one of {', '.join([QUALITY, *FIGURES])}"
            problems.append(f"objective: {name!r} is unknown; {known}")
    if len(set(figures)) < len(figures):
        problems.append(f"objective = {list(names)}: the same figure twice")
    if KNN in figures and not config.probe.label:
        problems.append(f"objective: {KNN} needs probe.label, a label of the manifest")
    return figures, problems


def measured(config: Config, figures: Sequence[str], steps: int) -> Config:
    """The configuration of trials, with the probe switched on where a figure needs it; every leg ends with one."""
    probe = config.probe
    if KNN in figures and not probe.every_steps:
        probe = dataclasses.replace(probe, every_steps=steps)
    return dataclasses.replace(config, probe=probe)


def is_logged(records: Sequence[Record], step: int, figures: Sequence[str]) -> bool:
    """Whether the run has all figures after `step` optimiser steps."""
    return any(found["step"] == step and all(name in found for name in figures) for found in records)


def values_at(records: Sequence[Record], step: int, figures: Sequence[str], config: Config) -> list[float]:
    """The figures after `step` optimiser steps; `config` is the trial's.

    Errors:
        SweepError: the run has not logged this step, or without a figure.
    """
    record = next((found for found in reversed(records) if found["step"] == step), None)
    if record is None:
        raise SweepError([f"step {step}: the run has not logged it"])
    until = [found for found in records if found["step"] <= step]
    return [_value(name, record, until, config) for name in figures]


def _value(name: str, record: Record, until: Sequence[Record], config: Config) -> float:
    if name == SPEED:
        speeds = [found[SPEED] for found in until[1:] or until if found[SPEED]]  # the first includes the start
        return sum(speeds) / len(speeds) if speeds else WORST
    if name not in record:
        raise SweepError([f"step {record['step']}: the run has logged no {name}; its warnings say why"])
    value = record[name]
    if value is None or not math.isfinite(value):
        return WORST
    if name == RANK_ME and collapse_signs(record, config.health, config.model.num_prototypes, None):
        return WORST
    return float(value)
