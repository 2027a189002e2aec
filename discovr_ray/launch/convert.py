"""Convert once: clips that are slow to decode, or scattered, become shards; the manifest then points into them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
from ray.exceptions import RayError

from discovr_ray.data import storage, watchdog
from discovr_ray.data.adapters.listing import Rejected, Trace
from discovr_ray.data.manifest import SCHEMA, with_absolute_uris
from discovr_ray.data.microbatch import COLUMNS
from discovr_ray.data.shards import (
    TEMPORARY,
    Attempt,
    Shard,
    ShardSettings,
    finished_shards,
    is_final,
    manifest_rows,
    placement,
    plan_shards,
    read_shard,
    try_clip,
    write_shard,
)
from discovr_ray.errors import StorageError, StreamError
from discovr_ray.launch.apart import call_apart
from discovr_ray.launch.blocks import map_blocks
from discovr_ray.launch.progress import Progress

logger = logging.getLogger(__name__)

FOLDER = "shards"  # below the manifest's
TryClip = Callable[[Mapping[str, Any], ShardSettings], Attempt]  # as try_clip
READ_THREADS = 16  # tables of finished shards read at once


class Converted(NamedTuple):
    clips: pa.Table  # manifest rows that point into the shards, relative to the output
    rejected: list[Rejected]  # the files of the clips that failed
    traces: list[Trace]  # of the clips that did not, in pixels of the shards


def convert(
    clips: pa.Table,
    output: str,
    settings: ShardSettings,
    traces: Sequence[Trace] = (),
    notes: list[str] | None = None,
    attempt: TryClip = try_clip,
) -> Converted:
    """Write the clips into shards below `output`. A shard that is there already is left as it is, if it is final.

    Needs an initialised Ray. A process that dies takes its shard along. The shard is then written by a process that
    has each clip converted in a further one, whose death names the clip and the cause.

    Args:
        clips: manifest rows; relative uris are relative to `output`.
        traces: of the clips, in pixels of their sources. Those that are mask files are left out, with a note.
        notes: takes one line for each rule that was applied.
    Errors:
        StreamError: storage that did not answer, or a shard that could not be written. What is done stays done.
    """
    folder = storage.join(output, FOLDER)
    shards = plan_shards(with_absolute_uris(clips, output), settings)
    there = finished_shards(folder)
    facts = _facts([shard.name for shard in shards if shard.name in there], folder)
    facts = {name: table for name, table in facts.items() if is_final(table)}
    missing = {shard.name: shard for shard in shards if shard.name not in facts}
    logger.info("converting %d clips to %s, %d pixels a side", clips.num_rows, settings.codec, settings.size)
    logger.info("%d shards, %d of them already there", len(shards), len(shards) - len(missing))
    if others := there.difference(shard.name for shard in shards):
        logger.info("%d more shards in the folder belong to other settings or clips; they stay", len(others))
    progress = Progress("converted %d of %d clips", sum(shard.clips.num_rows for shard in missing.values()))
    done = 0
    for apart in (False, True):
        for name in _one_pass(list(missing.values()), folder, settings, attempt, apart):
            done += missing.pop(name).clips.num_rows
            progress.show(done)
    progress.show(done, last=True)
    facts |= _facts([shard.name for shard in shards if shard.name not in facts], folder)
    rows, rejected = _collect(shards, facts, settings)
    kept = set(rows["clip_id"].to_pylist())
    notes = [] if notes is None else notes
    notes.append(f"clips converted to {settings.codec}, {settings.size} pixels a side, in {folder}")
    return Converted(rows, rejected, _moved(traces, kept, shards, settings, notes))


def _one_pass(
    shards: Sequence[Shard], folder: str, settings: ShardSettings, attempt: TryClip, apart: bool
) -> Iterator[str]:
    """Names of the shards that were written; `apart`: each clip in a process of its own, and no shard may be lost."""
    blocks = [
        shard.clips.select(COLUMNS).append_column("shard", pa.array([shard.name] * shard.clips.num_rows))
        for shard in shards
    ]
    attempt = partial(_try_apart, attempt) if apart else attempt
    arguments = [folder, settings, attempt, storage.access(), watchdog.base_limit_s()]
    try:
        for block in map_blocks(_write_block, blocks, arguments, int(apart), max_lost_blocks=0 if apart else -1):
            (answer,) = block.to_pylist()
            if answer["failure"]:
                raise StreamError(f"converting stopped, to be continued by the same command: {answer['failure']}")
            yield answer["shard"]
    except RayError as error:
        raise StreamError(f"a shard could not be written, also with a process for each clip: {error}") from error


def _write_block(
    block: pa.Table, folder: str, settings: ShardSettings, attempt: TryClip, access: storage.Access, limit_s: float
) -> pa.Table:
    storage.adopt(access)
    watchdog.adopt(limit_s)
    shard = Shard(block["shard"][0].as_py(), block.drop_columns("shard"))
    failure = ""
    try:
        write_shard(shard, folder, settings, attempt)
    except StorageError as error:
        failure = str(error)
    return pa.table({"shard": [shard.name], "failure": [failure]})


def _try_apart(attempt: TryClip, row: Mapping[str, Any], settings: ShardSettings) -> Attempt:
    outcome = call_apart(attempt, row, settings)
    if outcome.blame == "storage":
        return Attempt(outage=outcome.death)
    if outcome.blame == "machine":
        return Attempt(reason=f"{TEMPORARY}{outcome.death}")
    return Attempt(reason=outcome.death) if outcome.death else outcome.value


def _facts(names: Sequence[str], folder: str) -> dict[str, pa.Table]:
    with ThreadPoolExecutor(READ_THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: read_shard(name, folder), names), strict=True))


def _collect(
    shards: Sequence[Shard], facts: Mapping[str, pa.Table], settings: ShardSettings
) -> tuple[pa.Table, list[Rejected]]:
    tables: list[pa.Table] = []
    rejected: list[Rejected] = []
    for shard in shards:
        rows = manifest_rows(shard, facts[shard.name], FOLDER, settings)  # relative: the output can be moved
        tables.append(pa.Table.from_pylist(rows, SCHEMA))
        reasons = zip(shard.clips["uri"].to_pylist(), facts[shard.name]["reason"].to_pylist(), strict=True)
        rejected += [Rejected(uri, reason) for uri, reason in reasons if reason]
    return pa.concat_tables(tables), rejected


def _moved(
    traces: Sequence[Trace], kept: set[str], shards: Sequence[Shard], settings: ShardSettings, notes: list[str]
) -> list[Trace]:
    traced = {trace.clip_id for trace in traces if trace.clip_id in kept}
    places = {
        row["clip_id"]: placement(row, settings)
        for shard in shards
        for row in shard.clips.select(["clip_id", "region", "width", "height"]).to_pylist()
        if row["clip_id"] in traced
    }
    if masks := sum(bool(trace.mask_uri) for trace in traces if trace.clip_id in kept):
        notes.append(f"traces left out, mask files that do not fit converted frames: {masks}")
    return [
        trace._replace(x=places[trace.clip_id].x(trace.x), y=places[trace.clip_id].y(trace.y))
        for trace in traces
        if trace.clip_id in places and not trace.mask_uri
    ]
