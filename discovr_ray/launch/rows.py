"""What the source says of a clip and what its file says, as one row: ids, patient, view, labels."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from discovr_ray.data.adapters.listing import AdapterOptions, Listing, Rejected, Row
from discovr_ray.data.formats.reader import Details
from discovr_ray.errors import ManifestError
from discovr_ray.launch.inspection import Facts
from discovr_ray.launch.splits import SplitRule, check_patients


class Looked(NamedTuple):
    row: Row
    facts: Facts
    details: Details


def worth_a_look(
    listings: Sequence[Listing], options: AdapterOptions, split_rule: SplitRule
) -> tuple[list[Row], list[Rejected]]:
    """Rows to look at, and all files that their sources' word already rules out.

    A file that several sources name is one file: the first source that takes it counts, else the first reason.

    Errors:
        ManifestError: the sources put a patient into two splits, or have a label of a threshold's name; said before
            hours of looking.
    """
    listed = [row for listing in listings for row in listing.rows]
    rows, ruled_out = [], []
    for row in {row.uri: row for row in reversed(listed)}.values():
        reason = split_rule.reason_against(row.split) or (_reason_against(row.view, options) if row.view else "")
        if reason:
            ruled_out.append(Rejected(row.uri, reason))
        else:
            rows.append(row)
    rows.reverse()
    for row in rows if options.thresholds else ():
        _check_free(json.loads(row.labels), options.thresholds)
    if split_rule.rule == "given":
        check_patients([row.patient_id for row in rows], [row.split for row in rows])
    rejected: dict[str, Rejected] = {}
    for item in (*(item for listing in listings for item in listing.rejected), *reversed(ruled_out)):
        rejected.setdefault(item.uri, item)
    for row in rows:
        rejected.pop(row.uri, None)
    return rows, list(rejected.values())


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


def with_unique_ids(looked: Sequence[Looked]) -> tuple[list[Looked], list[Rejected]]:
    """Files that share an id: equal contents are one clip, others get `~` and 8 digits of their hash behind the id.

    So the ids do not depend on where the files lie or in which order the sources were named. A clip without a patient
    is a patient of its own.
    """
    contents: dict[str, set[str]] = defaultdict(set)
    for item in looked:
        contents[item.row.clip_id].add(item.facts.sha256)
    kept: dict[str, Looked] = {}
    rejected = []
    for item in looked:
        clip_id, content = item.row.clip_id, item.facts.sha256
        if len(contents[clip_id]) > 1:
            clip_id = f"{clip_id}~{content[:8]}"
        if clip_id in kept:
            rejected.append(Rejected(item.row.uri, "same id and content as another file of the sources"))
        else:
            row = item.row._replace(clip_id=clip_id, patient_id=item.row.patient_id or clip_id)
            kept[clip_id] = item._replace(row=row)
    return list(kept.values()), rejected


def class_notes(looked: Sequence[Looked], thresholds: Mapping[str, float]) -> list[str]:
    """For each threshold, how many clips are on which side of it, and how many have no such label."""
    notes = []
    for name, limit in thresholds.items():
        classes = [json.loads(item.row.labels).get(f"low_{name}") for item in looked]
        without = classes.count(None)
        notes.append(f"low_{name}: {classes.count(1)} of {len(classes) - without} clips are below {limit:g}")
        if without:
            notes[-1] += f"; {without} have no number {name}"
    return notes


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
