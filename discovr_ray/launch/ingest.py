"""Ingest: sources -> manifest.parquet and rejected.parquet. Every file of every source ends in exactly one of them."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from discovr_ray.data import storage
from discovr_ray.data.adapters import list_source
from discovr_ray.data.adapters.listing import AdapterOptions, Rejected, Row
from discovr_ray.data.formats.policy import DICOM_SUFFIXES, NO_KEY, IngestPolicy, key_of_environment
from discovr_ray.data.formats.reader import Details
from discovr_ray.data.manifest import SCHEMA, SPLITS, write_manifest
from discovr_ray.errors import ConfigError, ManifestError
from discovr_ray.launch.inspection import Facts, inspect_file, inspect_files
from discovr_ray.launch.ray_session import ray_session
from discovr_ray.randomness import clip_key, uniform

logger = logging.getLogger(__name__)

SPLIT_SALT = 0x53504C4954  # so that the split is independent of everything else that is drawn from a key


@dataclass(frozen=True)
class SplitRule:
    """How clips get a split. Patients stay whole, and a patient's split never depends on the other ones."""

    rule: Literal["given", "hash", "none"] = "given"  # the source's own where it has one, else by hash | hash | ""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)  # TRAIN, VAL, TEST shares of the patients, by hash

    def __post_init__(self) -> None:
        if min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise ManifestError(f"split fractions {self.fractions}: must be three shares that add up to 1")


class IngestSummary(NamedTuple):
    manifest_uri: str
    rejected_uri: str
    num_clips: int
    splits: dict[str, int]  # split -> clips
    reasons: dict[str, int]  # why files were rejected -> files


class Looked(NamedTuple):
    row: Row
    facts: Facts
    details: Details


def ingest(
    sources: Sequence[str],
    output: str,
    split_rule: SplitRule | None = None,
    patient_pattern: str = "",
    policy: IngestPolicy | None = None,
) -> IngestSummary:
    """Build a manifest of everything in `sources` in the folder `output`.

    Errors:
        StorageError: a source holds nothing, or a place cannot be read or written.
        ConfigError: DICOM files without a key for their ids.
        ManifestError: not one file is usable (rejected.parquet says why), a table lacks a column, a bad pattern.
        StreamError: the storage stopped answering on the way.
    """
    check_pattern(patient_pattern)
    output = storage.absolute(output)
    manifest_uri, rejected_uri = storage.join(output, "manifest.parquet"), storage.join(output, "rejected.parquet")
    listings = [list_source(source, AdapterOptions(patient_pattern)) for source in sources]
    rejected = [item for listing in listings for item in listing.rejected]
    _write_rejected(rejected, rejected_uri)  # early, so that a place without write permission costs no hours
    rows = _once_each([row for listing in listings for row in listing.rows])
    policy = policy or IngestPolicy(id_key=key_of_environment())
    if not policy.id_key and any(_is_nameless_dicom(row) for row in rows):
        raise ConfigError([NO_KEY])
    with ray_session():
        logger.info("looking at %d files", len(rows))
        inspect = partial(inspect_file, policy=policy)
        answers = inspect_files([row.uri for row in rows], inspect, [row.fps for row in rows])
        looked = [_looked(*pair) for pair in zip(rows, answers, strict=True)]
    looked, refused = _usable(looked, split_rule or SplitRule())
    rejected += refused
    _write_rejected(rejected, rejected_uri)
    reasons = Counter(item.reason for item in rejected)
    if not looked:
        raise ManifestError(
            f"none of {len(rejected)} files is usable; reasons in {rejected_uri}, such as: {next(iter(reasons), '-')}"
        )
    write_manifest(_table(looked, output), manifest_uri)
    splits = Counter(item.row.split for item in looked)
    return IngestSummary(manifest_uri, rejected_uri, len(looked), dict(splits), dict(reasons))


def check_pattern(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups if pattern else 1
    except re.error as error:
        raise ManifestError(f"patient pattern {pattern!r}: no valid regular expression: {error}") from error
    if groups < 1:
        raise ManifestError(f"patient pattern {pattern!r}: needs a group (...) around the patient's name")


def _looked(row: Row, facts: Facts) -> Looked:
    """What a file says about itself counts more than what its place says; ids of the source's own tables stand."""
    details = Details(**json.loads(facts.details))
    if details.anonymous and not row.named:
        return Looked(row, Facts(reason=details.anonymous), details)
    said = ("view",) if row.named else ("clip_id", "patient_id", "view")
    named = {name: value for name in said if (value := getattr(details, name))}
    labels = json.loads(row.labels) | json.loads(details.labels)
    return Looked(row._replace(**named, labels=json.dumps(labels, sort_keys=True)), facts, details)


def _is_nameless_dicom(row: Row) -> bool:
    return not row.named and row.uri.lower().endswith(DICOM_SUFFIXES)


def _once_each(rows: list[Row]) -> list[Row]:
    """A file that several sources name is one file; the first source counts."""
    return list({row.uri: row for row in reversed(rows)}.values())[::-1]


def _usable(looked: list[Looked], split_rule: SplitRule) -> tuple[list[Looked], list[Rejected]]:
    """Rows for the manifest, with unique ids and a split, and the others with their reasons."""
    fine, rejected = [], []
    for item in looked:
        reason = item.facts.reason
        if not reason and split_rule.rule == "given" and item.row.split not in SPLITS:
            reason = f"split {item.row.split!r} is none of TRAIN, VAL and TEST (--split-rule hash ignores it)"
        if reason:
            rejected.append(Rejected(item.row.uri, reason))
        else:
            fine.append(item)
    fine, duplicates = _with_unique_ids(fine)
    return _with_splits(fine, split_rule), rejected + duplicates


def _with_unique_ids(looked: list[Looked]) -> tuple[list[Looked], list[Rejected]]:
    """Files that share an id: equal contents are one clip, others get `~` and 8 digits of their hash behind the id.

    So the ids do not depend on where the files lie or in which order the sources were named.
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
            rejected.append(Rejected(item.row.uri, f"same id and content as {kept[clip_id].row.uri}"))
        else:
            kept[clip_id] = item._replace(row=item.row._replace(clip_id=clip_id))
    return list(kept.values()), rejected


def _with_splits(looked: list[Looked], split_rule: SplitRule) -> list[Looked]:
    if split_rule.rule == "none":
        return [item._replace(row=item.row._replace(split="")) for item in looked]
    drawn = _hashed_splits([item.row.patient_id for item in looked], split_rule.fractions)
    given = split_rule.rule == "given"
    return [
        item._replace(row=item.row._replace(split=(item.row.split if given else "") or split))
        for item, split in zip(looked, drawn, strict=True)
    ]


def _hashed_splits(patients: Sequence[str], fractions: tuple[float, float, float]) -> list[str]:
    keys = np.array([clip_key(patient) for patient in patients], np.uint64)
    bounds = np.cumsum(fractions)[:2]
    return [SPLITS[place] for place in np.searchsorted(bounds, uniform(SPLIT_SALT, keys), side="right").tolist()]


def _table(looked: Sequence[Looked], output: str) -> pa.Table:
    """Manifest rows; a file below the manifest's folder is named relative to it, so that the folder can be moved."""
    records = [item.details._asdict() | item.row._asdict() | item.facts._asdict() for item in looked]
    for record in records:
        record["uri"] = record["uri"].removeprefix(f"{output.rstrip('/')}/")
    return pa.Table.from_pylist([{name: record.get(name) for name in SCHEMA.names} for record in records], SCHEMA)


def _write_rejected(rejected: Sequence[Rejected], uri: str) -> None:
    schema = pa.schema([("uri", pa.string()), ("reason", pa.string())])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([item._asdict() for item in rejected], schema), sink)
    storage.write_bytes(uri, sink.getvalue().to_pybytes())
