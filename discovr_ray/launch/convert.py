"""Convert once: clips that are slow to decode, or scattered, become shards; the manifest then points into them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
from ray.exceptions import RayError

from discovr_ray.data import storage, watchdog
from discovr_ray.data.adapters.listing import Rejected
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
SHARDS_AT_ONCE = 1000  # of one data set of Ray; their rows are in the driver's memory


class Converted(NamedTuple):
    clips: pa.Table  # manifest rows that point into the shards, relative to the output
    rejected: list[Rejected]  # the files of the clips that failed


def convert(
    parts: Iterable[pa.Table],
    num_clips: int,
    output: str,
    settings: ShardSettings,
    attempt: TryClip = try_clip,
) -> Iterator[Converted]:
    """Write the clips into shards below `output`, some shards after the other.

    A shard that is there already is left as it is, if it is final. Needs an initialised Ray. A process that dies takes
    its shard along. The shard is then written by a process that has each clip converted in a further one, whose death
    names the clip and the cause.

    Args:
        parts: manifest rows sorted by clip_id; relative uris are relative to `output`.
        num_clips: how many they are, for the log.
    Errors, on the way:
        StreamError: storage that did not answer, or a shard that could not be written. What is done stays done.
    """
    folder = storage.join(output, FOLDER)
    others = there = finished_shards(folder)
    num_shards = num_found = num_done = 0
    logger.info("converting %d clips to %s, %d pixels a side", num_clips, settings.codec, settings.size)
    progress = Progress("converted %d of %d clips", num_clips)
    shards = plan_shards((with_absolute_uris(part, output) for part in parts), settings)
    while some := list(islice(shards, SHARDS_AT_ONCE)):
        facts = _facts([shard.name for shard in some if shard.name in there], folder)
        facts = {name: table for name, table in facts.items() if is_final(table)}
        num_shards, num_found = num_shards + len(some), num_found + len(facts)
        others = others.difference(shard.name for shard in some)
        progress.leave_out(sum(shard.clips.num_rows for shard in some if shard.name in facts))
        missing = [shard for shard in some if shard.name not in facts]
        for written in _write(missing, folder, settings, attempt):
            num_done += written.clips.num_rows
            progress.show(num_done)
        facts |= _facts([shard.name for shard in missing], folder)
        yield _collect(some, facts, settings)
    progress.show(num_done, last=True)
    logger.info("%d shards, %d of them were already there", num_shards, num_found)
    if others:
        logger.info("%d more shards in the folder belong to other settings or clips; they stay", len(others))


def _write(shards: Sequence[Shard], folder: str, settings: ShardSettings, attempt: TryClip) -> Iterator[Shard]:
    """Each shard when it is written."""
    missing = {shard.name: shard for shard in shards}
    for apart in (False, True):
        for name in _one_pass(list(missing.values()), folder, settings, attempt, apart):
            yield missing.pop(name)


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


def _collect(shards: Sequence[Shard], facts: Mapping[str, pa.Table], settings: ShardSettings) -> Converted:
    tables: list[pa.Table] = []
    rejected: list[Rejected] = []
    for shard in shards:
        rows = manifest_rows(shard, facts[shard.name], FOLDER, settings)  # relative: the output can be moved
        tables.append(pa.Table.from_pylist(rows, SCHEMA))
        reasons = zip(shard.clips["uri"].to_pylist(), facts[shard.name]["reason"].to_pylist(), strict=True)
        rejected += [Rejected(uri, reason) for uri, reason in reasons if reason]
    return Converted(pa.concat_tables(tables), rejected)
