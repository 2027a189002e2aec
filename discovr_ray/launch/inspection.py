"""Look at video files in parallel with Ray Data: one answer per file, whatever the files do to the decoders."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import ray
from ray.exceptions import RayError

from discovr_ray.data import storage
from discovr_ray.data.decode import check_all_frames, details, probe
from discovr_ray.data.formats.policy import IngestPolicy
from discovr_ray.data.outage import read_through_outage
from discovr_ray.errors import ClipError, ManifestError, MissingFileError, StorageError, StreamError

logger = logging.getLogger(__name__)

FILES_PER_BLOCK = 16
MAX_BLOCKS = 2000  # of one pass; each is an object of the driver's
PROGRESS_EVERY_S = 5.0
_FILES = pa.schema([("index", pa.int64()), ("uri", pa.string()), ("fps", pa.float64())])
CRASHED = "the process that looked at this file died (a crash of the decoder, or out of memory)"


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


def inspect_file(uri: str, fps: float = 0.0, policy: IngestPolicy | None = None) -> Facts:
    """Facts of one file, or why it cannot be used; `fps` as of decode.probe."""
    try:
        content = read_through_outage(uri)
        info = probe(content, fps)
        if info.num_frames < 2:
            return Facts(reason="one frame: a still image, not a video")
        check_all_frames(content, info)
        found = json.dumps(details(content, info, policy or IngestPolicy())._asdict())
        return Facts(*info, num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), details=found)
    except (ClipError, MissingFileError) as error:
        return Facts(reason=str(error))
    except StorageError as error:
        return Facts(reason=str(error), outage=True)


def inspect_files(uris: Sequence[str], inspect: Inspect = inspect_file, fps: Sequence[float] = ()) -> list[Facts]:
    """Read, hash and decode every frame of every file; one answer per uri, in order.

    Needs an initialised Ray. A process that dies takes its block along, so what is then missing is looked at again,
    one file per block; what is still missing killed its process twice.

    Args:
        fps: of each uri, as of decode.probe; (): nothing is known of any.
    Errors:
        ManifestError: no process could look at anything, as when the package is missing on the workers.
        StreamError: the storage did not answer for minutes; no file is rejected for that.
    """
    answers: dict[int, Facts] = {}
    files = pa.table({"index": range(len(uris)), "uri": list(uris), "fps": list(fps) or [0.0] * len(uris)}, _FILES)
    progress = _Progress(len(uris))
    for files_per_block in (max(FILES_PER_BLOCK, math.ceil(len(uris) / MAX_BLOCKS)), 1):
        missing = pa.array([index for index in range(len(uris)) if index not in answers], pa.int64())
        if files_per_block == 1 and not answers and len(uris) > 4 * FILES_PER_BLOCK:
            break  # many blocks and not one answer: no file's fault
        for index, facts in _one_pass(files.take(missing), files_per_block, inspect):
            if facts.outage:
                raise StreamError(
                    f"after {len(answers)} of {len(uris)} files the storage does not answer: {facts.reason}"
                )
            answers[index] = facts
            progress.show(len(answers))
    if uris and not answers:
        _raise_cause(files, inspect)
    progress.show(len(answers), last=True)
    return [answers.get(index, Facts(reason=CRASHED)) for index in range(len(uris))]


def _one_pass(
    files: pa.Table, files_per_block: int, inspect: Inspect, max_lost_blocks: int = -1
) -> Iterator[tuple[int, Facts]]:
    """(index, facts) of the files whose block came back; max_lost_blocks of -1 is any number."""
    if not files.num_rows:
        return
    blocks = [files.slice(start, files_per_block) for start in range(0, files.num_rows, files_per_block)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray 2.60 has no other way to bound the retries
        found = ray.data.from_arrow(blocks).map_batches(
            _inspect_block,
            batch_size=None,
            batch_format="pyarrow",
            fn_args=[inspect, storage.environment()],
            ray_remote_args_fn=lambda: {"max_retries": 1},  # the default is for ever
        )
    context = found.context  # of this data set alone
    context.max_errored_blocks = max_lost_blocks
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # a lost block is looked at again: no news for the user
    for block in found.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in block.to_pylist():
            yield row.pop("index"), Facts(**row)


def _raise_cause(files: pa.Table, inspect: Inspect) -> None:
    try:
        list(_one_pass(files.slice(0, 1), 1, inspect, max_lost_blocks=0))
    except RayError as error:
        raise ManifestError(f"no process could look at any of {files.num_rows} files: {error}") from error


def _inspect_block(block: pa.Table, inspect: Inspect, environment: dict[str, str]) -> pa.Table:
    os.environ.update(environment)
    columns: dict[str, list[Any]] = {name: [] for name in ("index", *Facts._fields)}
    for row in block.to_pylist():
        try:
            facts = inspect(row["uri"], row["fps"])
        except Exception as error:  # the task's boundary: whatever a decoder raises, the other files go on
            facts = Facts(reason=f"{type(error).__name__}: {error}")
        columns["index"].append(row["index"])
        for name, value in facts._asdict().items():
            columns[name].append(value)
    return pa.table(columns)


class _Progress:
    def __init__(self, total: int) -> None:
        self._total = total
        self._start = self._shown = time.monotonic()

    def show(self, done: int, last: bool = False) -> None:
        now = time.monotonic()
        if not last and now - self._shown < PROGRESS_EVERY_S:
            return
        self._shown = now
        rate = done / max(now - self._start, 1e-6)
        left = f", about {(self._total - done) / rate:.0f} s left" if 0 < done < self._total else ""
        logger.info("looked at %d of %d files, %.1f/s%s", done, self._total, rate, left)
