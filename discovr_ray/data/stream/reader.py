"""The training side: one rank's thread that walks through the segments and keeps a queue of micro-batches filled."""

from __future__ import annotations

import logging
import math
import queue
import re
import threading
import time
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import ray
from ray.exceptions import RayError

from discovr_ray.data.plan import Segment, StreamPlan
from discovr_ray.data.stream.feeder import DECODE_RETRIES, StreamSpec
from discovr_ray.errors import StorageError, StreamError

if TYPE_CHECKING:  # decode processes import this room and need no torch
    import torch

logger = logging.getLogger(__name__)

STALL_WARNING_S = 60.0
STALL_LIMIT_S = 900.0  # without a micro-batch; the first one waits until the slowest rank has built its model
STALL_REASONS = (
    "Decoding needs data.decode_cpus free CPUs beside the training workers, storage that answers, and all ranks "
    "reading; `ray status` shows which CPUs are taken."
)
# Ray hands an error of a task on as the text of its stack, within that of every process on the way
OUTAGE_IN_STACK = rf"^{re.escape(StorageError.__module__)}\.{StorageError.__name__}: (.*)$"


class ClipFailure(NamedTuple):
    clip_id: str
    reason: str


class MicroBatch(NamedTuple):
    """Clips of one rank in one accumulation pass. A clip that failed keeps its place: frames of zeros, weight 0."""

    frames: torch.Tensor  # uint8 [b, T, H, W], grey, on the CPU, writable
    clip_ids: list[str]
    clip_keys: npt.NDArray[np.int64]  # [b], randomness.clip_key
    epoch: int
    step: int
    weights: npt.NDArray[np.float32]  # [b], 1 or 0
    padded_frames: npt.NDArray[np.int64]  # [b], frames that repeat another one
    failures: list[ClipFailure]


class Reader:
    """Starts reading at once. `next_batch` hands out what the thread has queued; `close` must be called."""

    def __init__(self, spec: StreamSpec, feeder: Any, rank: int) -> None:
        self._spec = spec
        self._feeder = feeder
        self._rank = rank
        self._queue: queue.Queue[MicroBatch | Exception] = queue.Queue(spec.config.data.prefetch_batches)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"discovr-stream-{rank}", daemon=True)
        self._thread.start()

    def next_batch(self, step: int) -> MicroBatch:
        """The next micro-batch, which belongs to `step`."""
        item = self._wait(step)
        if isinstance(item, StreamError):
            raise item
        if isinstance(item, Exception):
            raise StreamError(f"the stream broke off at step {step}, rank {self._rank}: {_explain(item)}") from item
        return item

    def close(self) -> None:
        self._stop.set()
        if ray.is_initialized():  # an iterator that is collected late must not start a new Ray
            self._feeder.finish.remote(self._rank)
        # the thread may be waiting for a rank that still reads; that rank's own close frees it
        self._thread.join(timeout=1.0)

    def _wait(self, step: int) -> MicroBatch | Exception:
        start = time.monotonic()
        warned = False
        while True:
            try:
                return self._queue.get(timeout=min(5.0, STALL_LIMIT_S))
            except queue.Empty:
                waited = time.monotonic() - start
            if waited > STALL_LIMIT_S:
                raise StreamError(f"step {step}, rank {self._rank}: no clips for {waited:.0f} s. {STALL_REASONS}")
            if waited > STALL_WARNING_S and not warned:
                warned = True
                logger.warning("step %d: waiting for clips for %.0f s. %s", step, waited, STALL_REASONS)

    def _run(self) -> None:
        try:
            for index, segment in enumerate(self._spec.segments()):
                if self._stop.is_set():
                    return
                self._read_segment(index, segment)
        except Exception as error:  # thread boundary: the consumer raises it
            self._put(error)

    def _read_segment(self, index: int, segment: Segment) -> None:
        iterator = ray.get(self._feeder.iterator.remote(index, self._rank))
        expected = self._spec.plan.rank_numbers(segment, self._rank)
        per_block = self._spec.micro_batches_per_block(segment)
        prefetch = math.ceil(self._spec.config.data.prefetch_batches / per_block)
        blocks = iter(iterator.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=prefetch))
        parts = _parts(blocks, self._spec.plan.micro_batch)
        try:
            for place, number in enumerate(expected):
                if not self._put(_micro_batch(_checked(next(parts, None), number), self._spec.plan)):
                    return
                if place == len(expected) // 2:
                    self._feeder.prepare.remote(index + 1)
        finally:
            parts.close()
            blocks.close()

    def _put(self, item: MicroBatch | Exception) -> bool:
        """Queue an item; False when the consumer has stopped."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False


def _parts(blocks: Iterable[dict[str, Any]], num_clips: int) -> Generator[dict[str, Any]]:
    """Each block cut into micro-batches of `num_clips`."""
    for block in blocks:
        for first in range(0, len(block["number"]), num_clips):
            yield {name: column[first : first + num_clips] for name, column in block.items()}


def _checked(block: dict[str, Any] | None, number: int) -> dict[str, Any]:
    """The block, if it is the whole of micro-batch `number` and nothing else."""
    if block is None:
        raise StreamError(f"expected micro-batch {number}, but the segment is at its end")
    found = sorted(set(block["number"].tolist()))
    if found != [number]:
        raise StreamError(f"expected micro-batch {number}, got {found}: the order of the stream is broken")
    return block


def _micro_batch(block: dict[str, Any], plan: StreamPlan) -> MicroBatch:
    """Copy a block out of the object store, whose memory is read-only and shared."""
    import torch

    step = int(block["number"][0]) // plan.micro_batches_per_step
    clip_ids, reasons = block["clip_id"].tolist(), block["reason"].tolist()
    return MicroBatch(
        frames=torch.from_numpy(np.array(block["frames"])),
        clip_ids=clip_ids,
        clip_keys=np.array(block["clip_key"]),
        epoch=plan.epoch(step),
        step=step,
        weights=np.array([not reason for reason in reasons], np.float32),
        padded_frames=np.array(block["num_padded"]),
        failures=[ClipFailure(clip_id, reason) for clip_id, reason in zip(clip_ids, reasons, strict=True) if reason],
    )


def _explain(error: Exception) -> str:
    outages = re.findall(OUTAGE_IN_STACK, str(error), re.MULTILINE)
    if outages:
        return f"the storage of the clips does not answer: {outages[-1]}"
    if isinstance(error, RayError) and "WorkerCrashedError" in f"{type(error).__name__} {error}":
        return (
            f"a decode process died {DECODE_RETRIES + 1} times at the same micro-batches, so one of the next clips "
            "makes the decoder crash or hang, or the node has no memory left; the log of Ray's workers names the signal"
        )
    return f"{type(error).__name__}: {error}"
