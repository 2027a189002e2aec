"""Run a function in several gloo processes and give back what each rank returned."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rclone_server import free_port

HERE = Path(__file__).parent


def run_ranks(world_size: int, function: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """Call function(rank, *args) on every rank of a new group; one fresh interpreter per rank.

    A single rank starts without a group, as outside Ray.

    Args:
        function: importable by name from a file in this folder.
        folder: for the files that carry arguments and results; must be empty of earlier ones.
    Errors:
        AssertionError: a rank failed; carries the output of all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "arguments.pkl").write_bytes(pickle.dumps((function.__module__, function.__name__, args)))
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(world_size),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), str(HERE.parents[1])]),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE / "gloo_ranks.py"), str(folder)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        outputs = [process.communicate(timeout=500)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n---\n".join(outputs)
    return [pickle.loads((folder / f"result_{rank}.pkl").read_bytes()) for rank in range(world_size)]


def _main(folder: Path) -> None:
    import importlib
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    module, name, args = pickle.loads((folder / "arguments.pkl").read_bytes())
    rank = int(os.environ["RANK"])
    if int(os.environ["WORLD_SIZE"]) > 1:
        dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    result = getattr(importlib.import_module(module), name)(rank, *args)
    (folder / f"result_{rank}.pkl").write_bytes(pickle.dumps(result))
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
