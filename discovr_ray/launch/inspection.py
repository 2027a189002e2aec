"""Look at video files in parallel with Ray Data: one answer per file, whatever the files do to the decoders."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
from ray.exceptions import RayError

from discovr_ray.data import storage, watchdog
from discovr_ray.data.decode import check_all_frames, details, probe
from discovr_ray.data.formats.policy import IngestPolicy
from discovr_ray.data.outage import read_through_outage, without_path
from discovr_ray.errors import ClipError, ManifestError, MissingFileError, StorageError, StreamError
from discovr_ray.launch.apart import call_apart
from discovr_ray.launch.blocks import map_blocks
from discovr_ray.launch.progress import Progress

FILES_PER_BLOCK = 16
MAX_BLOCKS = 2000  # of one data set of Ray; each is an object of the driver's
_FILES = pa.schema([("number", pa.int64()), ("uri", pa.string()), ("fps", pa.float64())])
LOST = "the process that looked at this file was lost twice (out of memory?)"

Inspect = Callable[[str, float], "Facts"]  # as inspect_file


class Facts(NamedTuple):
    """What a file says about itself; `reason` is empty when it is usable, else everything else is.

    `outage`: the storage did not answer, which says nothing about the file.
    """

    format: str = ""
    num_frames: int = 0
    fps: float = 0.0
    height: int = 0
    width: int = 0
    num_bytes: int = 0
    sha256: str = ""
    reason: str = ""
    outage: bool = False
    details: str = "{}"  # formats.reader.Details of a usable file, as JSON


def inspect_file(uri: str, fps: float = 0.0, policy: IngestPolicy | None = None, every_frame: bool = True) -> Facts:
    """Facts of one file, or why it cannot be used; ends the process when decoding exceeds the watchdog's limit.

    Args:
        fps: as of decode.probe.
        every_frame: decode all frames; False where that follows anyway.
    """
    try:
        content = read_through_outage(uri)
        with watchdog.end_process_after(watchdog.limit_s(len(content))):
            return look_at(content, fps, policy or IngestPolicy(), every_frame)
    except (ClipError, MissingFileError) as error:
        return Facts(reason=without_path(error, uri))
    except StorageError as error:
        return Facts(reason=without_path(error, uri), outage=True)


def look_at(content: bytes, fps: float, policy: IngestPolicy, every_frame: bool) -> Facts:
    """Facts of a file's bytes; arguments as of inspect_file.

    Errors:
        ClipError: it cannot be used.
    """
    info = probe(content, fps)
    if info.num_frames < 2:
        return Facts(reason="one frame: a still image, not a video")
    if every_frame:
        check_all_frames(content, info)
    found = json.dumps(details(content, info, policy)._asdict())
    return Facts(*info, num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), details=found)


class FileToLook(NamedTuple):
    number: int
    uri: str
    fps: float = 0.0  # as of decode.probe


def inspect_files(
    files: Iterable[FileToLook], num_files: int, inspect: Inspect = inspect_file
) -> Iterator[tuple[int, Facts]]:
    """Read, hash and decode every frame of every file; (its number, its facts) of each, nearly in order.

    Needs an initialised Ray. A process that dies takes its block along, so what is then missing is looked at again,
    each file in a process of its own, whose death names the file and the cause.

    Args:
        num_files: how many `files` are, for the log.
    Errors, on the way:
        ManifestError: no process could look at anything, as when the package is missing on the workers.
        StreamError: the storage did not answer for minutes; no file is rejected for that.
    """
    progress = Progress("looked at %d of %d files", num_files)
    num_done, left = 0, iter(files)
    while part := list(islice(left, MAX_BLOCKS * FILES_PER_BLOCK)):
        for number, facts in _inspect_part(part, inspect, is_first=not num_done):
            if facts.outage:
                raise StreamError(f"after {num_done} of {num_files} files the storage does not answer: {facts.reason}")
            num_done += 1
            progress.show(num_done)
            yield number, facts
    progress.show(num_done, last=True)


def _inspect_part(part: Sequence[FileToLook], inspect: Inspect, is_first: bool) -> Iterator[tuple[int, Facts]]:
    """The files of one data set of Ray. `is_first`: whether anybody can look at files is not known yet."""
    missing = {file.number: file for file in part}
    for apart in (False, True):
        nobody_yet = is_first and len(missing) == len(part)
        if apart and nobody_yet and len(part) > 4 * FILES_PER_BLOCK:
            _raise_cause(part, inspect)  # many blocks and not one answer: most likely no file's fault
        files_per_block = max(1 if apart else FILES_PER_BLOCK, math.ceil(len(missing) / MAX_BLOCKS))
        for number, facts in _one_pass(list(missing.values()), files_per_block, inspect, apart):
            del missing[number]
            yield number, facts
    if is_first and len(missing) == len(part):
        _raise_cause(part, inspect)
    yield from ((number, Facts(reason=LOST)) for number in missing)


def _one_pass(
    files: Sequence[FileToLook], files_per_block: int, inspect: Inspect, apart: bool, max_lost_blocks: int = -1
) -> Iterator[tuple[int, Facts]]:
    """(number, facts) of the files whose block came back; `apart`: each file in a process of its own."""
    table = pa.Table.from_pylist([file._asdict() for file in files], _FILES)
    blocks = [table.slice(start, files_per_block) for start in range(0, table.num_rows, files_per_block)]
    arguments = [inspect, storage.access(), watchdog.base_limit_s(), apart]
    # what is lost is looked at again anyway; a node may go down during the second pass, too
    for block in map_blocks(_inspect_block, blocks, arguments, int(apart), max_lost_blocks):
        for row in block.to_pylist():
            yield row.pop("number"), Facts(**row)


def _raise_cause(files: Sequence[FileToLook], inspect: Inspect) -> None:
    """Unless a process can be had that looks at a file; what the file does to that process does not matter here."""
    try:
        list(_one_pass(files[:1], 1, inspect, apart=True, max_lost_blocks=0))
    except RayError as error:
        raise ManifestError(f"no process could look at any of {len(files)} files: {error}") from error


def _inspect_block(block: pa.Table, inspect: Inspect, access: storage.Access, limit_s: float, apart: bool) -> pa.Table:
    storage.adopt(access)
    watchdog.adopt(limit_s)
    columns: dict[str, list[Any]] = {name: [] for name in ("number", *Facts._fields)}
    for row in block.to_pylist():
        facts = _inspect_apart(inspect, row) if apart else _inspect(inspect, row)
        columns["number"].append(row["number"])
        for name, value in facts._asdict().items():
            columns[name].append(value)
    return pa.table(columns)


def _inspect(inspect: Inspect, row: dict[str, Any]) -> Facts:
    with watchdog.end_process_after(watchdog.limit_with_reading_s()):
        try:
            return inspect(row["uri"], row["fps"])
        except Exception as error:  # the task's boundary: whatever a decoder raises, the other files go on
            return Facts(reason=f"{type(error).__name__}: {error}")


def _inspect_apart(inspect: Inspect, row: dict[str, Any]) -> Facts:
    outcome = call_apart(_inspect, inspect, row)
    return Facts(reason=outcome.death, outage=outcome.blame == "storage") if outcome.death else outcome.value
