"""The decoding side: an actor that builds one Ray data set per segment, and the task that makes one block of it."""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.util.annotations import RayDeprecationWarning
from ray.util.debug import log_once

from discovr_ray.config import Config, select_nodes, total_cpus
from discovr_ray.data import storage, watchdog
from discovr_ray.data.microbatch import decode_micro_batch
from discovr_ray.data.plan import Segment, StreamPlan
from discovr_ray.data.stream.nodes import alive_nodes

DECODE_RETRIES = 3  # times a block is tried again when its process or node dies; Ray Data's own default is for ever
MIN_READ_AHEAD_BYTES = 256 * 2**20
BLOCK_BYTES = 32 * 2**20  # a task costs Ray some 20 ms of CPU, so it decodes this much where micro-batches are smaller
MIN_BLOCKS = 4  # of a rank and segment, so that several processes work on it


@dataclass(frozen=True)
class StreamSpec:
    """What the feeder, every decode task and every reader are told."""

    config: Config
    plan: StreamPlan
    segment_micro_batches: int
    clips: Any  # ObjectRef of the manifest table
    access: storage.Access

    def segments(self) -> list[Segment]:
        return list(self.plan.segments(self.segment_micro_batches))

    def micro_batches_per_block(self, segment: Segment) -> int:
        """Of one rank; the last blocks of a segment may have fewer."""
        available = len(self.plan.rank_numbers(segment, 0)) // MIN_BLOCKS
        return max(1, min(BLOCK_BYTES // self.micro_batch_bytes, available))

    @property
    def micro_batch_bytes(self) -> int:
        return self.plan.micro_batch * self.config.data.num_frames * self.config.data.image_size**2


class _FeederActor:
    """Builds the segments' data sets. It owns their coordinators, so all end with it."""

    def __init__(self, spec: StreamSpec) -> None:
        self._spec = spec
        self._segments = spec.segments()
        self._iterators: dict[int, list[Any]] = {}
        self._finished: set[int] = set()

    def spec(self) -> StreamSpec:
        return self._spec

    def prepare(self, index: int) -> None:
        """Build segment `index` if there is one, so that nobody waits for its processes to start."""
        if index < len(self._segments) and index not in self._iterators:
            self._iterators[index] = _split_data_set(self._spec, self._segments[index])

    def iterator(self, index: int, rank: int) -> Any:
        """Ray Data's iterator of `rank` over segment `index`."""
        self.prepare(index)
        # whoever asks for a segment has ended the one before, so every rank holds its iterator of that one
        for old in [key for key in self._iterators if key < index]:
            del self._iterators[old]
        return self._iterators[index][rank]

    def finish(self, rank: int) -> None:
        """The rank reads no more. The last one ends the feeder, which frees a rank that waits for another one."""
        self._finished.add(rank)
        if len(self._finished) == self._spec.plan.world_size:
            ray.actor.exit_actor()


Feeder: Any = ray.remote(num_cpus=0)(_FeederActor)


def _split_data_set(spec: StreamSpec, segment: Segment) -> list[Any]:
    """The data set of a segment, each block a few micro-batches of one rank, split over the ranks."""
    cpus = _decode_cpus(spec)
    length = spec.micro_batches_per_block(segment)
    _set_context(spec, cpus, length)
    items = [{"first": block.start, "stop": block.stop} for block in spec.plan.blocks(segment, length)]
    blocks = ray.data.from_items(items, override_num_blocks=len(items))
    with warnings.catch_warnings():
        # deprecated without a successor: nothing else in Ray 2.60 limits the retries
        warnings.simplefilter("ignore", RayDeprecationWarning)
        decoded = blocks.map_batches(
            _decode,
            batch_size=None,
            batch_format="numpy",
            fn_args=[spec],
            num_cpus=min(1.0, cpus),
            ray_remote_args_fn=_retry_limit,
        )
    return list(decoded.streaming_split(spec.plan.world_size, equal=True))


def _set_context(spec: StreamSpec, cpus: float, micro_batches_per_block: int) -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.custom_execution_callback_classes = [_Quiet]
    context.target_max_block_size = None  # never cut a block in two
    context.execution_no_progress_timeout_s = -1  # a pause of the training is no fault; the reader watches for stalls
    context.execution_options.preserve_order = True
    context.execution_options.label_selector = spec.config.data.decode_node_labels or None
    context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
        cpu=cpus, object_store_memory=_read_ahead_bytes(spec, cpus, micro_batches_per_block)
    )


def _decode_cpus(spec: StreamSpec) -> float:
    """CPUs for decoding: what training leaves free, within what the config keeps for it and allows it."""
    run, data = spec.config.run, spec.config.data
    nodes = select_nodes(alive_nodes(), data.decode_node_labels)
    shared = bool(select_nodes(nodes, run.worker_node_labels))
    training = spec.plan.world_size * run.cpus_per_worker if shared else 0.0
    free = max(data.decode_cpus, total_cpus(nodes) - training)
    return min(free, data.max_decode_cpus) if data.max_decode_cpus else free


def _read_ahead_bytes(spec: StreamSpec, cpus: float, micro_batches_per_block: int) -> float:
    """Room in the object store for decoded clips. Ray Data keeps half of it back for tasks that are under way."""
    block_bytes = spec.micro_batch_bytes * micro_batches_per_block
    prefetched_blocks = math.ceil(spec.config.data.prefetch_batches / micro_batches_per_block)
    return max(MIN_READ_AHEAD_BYTES, 4 * block_bytes * (spec.plan.world_size * prefetched_blocks + cpus))


def _retry_limit() -> dict[str, Any]:
    return {"max_retries": DECODE_RETRIES}


def _decode(items: dict[str, Any], spec: StreamSpec) -> dict[str, Any]:
    """The micro-batches of one block, one behind the other."""
    storage.adopt(spec.access)
    numbers = range(int(items["first"][0]), int(items["stop"][0]), spec.plan.world_size)
    data, size = spec.config.data, spec.plan.micro_batch
    frames = np.zeros((len(numbers) * size, data.num_frames, data.image_size, data.image_size), np.uint8)
    parts = []
    for start, number in zip(range(0, len(frames), size), numbers, strict=True):
        place = frames[start : start + size]
        with watchdog.end_process_after(watchdog.limit_with_reading_s()):  # one that hangs is replaced
            parts.append(decode_micro_batch(_clips(spec.clips), number, spec.plan, data, place))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "frames"}
    return columns | {"frames": frames}


@lru_cache(maxsize=1)
def _clips(reference: Any) -> pa.Table:
    """The manifest, mapped from the object store once per process."""
    return ray.get(reference)


class _Quiet(ExecutionCallback):
    """Keeps Ray Data's remarks on a healthy segment off the console. Made in the process that executes the segment."""

    def __init__(self) -> None:
        log_once("ray_data_progress_manager_disabled")  # a message that was logged once is not logged again
        for handler in logging.getLogger("ray.data").handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setLevel(logging.WARNING)
