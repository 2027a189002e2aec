"""Clips that failed: agreed between ranks at every step, counted once, and refused when there are too many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.distributed as dist

from discovr_ray.config import Config
from discovr_ray.errors import TooManyBadClipsError
from discovr_ray.train.context import Context

if TYPE_CHECKING:  # the stream imports Ray, which the loop does not need
    from discovr_ray.data.stream import ClipFailure, MicroBatch


class Agreement(NamedTuple):
    """What all ranks know of a step before they compute it."""

    total_weight: float  # clips of the global batch that are used
    stop: bool  # training ends after this step, for now or for good
    num_bad: int  # distinct clips that failed so far


class Quarantine:
    """Distinct failed clips of a run; `known` are those of its earlier sessions."""

    def __init__(self, config: Config, num_clips: int, known: Sequence[str] = ()) -> None:
        self.clip_ids = set(known)
        self._max_bad = int(config.data.max_bad_fraction * num_clips)
        self._rule = (
            f"data.max_bad_fraction = {config.data.max_bad_fraction} of {num_clips} clips allows {self._max_bad}"
        )

    def agree(self, step: int, batches: Sequence[MicroBatch], context: Context) -> Agreement:
        """One reduction a step; reasons are gathered only when a clip failed. Every rank must call it.

        Args:
            step: the optimiser step that is about to be done, from 0. People and files are told step + 1, the number
                under which the log has it.

        Errors:
            TooManyBadClipsError: on every rank, after the failures were recorded. Also when no clip of the global
                batch is left, whatever `data.max_bad_fraction` allows: such a step has no gradient.
        """
        weight = float(sum(batch.weights.sum() for batch in batches))
        failures = [failure for batch in batches for failure in batch.failures]
        stop = context.rank == 0 and context.stop_requested()
        look = context.rank == 0 and context.notice_due()
        sums = torch.tensor([weight, len(failures), float(stop), float(look)], dtype=torch.float64)
        sums = sums.to(context.device)
        dist.all_reduce(sums)
        total_weight, num_failures, stops, looks = sums.tolist()
        leaves = looks > 0 and context.node_leaves()
        if num_failures:
            self._record(step, failures, context)
        if total_weight == 0:
            raise TooManyBadClipsError(f"step {step + 1}: every clip of the global batch failed; see quarantine.jsonl")
        return Agreement(total_weight, stops > 0 or leaves, len(self.clip_ids))

    def _record(self, step: int, failures: list[ClipFailure], context: Context) -> None:
        gathered: list[list[ClipFailure]] = [[] for _ in range(context.world_size)]
        dist.all_gather_object(gathered, failures)
        new = {item.clip_id: item for part in gathered for item in part if item.clip_id not in self.clip_ids}
        self.clip_ids.update(new)
        if context.rank == 0:
            context.quarantine(step + 1, list(new.values()))
        if len(self.clip_ids) > self._max_bad:
            examples = "; ".join(f"{item.clip_id}: {item.reason}" for item in list(new.values())[:3])
            raise TooManyBadClipsError(
                f"step {step + 1}: {len(self.clip_ids)} clips failed, {self._rule}; newest: {examples}"
            )
