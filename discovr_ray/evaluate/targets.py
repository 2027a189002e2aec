"""What a probe is asked to tell: the class or the number of each video, from the manifest's labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from discovr_ray.errors import EvaluationError

Labels = Mapping[str, str | float | bool]

MAX_CLASSES = 24  # a label with more values is a measurement or an id
NORMAL_NAMES = ("0", "false", "no", "normal")  # of the class without findings, where the user names none


@dataclass(frozen=True)
class ClassRule:
    """Which label, or which side of a number, makes the classes."""

    label: str
    below: float | None = None  # class 1 below this number, 0 from it on, as ingest's low_<label>; None: as labelled
    normal: str = ""  # class of the videos without findings; "": one of NORMAL_NAMES where there is one

    @property
    def name(self) -> str:
        return self.label if self.below is None else f"{self.label} below {self.below:g}"


class Classes(NamedTuple):
    names: tuple[str, ...]  # sorted, the normal one first
    normal: int | None  # its index, 0; None: there is no normal class
    codes: npt.NDArray[np.int64]  # [n], index into names; -1: the video has no such label


def class_targets(labels: Sequence[Labels], rule: ClassRule) -> Classes:
    """The class of each video.

    Errors:
        EvaluationError: no video has the label, it is a measurement rather than a class, all videos are of one class,
            or there is no class of the name `rule.normal`.
    """
    values = [item.get(rule.label) for item in labels]
    if all(value is None for value in values):
        raise EvaluationError(_no_such_label(labels, rule.label))
    texts = [None if value is None else class_name(_side(value, rule)) for value in values]
    found = sorted({text for text in texts if text is not None})
    if len(found) > MAX_CLASSES:
        raise EvaluationError(
            f"label {rule.label!r} has {len(found)} different values, at most {MAX_CLASSES} can be classes; "
            f"a threshold makes two classes of a number (--threshold {rule.label}=VALUE)"
        )
    if len(found) < 2:
        raise EvaluationError(f"label {rule.name!r}: all videos that have it are of class {found[0]!r}; two are needed")
    normal = _normal(found, rule)
    names = tuple(sorted(found, key=lambda name: (name != normal, name)))
    code = {name: place for place, name in enumerate(names)}
    codes = np.array([-1 if text is None else code[text] for text in texts], np.int64)
    return Classes(names, 0 if normal else None, codes)


def number_targets(labels: Sequence[Labels], name: str) -> npt.NDArray[np.float64]:
    """A label that is a number, NaN where a video has none.

    Errors:
        EvaluationError: no video has it, one has something else there, or all numbers are equal.
    """
    values = np.full(len(labels), np.nan)
    for place, item in enumerate(labels):
        value = item.get(name)
        if value is not None:
            values[place] = _number(value, name)
    there = values[np.isfinite(values)]
    if not len(there):
        raise EvaluationError(_no_such_label(labels, name))
    if there.min() == there.max():
        raise EvaluationError(f"label {name!r}: all videos that have it have {there[0]:g}; nothing is there to predict")
    return values


def class_name(value: str | float | bool) -> str:
    """The same text for a number whether the manifest's JSON wrote 1 or 1.0."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _side(value: str | float | bool, rule: ClassRule) -> str | float | bool:
    return value if rule.below is None else int(_number(value, rule.label) < rule.below)


def _number(value: str | float | bool, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise EvaluationError(f"label {name!r} must be a number, and a video has {value!r}")
    return float(value)


def _normal(found: Sequence[str], rule: ClassRule) -> str:
    """The name of the normal class, "" when there is none."""
    if rule.normal and rule.normal not in found:
        raise EvaluationError(
            f"normal class {rule.normal!r}: label {rule.name!r} has the classes {', '.join(found)} (--normal CLASS)"
        )
    return rule.normal or next((name for name in found if name.lower() in NORMAL_NAMES), "")


def _no_such_label(labels: Sequence[Labels], name: str) -> str:
    known = sorted({key for item in labels for key in item})
    return f"label {name!r}: no video has it; there are: {', '.join(known) or 'none'}"
