"""What the ranks and the killed processes of test_saver.py do."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

from discovr_ray.config.sections import CheckpointConfig
from discovr_ray.errors import CheckpointError
from discovr_ray.train import checkpoint
from discovr_ray.train.checkpoint import TrainState
from discovr_ray.train.saver import Saver
from discovr_ray.train.upload import Upload

SIZES = {"local": (2**24, 2**20, 1000), "s3": (2**25, 2**20, 1000)}  # bytes; S3 gets the largest in parts


def state(step: int) -> TrainState:
    return TrainState(step, samples_seen=8 * step, num_clips=64, world_size=1, zero_stage=1, config={})


def content(step: int, number: int, size: int) -> bytes:
    """What file `number` of a step holds."""
    block = hashlib.sha256(f"{step} {number}".encode()).digest()
    return block * (size // len(block))


def copy_of(step: int, sizes: tuple[int, ...] = (4096,), prefix: str = "file") -> Callable[[], Callable[[Path], None]]:
    """What a Saver takes: the copy is made at once, the files are written later."""

    def copy() -> Callable[[Path], None]:
        contents = [content(step, number, size) for number, size in enumerate(sizes)]

        def write(folder: Path) -> None:
            for number, data in enumerate(contents):
                (folder / f"{prefix}_{number}.bin").write_bytes(data)

        return write

    return copy


def save_for_ever(run_uri: str, local_folder: str, sizes: tuple[int, ...], seed: int) -> None:
    """What a run does that is about to be killed: resume, then save as fast as the storage takes it."""
    checkpoint.remove_orphans(run_uri)
    start = max((found.state.step for found in checkpoint.find_checkpoints(run_uri)), default=0)
    saver = Saver(run_uri, CheckpointConfig(keep=2, local_folder=local_folder))
    for step in range(start + 1, start + 1000):
        saver.save(state(step), copy_of(step + 10_000 * seed, sizes))


def save_on_two_ranks(rank: int, run: Path, base: Path) -> list[str]:
    """Three saves; rank 1's disk cannot be written to at the second. Returns what failed, in the order of steps."""
    saver = Saver(str(run), CheckpointConfig(local_folder=str(base / f"disk{rank}")))
    failures = []
    for step in (1, 2, 3):
        saver.save(state(step), copy_of(step, prefix=f"rank{rank}"))
        if rank == 0:
            continue
        upload = cast(Upload, saver._upload)
        upload.join()
        if step == 1:
            shutil.rmtree(base / "disk1")
            (base / "disk1").write_text("no folder")
        if step == 2:
            failures.append(upload.outcome.failure)
            (base / "disk1").unlink()
    saver.finish()
    return failures


def fail_on_one_rank(rank: int, run: Path, base: Path) -> tuple[int, str]:
    """Rank 1 never gets a file written. Returns how many saves were begun, and the error that ended the run."""
    folder = base / f"disk{rank}"
    if rank == 1:
        folder.write_text("no folder")
    saver = Saver(str(run), CheckpointConfig(local_folder=str(folder), max_failed_saves=2))
    for step in range(1, 10):
        try:
            saver.save(state(step), copy_of(step, prefix=f"rank{rank}"))
        except CheckpointError as error:
            return step, str(error)
    return 10, ""
