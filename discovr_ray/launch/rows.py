"""What the source says of a clip and what its file says, as one row: ids, patient, view, labels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from discovr_ray.data.adapters.listing import AdapterOptions, Row
from discovr_ray.data.formats.reader import Details
from discovr_ray.errors import ManifestError
from discovr_ray.launch.inspection import Facts
from discovr_ray.launch.splits import SplitRule


class Looked(NamedTuple):
    row: Row
    facts: Facts
    details: Details


def reason_against(row: Row, options: AdapterOptions, split_rule: SplitRule) -> str:
    """Why the source's word alone rules a row out; "" when it does not.

    Errors:
        ManifestError: it has a label of a threshold's name; said before hours of looking.
    """
    if reason := split_rule.reason_against(row.split) or (_reason_against(row.view, options) if row.view else ""):
        return reason
    if options.thresholds:
        _check_free(json.loads(row.labels), options.thresholds)
    return ""


def merged(row: Row, facts: Facts, options: AdapterOptions) -> Looked:
    """The source's tables count more than what a file says about itself, and this more than the file's path."""
    details = Details(**json.loads(facts.details))
    if facts.reason:
        return Looked(row, facts, details)
    clip_id = row.clip_id if row.names_clip else details.clip_id
    patient_id = (row.patient_id if row.names_patient else "") or details.patient_id
    if details.anonymous and not (clip_id and patient_id):
        return Looked(row, Facts(reason=details.anonymous), details)
    view = row.view or details.view
    if reason := _reason_against(view, options):
        return Looked(row, Facts(reason=reason), details)
    labels = json.loads(details.labels) | json.loads(row.labels)
    text = json.dumps(labels | _classes(labels, options.thresholds), sort_keys=True)
    clip_id, patient_id = clip_id or row.clip_id, patient_id or row.patient_id
    return Looked(row._replace(clip_id=clip_id, patient_id=patient_id, view=view, labels=text), facts, details)


class ClassCount:
    """How many clips are on which side of each threshold, and how many have no such label."""

    def __init__(self, thresholds: Mapping[str, float]) -> None:
        self._thresholds = thresholds
        self._counts = {name: Counter[int | None]() for name in thresholds}

    def add(self, labels: Iterable[str]) -> None:
        """Clips with these labels, JSON objects."""
        for text in labels if self._thresholds else ():
            found = json.loads(text)
            for name, counts in self._counts.items():
                counts[found.get(f"low_{name}")] += 1

    def notes(self) -> Iterator[str]:
        for name, counts in self._counts.items():
            with_label = counts[0] + counts[1]
            missing = f"; {counts[None]} have no number {name}" if counts[None] else ""
            yield f"low_{name}: {counts[1]} of {with_label} clips are below {self._thresholds[name]:g}{missing}"


def _reason_against(view: str, options: AdapterOptions) -> str:
    if not options.views or view in options.views:
        return ""
    return f"view {view!r} is none of --views {','.join(options.views)}"


def _classes(labels: Mapping[str, Any], thresholds: Mapping[str, float]) -> dict[str, int]:
    """low_<label>: 1 where the label is a number below its threshold, 0 where it is another number."""
    _check_free(labels, thresholds)
    found = {name: labels.get(name) for name in thresholds}
    return {
        f"low_{name}": int(value < thresholds[name])
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _check_free(labels: Mapping[str, Any], thresholds: Mapping[str, float]) -> None:
    taken = [f"low_{name}" for name in thresholds if f"low_{name}" in labels]
    if taken:
        raise ManifestError(f"threshold: the label {taken[0]} is already there")
