from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from fault_plan import LASTS_S, SPREAD, Fault, Kind, plan_faults, table


def test_the_same_seed_gives_the_same_faults() -> None:
    assert plan_faults(3, 600, 60) == plan_faults(3, 600, 60)
    assert plan_faults(3, 600, 60) != plan_faults(4, 600, 60)


def test_the_sequence_of_a_seed_never_changes() -> None:
    """The results in docs/reliability.md name their seed."""
    first, second, *_ = plan_faults(0, 600, 60)
    assert first[:4] == (68.5, Kind.WORKER_KILL, 0, 0.0)
    assert second[:4] == (132.2, Kind.NODE_LOSS, 0, 4.0)


@pytest.mark.parametrize("seed", range(20))
def test_kinds_come_in_rounds_about_every_so_often(seed: int) -> None:
    faults = plan_faults(seed, 1000, 60)
    kinds = [fault.kind for fault in faults]
    assert len(faults) == 15
    assert set(kinds[:6]) == set(kinds[6:12]) == set(Kind)
    assert max(Counter(kinds).values()) == 3
    for number, fault in enumerate(faults, 1):
        assert abs(fault.at_s - number * 60) <= SPREAD * 60 + 0.05
        shortest, longest = LASTS_S.get(fault.kind, (0.0, 0.0))
        assert shortest <= fault.lasts_s <= longest
        assert fault.rank in (0, 1)
    assert all(earlier.at_s + earlier.lasts_s < later.at_s for earlier, later in pairwise(faults))


def test_only_the_kinds_that_are_asked_for() -> None:
    assert {fault.kind for fault in plan_faults(0, 600, 60, [Kind.NODE_LOSS])} == {Kind.NODE_LOSS}


def test_no_fault_fits_into_a_short_time() -> None:
    assert plan_faults(0, 104, 60) == []
    assert len(plan_faults(0, 105, 60)) == 1


def test_the_table_says_whom_and_how_long() -> None:
    lines = table([Fault(68.5, Kind.NODE_LOSS, 1, 4.0, 0), Fault(99, Kind.DRIVER_KILL, 1, 0.0, 0)]).splitlines()
    assert lines[0] == "   68.5 s  node loss        rank 1, 4 s until a new node comes"
    assert lines[1].strip() == "99.0 s  driver kill"
