"""The stream: Ray Data decodes the micro-batches of the plan, in order, and deals them out to the training ranks.

A block is a few micro-batches of one rank, made by one task from their numbers alone (feeder.py). With the order
preserved and blocks of equal length side by side, `streaming_split` deals the blocks out in turn, so block k belongs to
rank k % world_size, as the plan says; every rank checks the numbers that arrive (reader.py).

A run can have a hundred million micro-batches, and Ray Data plans all blocks of a data set at once. So the run is cut
into segments, each a data set of its own, which a small actor (the feeder) builds one after the other.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from discovr_ray.config import Config, RunPlan
from discovr_ray.data import storage
from discovr_ray.data.microbatch import COLUMNS
from discovr_ray.data.plan import plan_stream
from discovr_ray.data.stream.feeder import Feeder, StreamSpec
from discovr_ray.data.stream.reader import ClipFailure, MicroBatch, Reader
from discovr_ray.errors import ManifestError

__all__ = ["ClipFailure", "ClipStream", "MicroBatch", "open_stream"]

SEGMENT_MICRO_BATCHES = 1024  # of all ranks; Ray Data needs half a second to plan them


class ClipStream:
    """Handle of an open stream; may be sent to any process of the same Ray cluster. Every rank reads it once.

    Decoding ends when all ranks have ended their iteration, when all handles are gone, or with the process that opened
    the stream.
    """

    def __init__(self, feeder: Any) -> None:
        self._feeder = feeder  # and nothing else: Ray Train broadcasts a kilobyte without complaint

    def steps(self, rank: int) -> Generator[list[MicroBatch]]:
        """The micro-batches of `rank`, one list of `accumulation` of them per optimiser step, to the end of the run.

        All ranks must read, and at about the same pace. Close the iterator to end early.

        Errors:
            StreamError: decoding stopped (a decode process died again and again, storage did not answer, Ray failed),
                nothing arrived for reader.STALL_LIMIT_S, or blocks came in a wrong order.
        """
        spec: StreamSpec = ray.get(self._feeder.spec.remote())
        reader = Reader(spec, self._feeder, rank)
        try:
            for step in range(spec.plan.start_step, spec.plan.total_steps):
                yield [reader.next_batch(step) for _ in range(spec.plan.accumulation)]
        finally:
            reader.close()


def open_stream(
    clips: pa.Table,
    config: Config,
    plan: RunPlan,
    world_size: int,
    start_step: int,
    segment_micro_batches: int = SEGMENT_MICRO_BATCHES,
) -> ClipStream:
    """Open the stream from optimiser step `start_step` on, for `world_size` ranks. Called by one process.

    Errors:
        ConfigError: the global batch does not divide among these ranks. ManifestError: `clips` is not what was planned.
    """
    if clips.num_rows != plan.num_clips:
        raise ManifestError(f"the manifest now has {clips.num_rows} clips, the run was planned for {plan.num_clips}")
    stream_plan = plan_stream(config, plan, world_size, start_step)
    pa.default_memory_pool().release_unused()  # what reading a large manifest left behind is as large again
    spec = StreamSpec(config, stream_plan, segment_micro_batches, ray.put(clips.select(COLUMNS)), storage.access())
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ClipStream(Feeder.options(scheduling_strategy=here).remote(spec))
