"""Asynchronous successive halving (Li et al., MLSys 2020, the variant that stops) on the steps of training."""

from __future__ import annotations

import math
from collections.abc import Sequence


def rungs(first_steps: int, reduction: int, steps: int) -> list[int]:
    """Optimiser steps at which trials are compared; the last is a whole trial. `first_steps` 0: only that one."""
    found = []
    rung = first_steps
    while 0 < rung < steps:
        found.append(rung)
        rung *= reduction
    return [*found, steps]


def goes_on(value: float, others: Sequence[float], reduction: int) -> bool:
    """Whether a trial with `value` at a rung is among the best 1/reduction of those that have reached it.

    Equals stand together, so that a figure that tells none of them apart stops none. The first one always goes on.
    """
    room = math.ceil((len(others) + 1) / reduction)
    return sum(other > value for other in others) < room
