"""Which fault strikes when: a function of the seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    WORKER_KILL = "worker kill"  # -9
    NODE_LOSS = "node loss"  # without a farewell; a new node comes `lasts_s` later
    DRIVER_KILL = "driver kill"  # -9; started again at once with run.resume=true
    UPLOAD_CUT = "upload cut"  # kill -9 of a worker while the storage has half of a file of its checkpoint
    STORAGE_ERRORS = "storage errors"  # for `lasts_s` a share of all answers is 503, reset, cut or changed
    STORAGE_OUTAGE = "storage outage"  # for `lasts_s` every connection is refused


RESTARTING = (Kind.WORKER_KILL, Kind.NODE_LOSS, Kind.DRIVER_KILL, Kind.UPLOAD_CUT)
LASTS_S = {Kind.NODE_LOSS: (2.0, 6.0), Kind.STORAGE_ERRORS: (8.0, 20.0), Kind.STORAGE_OUTAGE: (4.0, 12.0)}
SPREAD = 0.25  # of `every_s`, by which a fault comes earlier or later


class Fault(NamedTuple):
    at_s: float  # since the first step of the run
    kind: Kind
    rank: int  # whom it strikes, as far as it strikes somebody
    lasts_s: float  # 0: a moment
    seed: int  # of what is random within it


def plan_faults(
    seed: int, seconds: float, every_s: float, kinds: Sequence[Kind] = tuple(Kind), num_ranks: int = 2
) -> list[Fault]:
    """One fault about every `every_s`, all of them over before the `seconds` are.

    Kinds come in shuffled rounds, so that each comes as often as the others. The last `every_s` belong to recovery.
    """
    draw = random.Random(seed).random  # the one method whose sequence Python promises to keep
    faults: list[Fault] = []
    deck: list[Kind] = []
    while (len(faults) + 1 + SPREAD) * every_s <= seconds - every_s / 2:
        deck = deck or [kind for _, kind in sorted((draw(), kind) for kind in kinds)]
        kind = deck.pop()
        at_s = (len(faults) + 1 + SPREAD * (2 * draw() - 1)) * every_s
        shortest, longest = LASTS_S.get(kind, (0.0, 0.0))
        lasts_s = shortest + draw() * (longest - shortest)
        faults.append(Fault(round(at_s, 1), kind, int(draw() * num_ranks), round(lasts_s, 1), int(draw() * 2**31)))
    return faults


def table(faults: Sequence[Fault]) -> str:
    lines = [f"{fault.at_s:7.1f} s  {fault.kind:15}  {_detail(fault)}" for fault in faults]
    return "\n".join(lines)


def _detail(fault: Fault) -> str:
    who = f"rank {fault.rank}" if fault.kind in RESTARTING and fault.kind != Kind.DRIVER_KILL else ""
    how_long = f"{fault.lasts_s:g} s" + (" until a new node comes" if fault.kind == Kind.NODE_LOSS else "")
    return ", ".join(part for part in (who, how_long if fault.lasts_s else "") if part)
