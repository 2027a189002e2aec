"""Ingest: sources -> manifest.parquet and rejected.parquet. Every file that is listed ends in exactly one of them."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from discovr_ray.data import storage
from discovr_ray.data.adapters import list_source
from discovr_ray.data.adapters.listing import AdapterOptions, Listing, Rejected, Row, Trace
from discovr_ray.data.formats.policy import DICOM_SUFFIXES, NO_KEY, IngestPolicy, key_of_environment
from discovr_ray.data.manifest import SCHEMA, write_manifest
from discovr_ray.data.shards import ShardSettings
from discovr_ray.data.traces import write_traces
from discovr_ray.errors import ConfigError, ManifestError
from discovr_ray.launch.convert import convert
from discovr_ray.launch.inspection import inspect_file, inspect_files
from discovr_ray.launch.ray_session import ray_session
from discovr_ray.launch.rows import Looked, class_notes, merged, with_unique_ids, worth_a_look
from discovr_ray.launch.splits import SplitRule

logger = logging.getLogger(__name__)

REJECTED = "rejected.parquet"
ROWS_AT_ONCE = 10_000  # turned into dicts, each of 3 kB, on their way into the manifest


class Prepared(NamedTuple):
    """What is known before a file has been opened."""

    output: str
    split_rule: SplitRule
    options: AdapterOptions
    policy: IngestPolicy
    listings: list[Listing]
    rows: list[Row]  # to look at
    rejected: list[Rejected]


class IngestSummary(NamedTuple):
    manifest_uri: str
    rejected_uri: str
    num_clips: int
    splits: dict[str, int]  # split -> clips
    reasons: dict[str, int]  # why files were rejected -> files
    notes: list[str]  # adapters and the rules that were applied, one line each
    traces_uri: str = ""  # "": there are none
    num_traces: int = 0


def ingest(
    sources: Sequence[str],
    output: str,
    split_rule: SplitRule | None = None,
    options: AdapterOptions | None = None,
    policy: IngestPolicy | None = None,
    shards: ShardSettings | None = None,
) -> IngestSummary:
    """Build a manifest of everything in `sources` in the folder `output`: `prepare` and `carry_out`, which see."""
    return carry_out(prepare(sources, output, split_rule, options, policy), shards)


def prepare(
    sources: Sequence[str],
    output: str,
    split_rule: SplitRule | None = None,
    options: AdapterOptions | None = None,
    policy: IngestPolicy | None = None,
) -> Prepared:
    """List the sources, and refuse what can be refused before a file is opened.

    Errors:
        StorageError: a source holds nothing or cannot be read, or `output` cannot be written to.
        ConfigError: DICOM files without a key for their ids.
        ManifestError: a table that is broken or lacks a column, a bad pattern, a label that is there already, or the
            sources put a patient into two splits.
    """
    split_rule, policy = split_rule or SplitRule(), policy or IngestPolicy(id_key=key_of_environment())
    options = replace(options or AdapterOptions(), id_key=policy.id_key)
    check_pattern(options.patient_pattern)
    output = storage.absolute(output)
    listings = [list_source(source, options) for source in sources]
    rows, rejected = worth_a_look(listings, options, split_rule)
    if not policy.id_key and any(_is_nameless_dicom(row) for row in rows):
        raise ConfigError([NO_KEY])
    _write_rejected(rejected, storage.join(output, REJECTED))  # a place without write permission costs no hours
    return Prepared(output, split_rule, options, policy, listings, rows, rejected)


def carry_out(prepared: Prepared, shards: ShardSettings | None = None) -> IngestSummary:
    """Look at every file, and write the tables.

    Args:
        shards: convert the clips, and let the manifest point into shards below `output`.
    Errors:
        StorageError: a place cannot be written.
        ManifestError: not one file is usable (rejected.parquet says why), the files put a patient into two splits, or
            a file has a label of a threshold's name.
        StreamError: the storage stopped answering on the way.
    """
    output, split_rule, options, policy, listings, rows, rejected = prepared
    manifest_uri, rejected_uri = storage.join(output, "manifest.parquet"), storage.join(output, REJECTED)
    looked, refused = _usable(_look(rows, options, policy, every_frame=shards is None))
    _write_rejected(rejected := rejected + refused, rejected_uri)
    looked = _with_splits(looked, split_rule)
    notes = [note for listing in listings for note in listing.notes] + class_notes(looked, options.thresholds)
    clips = _table(looked, output)
    traces = _traces(listings, looked, notes)
    if shards is not None and looked:
        with ray_session():
            clips, refused, traces = convert(clips, output, shards, traces, notes)
        _write_rejected(rejected := rejected + refused, rejected_uri)
    reasons = Counter(item.reason for item in rejected)
    if not clips.num_rows:
        raise ManifestError(
            f"none of {len(rejected)} files is usable; reasons in {rejected_uri}, such as: {next(iter(reasons), '-')}"
        )
    traces_uri = _write_traces(traces, storage.join(output, "traces.parquet"))
    write_manifest(clips, manifest_uri)
    splits = dict(Counter(clips["split"].to_pylist()))
    return IngestSummary(
        manifest_uri, rejected_uri, clips.num_rows, splits, dict(reasons), notes, traces_uri, len(traces)
    )


def check_pattern(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups if pattern else 1
    except re.error as error:
        raise ManifestError(f"patient pattern {pattern!r}: no valid regular expression: {error}") from error
    if groups < 1:
        raise ManifestError(f"patient pattern {pattern!r}: needs a group (...) around the patient's name")


def _look(rows: Sequence[Row], options: AdapterOptions, policy: IngestPolicy, every_frame: bool) -> list[Looked]:
    if not rows:
        return []
    with ray_session():
        logger.info("looking at %d files", len(rows))
        inspect = partial(inspect_file, policy=policy, every_frame=every_frame)
        answers = inspect_files([row.uri for row in rows], inspect, [row.fps for row in rows])
        return [merged(row, facts, options) for row, facts in zip(rows, answers, strict=True)]


def _is_nameless_dicom(row: Row) -> bool:
    is_named = row.names_clip and row.names_patient and row.patient_id
    return not is_named and row.uri.lower().endswith(DICOM_SUFFIXES)


def _usable(looked: Sequence[Looked]) -> tuple[list[Looked], list[Rejected]]:
    """Clips for the manifest, with unique ids, and the other files with their reasons."""
    rejected = [Rejected(item.row.uri, item.facts.reason) for item in looked if item.facts.reason]
    fine, duplicates = with_unique_ids([item for item in looked if not item.facts.reason])
    return fine, rejected + duplicates


def _with_splits(looked: Sequence[Looked], split_rule: SplitRule) -> list[Looked]:
    splits = split_rule.of_clips([item.row.patient_id for item in looked], [item.row.split for item in looked])
    return [item._replace(row=item.row._replace(split=split)) for item, split in zip(looked, splits, strict=True)]


def _traces(listings: Sequence[Listing], looked: Sequence[Looked], notes: list[str]) -> list[Trace]:
    """The traces of accepted clips, under the clips' final ids.

    A trace of a frame that its video does not have is left out, with a note.
    """
    of_file: dict[str, list[Trace]] = {}
    for listing in listings:
        uri_of = {row.clip_id: row.uri for row in listing.rows}
        of_listing: dict[str, list[Trace]] = {}
        for trace in listing.traces:
            of_listing.setdefault(uri_of[trace.clip_id], []).append(trace)
        of_file = of_listing | of_file  # the first source counts, as for rows
    found = [
        (trace._replace(clip_id=item.row.clip_id), item.facts.num_frames)
        for item in looked
        for trace in of_file.get(item.row.uri, ())
    ]
    traces = [trace for trace, num_frames in found if trace.frame < num_frames]
    if len(traces) < len(found):
        notes.append(f"traces left out, of a frame that the video does not have: {len(found) - len(traces)}")
    return traces


def _write_traces(traces: Sequence[Trace], uri: str) -> str:
    """The uri; "" when there are none."""
    if not traces:
        storage.remove_tree(uri)  # of an earlier run into the same folder
        return ""
    write_traces(traces, uri)
    return uri


def _table(looked: Sequence[Looked], output: str) -> pa.Table:
    """Manifest rows; a file below the manifest's folder is named relative to it, so that the folder can be moved."""
    parts = [looked[start : start + ROWS_AT_ONCE] for start in range(0, len(looked), ROWS_AT_ONCE)]
    return pa.concat_tables([SCHEMA.empty_table(), *(_part_of_table(part, output) for part in parts)])


def _part_of_table(looked: Sequence[Looked], output: str) -> pa.Table:
    records = [item.details._asdict() | item.row._asdict() | item.facts._asdict() for item in looked]
    for record in records:
        record["uri"] = record["uri"].removeprefix(f"{output.rstrip('/')}/")
    return pa.Table.from_pylist([{name: record.get(name) for name in SCHEMA.names} for record in records], SCHEMA)


def _write_rejected(rejected: Sequence[Rejected], uri: str) -> None:
    schema = pa.schema([("uri", pa.string()), ("reason", pa.string())])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([item._asdict() for item in rejected], schema), sink)
    storage.write_bytes(uri, sink.getvalue().to_pybytes())
