"""Ingest: sources -> manifest.parquet and rejected.parquet. Every file that is listed ends in exactly one of them."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import pyarrow as pa

from discovr_ray.data import storage
from discovr_ray.data.adapters import list_source
from discovr_ray.data.adapters.listing import AdapterOptions, Note, Rejected, Row, Trace
from discovr_ray.data.formats.policy import DICOM_SUFFIXES, NO_KEY, IngestPolicy, key_of_environment
from discovr_ray.data.manifest import SCHEMA, checked
from discovr_ray.data.parquet_file import ParquetSpool, write_parquet
from discovr_ray.data.scratch import full_disk_named
from discovr_ray.data.shards import ShardSettings
from discovr_ray.data.traces import write_traces
from discovr_ray.errors import ConfigError, ManifestError
from discovr_ray.launch.convert import FOLDER as SHARDS
from discovr_ray.launch.convert import convert
from discovr_ray.launch.convert_traces import convert_traces
from discovr_ray.launch.inspection import FileToLook, inspect_file, inspect_files
from discovr_ray.launch.ledger import Clip, Ledger, Stage, TracedClip
from discovr_ray.launch.ray_session import ray_session
from discovr_ray.launch.rows import ClassCount, merged, reason_against
from discovr_ray.launch.splits import SplitRule

logger = logging.getLogger(__name__)

REJECTED = "rejected.parquet"
REJECTED_SCHEMA = pa.schema([("uri", pa.string()), ("reason", pa.string())])
ROWS_AT_ONCE = 10_000  # in memory, and in a row group of a table
MOST_REASONS = 1000  # in the summary


class Prepared(NamedTuple):
    """What is known before a file has been opened; `carry_out` closes the ledger."""

    output: str
    split_rule: SplitRule
    options: AdapterOptions
    policy: IngestPolicy
    ledger: Ledger
    notes: list[str]


class IngestSummary(NamedTuple):
    manifest_uri: str
    rejected_uri: str
    num_clips: int
    splits: dict[str, int]  # split -> clips
    num_rejected: int
    reasons: dict[str, int]  # why files were rejected -> files; the most frequent ones
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
    output, ledger = storage.absolute(output), Ledger()
    prepared = Prepared(output, split_rule, options, policy, ledger, [])
    try:
        with full_disk_named():
            _list(sources, prepared)
            _write_rejected(prepared)  # a place without write permission costs no hours
    except BaseException:
        ledger.close()
        raise
    return prepared


def _list(sources: Sequence[str], prepared: Prepared) -> None:
    _, split_rule, options, policy, ledger, notes = prepared
    for number, source in enumerate(sources):
        for item in list_source(source, options):
            if isinstance(item, Note):
                notes.append(item.text)
            else:
                reason = reason_against(item, options, split_rule) if isinstance(item, Row) else ""
                ledger.add(number, item, reason)
    ledger.settle_files()
    split_rule.check(ledger.torn(settled=False))
    if not policy.id_key and any(_is_nameless_dicom(row) for _, row in ledger.waiting()):
        raise ConfigError([NO_KEY])


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
    with closing(prepared.ledger), full_disk_named(), ray_session() if prepared.ledger.num_waiting() else nullcontext():
        _look(prepared, every_frame=shards is None)
        prepared.ledger.settle_ids()
        _write_rejected(prepared)
        prepared.split_rule.check(prepared.ledger.torn(settled=True))
        return _write_tables(prepared, shards)


def _look(prepared: Prepared, every_frame: bool) -> None:
    """Every file, and what it says beside what its source says."""
    _, _, options, policy, ledger, _ = prepared
    if num_files := ledger.num_waiting():
        logger.info("looking at %d files", num_files)
        files = (FileToLook(number, row.uri, row.fps) for number, row in ledger.waiting())
        inspect = partial(inspect_file, policy=policy, every_frame=every_frame)
        for number, facts in inspect_files(files, num_files, inspect):
            row, facts, details = merged(ledger.row(number), facts, options)
            if facts.reason:
                ledger.refuse(Stage.LOOKED, number, Rejected(row.uri, facts.reason))
            else:
                ledger.accept(number, row, facts, details)


def _write_tables(prepared: Prepared, shards: ShardSettings | None) -> IngestSummary:
    """The manifest last, so that it stands for the others."""
    output, _, options, _, ledger, notes = prepared
    manifest_uri = storage.join(output, "manifest.parquet")
    classes, splits = ClassCount(options.thresholds), Counter[str]()
    clips = _clips(prepared, classes)
    with ParquetSpool(SCHEMA) as manifest:
        for part in checked(clips if shards is None else _converted(clips, prepared, shards), manifest_uri):
            manifest.write(part)
            splits.update(part["split"].to_pylist())
        rejected_uri, reasons = _write_rejected(prepared), ledger.reasons(MOST_REASONS)
        if not manifest.num_rows:
            raise ManifestError(
                f"none of {ledger.num_refused()} files is usable; reasons in {rejected_uri}, such as: "
                f"{next(iter(reasons), '-')}"
            )
        notes += classes.notes()
        if shards is not None:
            folder = storage.join(output, SHARDS)
            notes.append(f"clips converted to {shards.codec}, {shards.size} pixels a side, in {folder}")
        traces_uri, num_traces = _write_traces(prepared, shards)
        manifest.put(manifest_uri)
    return IngestSummary(
        *(manifest_uri, rejected_uri, manifest.num_rows, dict(splits), ledger.num_refused(), reasons, notes),
        *(traces_uri, num_traces),
    )


def check_pattern(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups if pattern else 1
    except re.error as error:
        raise ManifestError(f"patient pattern {pattern!r}: no valid regular expression: {error}") from error
    if groups < 1:
        raise ManifestError(f"patient pattern {pattern!r}: needs a group (...) around the patient's name")


def _is_nameless_dicom(row: Row) -> bool:
    is_named = row.names_clip and row.names_patient and row.patient_id
    return not is_named and row.uri.lower().endswith(DICOM_SUFFIXES)


def _clips(prepared: Prepared, classes: ClassCount) -> Iterator[pa.Table]:
    """Manifest rows; a file below the manifest's folder is named relative to it, so that the folder can be moved."""
    folder = f"{prepared.output.rstrip('/')}/"
    for clips in prepared.ledger.clips(ROWS_AT_ONCE):
        columns: dict[str, Any] = dict(zip(Clip._fields, zip(*clips, strict=True), strict=True))
        columns["uri"] = [uri.removeprefix(folder) for uri in columns["uri"]]
        columns["split"] = prepared.split_rule.of_clips(columns["patient_id"], columns["split"])
        columns["offset"] = [None] * len(clips)
        classes.add(columns["labels"])
        yield pa.table([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def _converted(clips: Iterator[pa.Table], prepared: Prepared, shards: ShardSettings) -> Iterator[pa.Table]:
    ledger = prepared.ledger
    for part in convert(clips, ledger.num_clips(), prepared.output, shards):
        for item in part.rejected:
            ledger.refuse_clip(item)
        yield part.clips


def _write_traces(prepared: Prepared, shards: ShardSettings | None) -> tuple[str, int]:
    """Where they are, and how many; ("", 0) when there are none."""
    uri, notes = storage.join(prepared.output, "traces.parquet"), list[str]()
    found = _traces(prepared.ledger, notes)
    traces = (item.trace for item in found) if shards is None else _moved(found, prepared.output, shards, notes)
    first = next(traces, None)
    if first is None:
        storage.remove_tree(uri)  # of an earlier run into the same folder
    num_traces = write_traces(chain([first], traces), uri) if first else 0
    prepared.notes.extend(notes)
    return uri if num_traces else "", num_traces


def _traces(ledger: Ledger, notes: list[str]) -> Iterator[TracedClip]:
    """Those of frames that their videos have."""
    num_beyond = 0
    for item in ledger.traces():
        if item.trace.frame < item.num_frames:
            yield item
        else:
            num_beyond += 1
    if num_beyond:
        notes.append(f"traces left out, of a frame that the video does not have: {num_beyond}")


def _moved(traces: Iterator[TracedClip], output: str, shards: ShardSettings, notes: list[str]) -> Iterator[Trace]:
    """The same on converted frames."""
    lost: dict[str, str] = {}
    for part in convert_traces(traces, output, shards):
        lost |= part.lost
        yield from part.traces
    if lost:
        notes.append(f"masks that cannot be used: {len(lost)}, such as {next(iter(lost.values()))}")


def _write_rejected(prepared: Prepared) -> str:
    """Where they are."""
    uri = storage.join(prepared.output, REJECTED)
    parts = (
        pa.table(dict(zip(Rejected._fields, zip(*some, strict=True), strict=True)), REJECTED_SCHEMA)
        for some in prepared.ledger.refused(ROWS_AT_ONCE)
    )
    write_parquet(parts, REJECTED_SCHEMA, uri)
    return uri
