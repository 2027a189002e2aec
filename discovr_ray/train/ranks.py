"""Small agreements between the ranks of a run; without a process group there is one rank, which agrees with itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import torch
import torch.distributed as dist

from discovr_ray.errors import DiscovrError

Value = TypeVar("Value")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def all_agree(mine: bool) -> bool:
    """True when every rank says True. Every rank must call it."""
    return _reduced(int(mine), dist.ReduceOp.MIN) == 1


def largest(mine: int) -> int:
    """The largest of all ranks' integers. Every rank must call it."""
    return _reduced(mine, dist.ReduceOp.MAX)


def gathered(mine: Value) -> list[Value]:
    """What each rank has, in the order of ranks. Every rank must call it, with a small value that can be pickled."""
    if not dist.is_initialized():
        return [mine]
    values = [mine] * dist.get_world_size()
    dist.all_gather_object(values, mine)
    return values


def from_rank_zero(make: Callable[[], Value]) -> Value:
    """What rank 0 makes of it, a small value that can be pickled, on every rank; every rank must call it.

    Errors: the DiscovrError that `make` raised, on every rank.
    """
    mine: tuple[Value | None, DiscovrError | None] = (None, None)
    if rank() == 0:
        try:
            mine = (make(), None)
        except DiscovrError as error:
            mine = (None, error)
    value, failure = gathered(mine)[0]
    if failure is not None:
        raise failure
    return cast(Value, value)


def _reduced(value: int, operation: dist.ReduceOp.RedOpType) -> int:
    if not dist.is_initialized():
        return value
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    vote = torch.tensor([value], dtype=torch.int64, device=device)
    dist.all_reduce(vote, op=operation)
    return int(vote.item())
