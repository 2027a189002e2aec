"""What a history of legs says: which steps count, which were in vain, whether each clip came as often as it should.

All of it is arithmetic on records, so that histories made by hand can be judged as well.
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from history import Leg


class Stretch(NamedTuple):
    """Steps [first, end) of a leg that the end result is made of."""

    leg: Leg
    first: int
    end: int


class MicroBatch(NamedTuple):
    clips: tuple[str, ...]
    content: str


Steps = Mapping[int, tuple[MicroBatch, ...]]  # step -> its global batch, in order


class Audit(NamedTuple):
    """Samples of the preserved steps, against the data set and the calm run. All three lists must be empty."""

    duplicated: list[str]  # "clip, epoch": came more than once
    missing: list[str]  # "clip, epoch", or "step": did not come, or nobody has a record of it
    changed: list[int]  # steps whose clips, order or pixels are not those of the calm run


class Saves(NamedTuple):
    begun: int
    complete: int
    failed: int  # while training went on
    cut: int  # by the end of their workers


class Recovery(NamedTuple):
    """From one fault to the next."""

    longest_wait_s: float  # for a step that is new; the first wait counts from the fault
    cost_s: float  # time, less that of the new steps at the run's pace


def lineage(legs: Sequence[Leg], end_step: int) -> list[Stretch]:
    """Walk back from the checkpoint of `end_step`: who made it, which one that leg started from, and so on.

    Legs whose steps came to nothing are not in it. Where nobody is known to have made a checkpoint, the walk ends.
    """
    found: list[Stretch] = []
    wanted, earlier = end_step, list(legs)
    while wanted > 0:
        makers = [leg for leg in earlier if wanted in leg.sealed and leg.start_step < wanted]
        # killed between the last byte of the checkpoint and its own line about it
        makers = makers or [leg for leg in earlier if wanted in leg.saves and leg.start_step < wanted]
        if not makers:
            break
        found.append(Stretch(makers[-1], makers[-1].start_step, wanted))
        wanted, earlier = makers[-1].start_step, earlier[: earlier.index(makers[-1])]
    return found[::-1]


def preserved(stretches: Sequence[Stretch]) -> dict[int, tuple[MicroBatch, ...]]:
    """The global batch of each preserved step that every rank has done."""
    steps = {}
    for leg, first, end in stretches:
        whole = set(leg.whole_steps())
        for step in range(first, end):
            if step in whole and len(leg.fed.get(step, {})) == leg.world_size:
                steps[step] = _global_batch(leg, step)
    return steps


def _global_batch(leg: Leg, step: int) -> tuple[MicroBatch, ...]:
    """Micro-batch n went to rank n % world_size."""
    ranks = [leg.fed[step][rank] for rank in range(leg.world_size)]
    turns = zip(*(zip(fed.clips, fed.content, strict=True) for fed in ranks), strict=True)
    return tuple(MicroBatch(*batch) for turn in turns for batch in turn)


def audit(steps: Steps, calm: Steps, end_step: int, clip_ids: Collection[str], steps_per_epoch: int) -> Audit:
    """Args:
    clip_ids: the whole data set, which a whole number of global batches makes up.
    """
    duplicated, missing = [], [f"step {step}" for step in range(end_step) if step not in steps]
    for epoch in range(-(-end_step // steps_per_epoch)):
        numbers = range(epoch * steps_per_epoch, min((epoch + 1) * steps_per_epoch, end_step))
        seen = Counter(clip for step in numbers for batch in steps.get(step, ()) for clip in batch.clips)
        duplicated += [f"{clip}, epoch {epoch}" for clip, times in sorted(seen.items()) if times > 1]
        if len(numbers) == steps_per_epoch:
            missing += [f"{clip}, epoch {epoch}" for clip in sorted(set(clip_ids) - seen.keys())]
    changed = [step for step in sorted(steps.keys() & calm.keys()) if steps[step] != calm[step]]
    changed += sorted(steps.keys() ^ calm.keys())
    return Audit(duplicated, missing, changed)


def wasted_steps(legs: Sequence[Leg], stretches: Sequence[Stretch]) -> int:
    """Steps that at least one rank has done, and that were done again later, or belong to nothing."""
    return sum(len(leg.done) for leg in legs) - sum(end - first for _, first, end in stretches)


def save_counts(legs: Sequence[Leg]) -> Saves:
    """A leg begins a save when it has settled the one before, so only its last one can have been cut."""
    begun, sealed = sum(len(leg.saves) for leg in legs), sum(len(leg.saves.keys() & leg.sealed.keys()) for leg in legs)
    cut = sum(max(leg.saves) not in leg.sealed for leg in legs if leg.saves)
    return Saves(begun, sealed, begun - sealed - cut, cut)


def step_time_s(legs: Sequence[Leg]) -> float:
    """Median from one step to the next within a leg, both done by all ranks; 0: there are none."""
    gaps = []
    for leg in legs:
        for step, following in itertools.pairwise(leg.whole_steps()):
            if following == step + 1:
                gaps.append(leg.done_at(following) - leg.done_at(step))
    return statistics.median(gaps) if gaps else 0.0


def goodput(num_preserved: int, step_s: float, wall_s: float) -> float:
    """Share of the time that made preserved progress."""
    return num_preserved * step_s / wall_s


def new_steps(legs: Sequence[Leg]) -> list[float]:
    """When each step was done by all ranks that no leg had done before: the nth entry is that of step n."""
    times = sorted((leg.done_at(step), step) for leg in legs for step in leg.whole_steps())
    found: list[float] = []
    for time, step in times:
        if step == len(found):
            found.append(time)
    return found


def recoveries(struck: Sequence[float], end: float, progress: Sequence[float], step_s: float) -> list[Recovery]:
    """Args:
    struck: when each fault came, in order. progress: see `new_steps`.
    """
    result = []
    for since, until in itertools.pairwise([*struck, end]):
        inside = [time for time in progress if since < time <= until]
        waits = [later - earlier for earlier, later in itertools.pairwise([since, *inside, until])]
        result.append(Recovery(max(waits), until - since - len(inside) * step_s))
    return result
