"""Convert once: clips that are slow to decode, or scattered, become shards; the manifest then points into them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa
from ray.exceptions import RayError

from discovr_ray.data import storage, watchdog
from discovr_ray.data.adapters.listing import Rejected
from discovr_ray.data.manifest import SCHEMA, with_absolute_uris
from discovr_ray.data.shards import (
    Attempt,
    Shard,
    ShardSettings,
    finished_shards,
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
READ_THREADS = 16  # tables of finished shards read at once


class Converted(NamedTuple):
    clips: pa.Table  # manifest rows that point into the shards
    rejected: list[Rejected]  # the files of the clips that failed


def convert(clips: pa.Table, output: str, settings: ShardSettings) -> Converted:
    """Write the clips into shards below `output`. A shard that is there already is left as it is.

    Needs an initialised Ray. A process that dies takes its shard along. The shard is then written by a process that
    has each clip converted in a further one, whose death names the clip and the cause.

    Args:
        clips: manifest rows; relative uris are relative to `output`.
    Errors:
        StreamError: storage that did not answer, or a shard that could not be written. What is done stays done.
    """
    folder = storage.join(output, FOLDER)
    shards = plan_shards(with_absolute_uris(clips, output), settings)
    there = finished_shards(folder)
    missing = {shard.name: shard for shard in shards if shard.name not in there}
    logger.info("converting %d clips to %s, %d pixels a side", clips.num_rows, settings.codec, settings.size)
    logger.info("%d shards, %d of them already there", len(shards), len(shards) - len(missing))
    if others := there.difference(shard.name for shard in shards):
        logger.info("%d more shards in the folder belong to other settings or clips; they stay", len(others))
    progress = Progress("converted %d of %d clips", sum(shard.clips.num_rows for shard in missing.values()))
    done = 0
    for apart in (False, True):
        for name in _one_pass(list(missing.values()), folder, settings, apart):
            done += missing.pop(name).clips.num_rows
            progress.show(done)
    progress.show(done, last=True)
    return _collect(shards, folder, settings)


def _one_pass(shards: Sequence[Shard], folder: str, settings: ShardSettings, apart: bool) -> Iterator[str]:
    """Names of the shards that were written; `apart`: each clip in a process of its own, and no shard may be lost."""
    blocks = [shard.clips.append_column("shard", pa.array([shard.name] * shard.clips.num_rows)) for shard in shards]
    arguments = [folder, settings, storage.access(), watchdog.base_limit_s(), apart]
    try:
        for block in map_blocks(_write_block, blocks, arguments, int(apart), max_lost_blocks=0 if apart else -1):
            (answer,) = block.to_pylist()
            if answer["failure"]:
                raise StreamError(f"converting stopped, to be continued by the same command: {answer['failure']}")
            yield answer["shard"]
    except RayError as error:
        raise StreamError(f"a shard could not be written, also with a process for each clip: {error}") from error


def _write_block(
    block: pa.Table, folder: str, settings: ShardSettings, access: storage.Access, limit_s: float, apart: bool
) -> pa.Table:
    storage.adopt(access)
    watchdog.adopt(limit_s)
    shard = Shard(block["shard"][0].as_py(), block.drop_columns("shard"))
    failure = ""
    try:
        write_shard(shard, folder, settings, _try_apart if apart else try_clip)
    except StorageError as error:
        failure = str(error)
    return pa.table({"shard": [shard.name], "failure": [failure]})


def _try_apart(row: Mapping[str, Any], settings: ShardSettings) -> Attempt:
    outcome = call_apart(try_clip, row, settings)
    return Attempt(reason=outcome.death) if outcome.death else outcome.value


def _collect(shards: Sequence[Shard], folder: str, settings: ShardSettings) -> Converted:
    with ThreadPoolExecutor(READ_THREADS) as pool:
        facts = list(pool.map(lambda shard: read_shard(shard.name, folder), shards))
    rows: list[dict[str, Any]] = []
    rejected: list[Rejected] = []
    for shard, found in zip(shards, facts, strict=True):
        rows += manifest_rows(shard, found, folder, settings)
        reasons = zip(shard.clips["uri"].to_pylist(), found["reason"].to_pylist(), strict=True)
        rejected += [Rejected(uri, reason) for uri, reason in reasons if reason]
    return Converted(pa.Table.from_pylist(rows, SCHEMA), rejected)
