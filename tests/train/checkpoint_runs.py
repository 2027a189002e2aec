"""What the ranks of test_checkpoint.py do."""

from __future__ import annotations

from pathlib import Path

from discovr_ray.errors import StorageError
from discovr_ray.train import checkpoint


def restore(rank: int, run: Path, base: Path) -> int | None:
    """Step that this rank restores; it needs its own shard and the common file."""
    own = (f"shard_{rank}.bin", "common.bin")
    restored = checkpoint.restore(str(run), base / str(rank), lambda name: name in own)
    return restored and restored.state.step


def restore_in_an_outage(rank: int, run: Path, base: Path) -> str:
    """The error that this rank gets when rank 1 loses the storage while it verifies files."""

    def needs(name: str) -> bool:
        if rank == 1:
            raise StorageError(f"{name}: cannot read: connection refused")
        return True

    try:
        checkpoint.restore(str(run), base / str(rank), needs)
    except StorageError as error:
        return str(error)
    return ""
