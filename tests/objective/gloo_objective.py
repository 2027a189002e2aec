"""Run a function on two gloo processes and bring its tensors back."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

OnRank = Callable[[int, dist.ProcessGroup], Tensor]


def run_on_two_ranks(function: OnRank) -> tuple[Tensor, Tensor]:
    """Results of ranks 0 and 1 of `function(rank, group)`, a function at module level."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_main, args=(function, folder), nprocs=2)
        first, second = (torch.load(Path(folder, f"{rank}.pt")) for rank in range(2))
    return first, second


def _main(rank: int, function: OnRank, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    group = dist.group.WORLD
    assert group is not None
    torch.save(function(rank, group), Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()
