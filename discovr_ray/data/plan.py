"""Which clips make optimiser step s, and which worker takes which of them: arithmetic, no state, no I/O.

The run is one long row of samples: sample i belongs to step i // global_batch, and every `micro_batch` consecutive
samples form one micro-batch. Micro-batch n goes to rank n % world_size. So the number of a micro-batch says which clips
it holds without knowing the world size, and the world size only says who takes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from discovr_ray.config import Config, RunPlan
from discovr_ray.errors import ConfigError
from discovr_ray.randomness import Purpose, permutation, uniform


class Assignment(NamedTuple):
    """Content of one micro-batch."""

    step: int
    epoch: int
    rows: npt.NDArray[np.int64]  # [b], rows of the manifest


class Segment(NamedTuple):
    """A stretch of whole optimiser steps [first_step, end_step) that is streamed as one Ray data set."""

    first_step: int
    end_step: int


@dataclass(frozen=True)
class StreamPlan:
    """The samples of a run from `start_step` to `total_steps`, cut up for `world_size` ranks.

    Errors:
        ConfigError: the global batch is not a whole number of passes of this world size, or the start lies outside.
    """

    seed: int
    num_clips: int
    steps_per_epoch: int
    total_steps: int
    global_batch: int
    micro_batch: int
    world_size: int
    start_step: int

    def __post_init__(self) -> None:
        problems = []
        if self.world_size < 1 or self.global_batch % (self.world_size * self.micro_batch):
            problems.append(
                f"engine.global_batch = {self.global_batch}: must be a multiple of workers x engine.micro_batch = "
                f"{self.world_size} x {self.micro_batch}"
            )
        if not 1 <= self.steps_per_epoch * self.global_batch <= self.num_clips:
            problems.append(
                f"{self.steps_per_epoch} steps per epoch of {self.global_batch} clips: need at least one step and at "
                f"most the {self.num_clips} clips of the manifest"
            )
        if not 0 <= self.start_step <= self.total_steps:
            problems.append(f"start step {self.start_step}: must be from 0 to the run's {self.total_steps} steps")
        if problems:
            raise ConfigError(problems)

    @property
    def micro_batches_per_step(self) -> int:
        return self.global_batch // self.micro_batch

    @property
    def accumulation(self) -> int:
        """Passes of every rank in one optimiser step."""
        return self.micro_batches_per_step // self.world_size

    def assignment(self, number: int) -> Assignment:
        """Content of micro-batch `number`, counted from the first micro-batch of step 0."""
        step, place = divmod(number, self.micro_batches_per_step)
        epoch = self.epoch(step)
        first = step % self.steps_per_epoch * self.global_batch + place * self.micro_batch
        rows = permutation(self.seed, epoch, self.num_clips)[first : first + self.micro_batch]
        return Assignment(step, epoch, rows)

    def epoch(self, step: int) -> int:
        return step // self.steps_per_epoch

    def positions(self, epoch: int, clip_keys: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Where the window of each clip starts in this epoch, in [0, 1), from the clip's own key alone."""
        return uniform(self.seed, epoch, Purpose.WINDOW, clip_keys.astype(np.uint64))

    def numbers(self, segment: Segment) -> range:
        """Micro-batches of a segment, all ranks together, in stream order."""
        return range(segment.first_step * self.micro_batches_per_step, segment.end_step * self.micro_batches_per_step)

    def rank_numbers(self, segment: Segment, rank: int) -> range:
        """Micro-batches of a segment that `rank` takes, in order; `accumulation` of them make one step."""
        return self.numbers(segment)[rank :: self.world_size]

    def blocks(self, segment: Segment, length: int) -> list[range]:
        """A segment in blocks of `length` micro-batches of one rank; block i is of rank i mod world_size.

        The last blocks of a segment may have fewer. Where the stream starts, the first block of a rank has one and each
        of the next twice as many as the one before: training waits for whole blocks, and after a restart it waits idly.
        """
        ranks = [self.rank_numbers(segment, rank) for rank in range(self.world_size)]
        blocks, first = [], 0
        size = 1 if segment.first_step == self.start_step else length
        while first < len(ranks[0]):
            size = min(size, length)
            blocks += [numbers[first : first + size] for numbers in ranks]
            first, size = first + size, 2 * size
        return blocks

    def segments(self, max_micro_batches: int) -> Iterator[Segment]:
        """Cut the run into segments of at most `max_micro_batches`, or of one step where a step has more."""
        length = max(1, max_micro_batches // self.micro_batches_per_step)
        for first in range(self.start_step, self.total_steps, length):
            yield Segment(first, min(first + length, self.total_steps))


def plan_stream(config: Config, plan: RunPlan, world_size: int, start_step: int) -> StreamPlan:
    """The stream's plan for a run; `world_size` may differ from `run.workers` (a smaller cluster after a restart)."""
    return StreamPlan(
        seed=config.run.seed,
        num_clips=plan.num_clips,
        steps_per_epoch=plan.steps_per_epoch,
        total_steps=plan.total_steps,
        global_batch=config.engine.global_batch,
        micro_batch=config.engine.micro_batch,
        world_size=world_size,
        start_step=start_step,
    )
