"""What the training loop needs from whoever runs it. `launch/session.py` gives it on Ray; tests give it without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:  # the stream imports Ray, which the loop does not need
    from discovr_ray.data.stream import ClipFailure, MicroBatch


class Context(Protocol):
    """One rank's view of the outside world. Methods marked (all) are called by every rank at the same step."""

    rank: int
    world_size: int
    device: torch.device

    def steps(self, start_step: int) -> Iterator[list[MicroBatch]]:
        """Micro-batches of this rank, one list per optimiser step, from `start_step` to the end of the run. (all)"""

    def stop_requested(self) -> bool:
        """True once somebody asked the run to end; only rank 0 is asked."""

    def notice_due(self) -> bool:
        """Whether it is time to look for notices that a node is about to be taken away; only rank 0 is asked."""

    def node_leaves(self) -> bool:
        """Whether a node of some rank is about to be taken away; the same answer on every rank. (all)"""

    def record(self, values: dict[str, float]) -> None:
        """Take the metrics of a logged step; rank 0 only."""

    def probe(self, step: int) -> dict[str, float]:
        """What the teacher knows after `step` optimiser steps, the same figures on all ranks; may be empty. (all)"""

    def quarantine(self, step: int, failures: Sequence[ClipFailure]) -> None:
        """Keep a record of clips that failed for the first time, in the run's step `step`, from 1; rank 0 only."""

    def hung(self, step: int, stacks: str) -> None:
        """Keep the stacks of this rank, which hangs after `step`; its process ends then. Called in another thread."""

    def save(self, step: int) -> None:
        """Write a checkpoint of the engine as it is after `step` optimiser steps. (all)"""
