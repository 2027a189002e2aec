"""Who strikes: one action a kind of fault, each on the real thing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psutil
from fault_plan import Fault, Kind
from faulty_proxy import READ_FAULTS, WRITE_FAULTS, Schedule
from history import Process, read_processes
from stage import Job, Stage, wait_until

PATIENCE_S = 120.0  # for a victim, while the run is starting again
ERROR_SHARE = 0.2  # of answers, while the storage makes errors


class Strike(NamedTuple):
    """A fault that has happened."""

    fault: Fault
    at: float  # seconds since 1970


class Actors:
    """One fault at a time."""

    def __init__(self, stage: Stage, job: Job) -> None:
        self._stage, self._job = stage, job

    def strike(self, fault: Fault) -> Strike:
        """Returns when it is over, not when the run has recovered."""
        action = {
            Kind.WORKER_KILL: self._kill_worker,
            Kind.NODE_LOSS: self._lose_node,
            Kind.DRIVER_KILL: self._kill_driver,
            Kind.UPLOAD_CUT: self._cut_upload,
            Kind.STORAGE_ERRORS: self._spoil_storage,
            Kind.STORAGE_OUTAGE: self._spoil_storage,
        }[fault.kind]
        return Strike(fault, action(fault))

    def _kill_worker(self, fault: Fault) -> float:
        victim = self._victim(fault.rank)
        os.kill(victim.pid, signal.SIGKILL)
        return time.time()

    def _lose_node(self, fault: Fault) -> float:
        victim, at = self._victim(fault.rank), time.time()
        self._stage.lose_node(victim.node)
        time.sleep(fault.lasts_s)
        self._stage.add_node()
        return at

    def _kill_driver(self, fault: Fault) -> float:
        self._job.kill()
        at = time.time()
        self._job.start(resume=True)
        return at

    def _cut_upload(self, fault: Fault) -> float:
        schedule = UploadCut(f"_{fault.rank}_of_", lambda: self._kill_worker(fault))
        with self._schedule(schedule):
            wait_until(schedule.struck.is_set, PATIENCE_S, "an upload")
        return schedule.at

    def _spoil_storage(self, fault: Fault) -> float:
        at = time.time()
        if fault.kind == Kind.STORAGE_OUTAGE:
            schedule = Schedule(("refused",), 1.0)
        else:
            schedule = Schedule((*READ_FAULTS, *WRITE_FAULTS), ERROR_SHARE, fault.seed)
        with self._schedule(schedule):
            time.sleep(fault.lasts_s)
        return at

    @contextmanager
    def _schedule(self, schedule: Schedule) -> Iterator[None]:
        """The proxy follows it for the block's duration."""
        self._stage.proxy.use(schedule)
        try:
            yield
        finally:
            self._stage.proxy.use(Schedule())

    def _victim(self, rank: int) -> Process:
        """The newest living worker of this rank, or another one where there are fewer; waits while there is none."""
        found: list[Process] = []

        def is_there() -> bool:
            living = [process for process in read_processes(self._job.records) if _is_alive(process)]
            found[:] = sorted(living, key=lambda process: process.rank == rank)
            return bool(found)

        wait_until(is_there, PATIENCE_S, "a worker to kill")
        return found[-1]


def _is_alive(process: Process) -> bool:
    try:
        return psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class UploadCut(Schedule):
    """Cuts the next request that stores a file of a rank's checkpoint, and kills who sends it at that moment."""

    def __init__(self, file_part: str, kill: Callable[[], float]) -> None:
        super().__init__()
        self._file_part, self._kill = file_part, kill
        self.struck = threading.Event()
        self.at = 0.0

    def fault(self, method: str, target: str) -> str:
        if self.struck.is_set() or method != "PUT" or "/step_" not in target or self._file_part not in target:
            return ""
        self.at = self._kill()
        self.struck.set()
        return "cut_request"
