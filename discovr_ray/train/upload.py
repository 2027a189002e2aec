"""One save on its way to the run's storage, in a thread: write, hash, store, and seal when all ranks have stored.

The ranks agree through the storage itself, for a thread must not call torch.distributed beside the training: each
leaves a small file with its list of hashes when its files are stored, and rank 0 waits for those of all.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError

from discovr_ray.data import storage
from discovr_ray.errors import CheckpointError, RunTakenError, StorageError
from discovr_ray.train import checkpoint
from discovr_ray.train.checkpoint import FileRecord, TrainState
from discovr_ray.train.claim import Attempt

POLL_S = 1.0  # between two looks of rank 0 for what the other ranks have stored
log = logging.getLogger(__name__)


class Writer(NamedTuple):
    """Who saves, and where to."""

    attempt: Attempt  # its number keeps the lists of another group from being taken
    local_dir: Path  # for this rank alone; emptied after every save
    rank: int
    world_size: int
    keep: int  # complete checkpoints that stay

    def list_name(self, rank: int, number: int) -> str:
        return f"stored_{self.attempt.number}_try_{number}_{rank}_of_{self.world_size}.json"


class Save(NamedTuple):
    """What is saved. `write` puts this rank's files into a local folder; it can be called again after a failure."""

    state: TrainState
    write: Callable[[Path], None]
    number: int = 1  # of the try; the lists of one before, whose files may since have changed, do not count


@dataclass
class Times:
    """Seconds of one rank's save."""

    wait: float = 0.0  # training, for the save before
    pause: float = 0.0  # training, until the copy in memory was made
    write: float = 0.0  # here and below in the background
    hash: float = 0.0
    store: float = 0.0
    seal: float = 0.0  # rank 0 alone: the other ranks, checkpoint.json, removing what is old

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + time.perf_counter() - started)


@dataclass
class Outcome:
    """What the thread leaves behind; read it when the thread has ended, `failure` once `stored` is set."""

    times: Times
    num_bytes: int = 0  # of this rank's files
    failure: str = ""  # why this rank could not save
    is_taken: bool = False  # that failure: others have taken the place of this group
    defect: BaseException | None = None  # anything that is not the fault of disk or storage
    stored: threading.Event = field(default_factory=threading.Event)  # the files of this rank, or it failed
    abandoned: threading.Event = field(default_factory=threading.Event)  # nobody waits for other ranks any more


class Upload(threading.Thread):
    """Start it once; `outcome` says how it went."""

    def __init__(self, writer: Writer, save: Save, times: Times) -> None:
        super().__init__(name="discovr-upload", daemon=True)
        self.save = save
        self.outcome = Outcome(times)
        self._writer = writer
        self._folder = writer.local_dir / checkpoint.folder_name(save.state.step)
        name = checkpoint.folder_name(save.state.step, writer.attempt.suffix())
        self._uri = storage.join(writer.attempt.run_uri, name)

    def run(self) -> None:
        outcome = self.outcome
        try:
            records = self._store()
            if self._writer.rank:
                return
            outcome.stored.set()
            with outcome.times.measure("seal"):
                self._seal(records)
        except RunTakenError as error:
            outcome.failure, outcome.is_taken = str(error), True
        except (StorageError, CheckpointError) as error:
            outcome.failure = str(error)
            log.warning("checkpoint of step %d was not saved, training goes on: %s", self.save.state.step, error)
        except BaseException as error:  # the boundary of the thread: the main thread raises it
            outcome.failure, outcome.defect = repr(error), error
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
            outcome.stored.set()

    def _store(self) -> list[FileRecord]:
        """This rank's files, then its list of them."""
        times = self.outcome.times
        with times.measure("write"):
            _write(self._folder, self.save.write)
        with times.measure("hash"):
            records = checkpoint.describe(self._folder)
        self.outcome.num_bytes = sum(record.num_bytes for record in records)
        with times.measure("store"):
            self._writer.attempt.check()
            for record in records:
                storage.put_file(str(self._folder / record.name), storage.join(self._uri, record.name))
            if self._writer.rank:
                content = json.dumps([record._asdict() for record in records]).encode()
                storage.write_bytes(self._list_uri(self._writer.rank), content)
        return records

    def _seal(self, records: list[FileRecord]) -> None:
        """Write checkpoint.json once the files of all ranks are stored."""
        for rank in range(1, self._writer.world_size):
            uri = self._list_uri(rank)
            while not storage.exists(uri):
                if self.outcome.abandoned.wait(POLL_S):
                    raise CheckpointError(f"{self._uri}: rank {rank} did not store its files")
            records = [*records, *(FileRecord(**record) for record in json.loads(storage.read_bytes(uri)))]
        self._writer.attempt.check()
        checkpoint.seal(self._uri, records, self.save.state)
        log.info("checkpoint of step %d is complete: %s", self.save.state.step, self._uri)
        try:
            self._clean({record.name for record in records})
        except StorageError as error:
            log.warning("old checkpoints could not be removed: %s", error)

    def _list_uri(self, rank: int) -> str:
        return storage.join(self._uri, self._writer.list_name(rank, self.save.number))

    def _clean(self, names: set[str]) -> None:
        """Remove what is in the folder beside the checkpoint, some of it perhaps of a killed attempt, and old ones."""
        for name in storage.list_sizes(self._uri).keys() - names - {checkpoint.MANIFEST}:
            storage.remove_tree(storage.join(self._uri, name))
        checkpoint.prune(self._writer.attempt.run_uri, self._writer.keep)


def _write(folder: Path, write: Callable[[Path], None]) -> None:
    """Errors: StorageError: the local disk is full or cannot be written to."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write(folder)
    except (OSError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        disk = next(parent for parent in folder.parents if parent.exists())
        free = shutil.disk_usage(disk).free / 2**20
        remedy = f"{free:.0f} MiB free on that disk; checkpoint.local_folder names another"
        raise StorageError(f"{folder}: cannot write: {reason} ({remedy})") from error
