"""The driver's hold on its run: no second start of the job trains the same run, and a dead one's is taken over.

Two starts of the same moment both write that they ask for the run before they look who else does (train/claim.py), so
at least one of them sees the other. Who sees an earlier one withdraws; who sees a later one waits for it to do so.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import ray

from discovr_ray.errors import RunExistsError, StorageError
from discovr_ray.launch.stop import NAMESPACE
from discovr_ray.train import claim
from discovr_ray.train.claim import Claim

logger = logging.getLogger(__name__)

BEATS = 6  # signs of life within the time-out
POLL_S = 0.5  # between two looks at what another start does


def new_claim(timeout_s: float) -> Claim:
    """Of this process, which must be connected to Ray."""
    now = datetime.now(UTC)
    return Claim(
        start=f"{now:%Y%m%d-%H%M%S-%f}-{uuid.uuid4().hex[:8]}",
        timeout_s=timeout_s,
        place=f"process {os.getpid()} on {platform.node()}, since {now:%Y-%m-%d %H:%M:%S} UTC",
        machine=_machine(),
        process=_process(os.getpid()) or "",
        node=ray.get_runtime_context().get_node_id(),
    )


@contextmanager
def hold(run_uri: str, mine: Claim, on_lost: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Have the run for the block's duration; yields what tells whether that is still so.

    Args:
        on_lost: called in another thread when another start has taken the run over meanwhile.
    Errors:
        RunExistsError: another start has the run, or asks for it and came first.
        StorageError: the run's folder cannot be read or written.
    """
    held = _acquire(run_uri, mine)
    over = threading.Event()
    thread = threading.Thread(target=_live, args=(run_uri, held, on_lost, over), name="discovr-claim", daemon=True)
    thread.start()
    try:
        yield lambda: not claim.is_lost(run_uri, held.start)
    finally:
        over.set()
        thread.join()
        with suppress(StorageError):  # then the next start finds it dead
            claim.remove(run_uri, held.start)


def _acquire(run_uri: str, mine: Claim) -> Claim:
    claim.write(run_uri, mine)
    try:
        dead = _wait_until_alone(run_uri, mine)
        mine = dataclasses.replace(mine, holds=True, took_over=tuple(other.start for other in dead))
        claim.write(run_uri, mine)
    except BaseException:
        with suppress(StorageError):
            claim.remove(run_uri, mine.start)
        raise
    for other in dead:
        logger.warning("taking over from a job that is dead: %s", other.place)
        claim.remove(run_uri, other.start)
    return mine


def _wait_until_alone(run_uri: str, mine: Claim) -> list[Claim]:
    """Until all others that ask for the run or have it are dead; returns those.

    Errors:
        RunExistsError: one that lives has it or came first.
    """
    seen: dict[str, Sighting] = {}
    while True:
        others = [other for other in claim.claims(run_uri) if other.start != mine.start]
        alive = [seen.setdefault(other.start, Sighting(other)).is_alive(other) for other in others]
        for other, is_alive in zip(others, alive, strict=True):
            if is_alive and (other.holds or other.start < mine.start):
                remedy = "wait for its end, stop it, or choose another run.name"
                raise RunExistsError(f"{run_uri}: a job already trains this run ({other.place}); {remedy}")
        if all(is_alive is False for is_alive in alive):
            return others
        time.sleep(POLL_S)
        mine = dataclasses.replace(mine, beat=mine.beat + 1)
        claim.write(run_uri, mine)


class Sighting:
    """What this process knows of another start since it first saw its claim."""

    def __init__(self, first: Claim) -> None:
        self._first, self._since = first, time.monotonic()
        self._told = False

    def is_alive(self, now: Claim) -> bool | None:
        """None: not known yet."""
        if now.machine and now.machine == _machine():
            return _process(int(now.process.partition(" ")[0])) == now.process
        nodes = {node["NodeID"]: node["Alive"] for node in ray.nodes()}
        if now.node in nodes:
            return nodes[now.node] and _has_actor(now.start)
        if now.beat != self._first.beat:
            return True
        if time.monotonic() - self._since > now.timeout_s:
            return False
        if not self._told:
            message = "waiting up to %g s for a sign of life of the job that has this run: %s"
            logger.warning(message, now.timeout_s, now.place)
            self._told = True
        return None


def _live(run_uri: str, held: Claim, on_lost: Callable[[], None], over: threading.Event) -> None:
    while not over.wait(held.timeout_s / BEATS):
        try:
            if claim.is_lost(run_uri, held.start):
                logger.error("another start of the job has taken this run over: it got no sign of life from here")
                on_lost()
                return
            held = dataclasses.replace(held, beat=held.beat + 1)
            claim.write(run_uri, held)
        except StorageError as error:  # nobody else can take the run over meanwhile, unless it is this machine's fault
            logger.warning("no sign of life could be given: %s", error)


def _has_actor(start: str) -> bool:
    """Its stop flag, which lives as long as its driver."""
    try:
        ray.get_actor(start, namespace=NAMESPACE)
    except ValueError:
        return False
    return True


def _machine() -> str:
    """Machine, boot and container: what the number of a process belongs to; "" where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process(number: int) -> str | None:
    """Number and birth of a process of this machine; None when it is not there."""
    try:
        status = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return None
    state, *rest = status.rpartition(")")[2].split()
    return None if state == "Z" else f"{number} {rest[18]}"  # field 22: start time after boot
