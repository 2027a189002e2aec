"""Small agreements between the ranks of a run; without a process group there is one rank, which agrees with itself."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist

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


def _reduced(value: int, operation: dist.ReduceOp.RedOpType) -> int:
    if not dist.is_initialized():
        return value
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    vote = torch.tensor([value], dtype=torch.int64, device=device)
    dist.all_reduce(vote, op=operation)
    return int(vote.item())
