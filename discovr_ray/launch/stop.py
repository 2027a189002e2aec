"""Asking a run to end: signals reach only the driver, so a flag actor carries the wish to the workers.

The actor runs on the driver's own node: without the driver the run ends anyway, so no further machine can end it.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple, TypeVar

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

logger = logging.getLogger(__name__)

ANSWER_WITHIN_S = 30.0
NAMESPACE = "discovr-ray"  # of the flags' names
Value = TypeVar("Value")


class Failure(NamedTuple):
    """Of a worker group."""

    cause: str
    nodes: frozenset[str]  # ids of those that it ran on


class StopFlag:
    """Ray actor; rank 0 looks at it every step. It also counts failures, for it outlives the workers."""

    def __init__(self) -> None:
        self._requested = False
        self._saved_step = -1
        self._failures: list[Failure] = []  # since the last progress
        self._num_seen = 0  # of them, before the present worker group
        self._nodes: set[str] = set()  # of the present worker group
        self._num_failed = 0  # groups, in all
        self._began = False  # the present worker group has called `started`
        self._never_began: list[str] = []  # causes of the last groups in a row that failed before they did

    def request(self) -> None:
        self._requested = True

    def requested(self) -> bool:
        return self._requested

    def joined(self, node_id: str) -> None:
        """A worker of the present group runs on this node."""
        self._nodes.add(node_id)

    def failed(self, cause: str) -> list[str]:
        """The worker group has failed; "" for a cause that says nothing about the run, such as a lost node.

        Returns the causes of the groups in a row that failed before one called `started`.
        """
        self._num_failed += 1
        if cause:
            self._failures.append(Failure(cause, frozenset(self._nodes)))
            self._never_began += [] if self._began else [cause]
        self._began = False
        self._nodes.clear()  # the next group may fail before it has told
        return list(self._never_began)

    def num_failed(self) -> int:
        """Groups that failed, lost nodes included."""
        return self._num_failed

    def started(self, saved_step: int | None, alive_nodes: Collection[str]) -> list[str]:
        """A worker group starts from this step's checkpoint; causes of the failures since it is the newest one.

        None: the storage did not say, so this group will fail as well, unless it answers soon.
        Groups that have lost a node do not count: what was told may be what the loss did to the other workers.
        """
        if saved_step is None:
            saved_step = self._saved_step
        if saved_step > self._saved_step:
            del self._failures[: self._num_seen]  # the group before went on beyond those
        self._failures = [failure for failure in self._failures if failure.nodes <= set(alive_nodes)]
        self._saved_step, self._num_seen = saved_step, len(self._failures)
        self._began = True
        self._never_began.clear()
        self._nodes.clear()
        return [failure.cause for failure in self._failures]


def start_stop_flag(name: str | None = None) -> ray.actor.ActorHandle:
    """A flag that lives as long as the driver, beside it, and takes no CPU from anybody.

    By its name others find out whether the driver lives (owner.py).

    When its process dies, it starts anew and has forgotten a wish; calls that meet it dead wait and are made again.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1, "max_task_retries": -1}
    options |= {"name": name, "namespace": NAMESPACE} if name else {}
    return ray.remote(**options)(StopFlag).remote()


def ask_to_stop(flag: ray.actor.ActorHandle) -> None:
    """Tell the flag; a flag that is gone, as when Ray itself has ended, is a warning."""
    try:
        ray.get(flag.request.remote(), timeout=ANSWER_WITHIN_S)
    except (RayError, RuntimeError) as error:
        logger.warning("the workers cannot be asked to stop (%s); the same signal again ends at once", error)


class Interrupts:
    """Signals seen so far. The first one asks for a checkpoint and an orderly end, the second ends at once."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def handle(self, signal_number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            raise KeyboardInterrupt
        self.signal_number = signal_number


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """SIGINT and SIGTERM are recorded while the block runs. Enter it after `ray.init`, which sets its own handlers."""
    seen = Interrupts()
    previous = {number: signal.signal(number, seen.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run_interruptible(work: Callable[[], Value], on_interrupt: Callable[[int], None]) -> Value:
    """Run `work` in a thread, so that the main thread can act on signals; `on_interrupt` is called once.

    Ray Train replaces the SIGINT handler when it is started from the main thread, and would abort without a checkpoint.
    """
    with interrupts() as seen:
        return run_watched(work, lambda: seen.signal_number, on_interrupt, every_s=0.2)


def run_watched(
    work: Callable[[], Value], asked: Callable[[], int | None], on_asked: Callable[[int], None], every_s: float
) -> Value:
    """Run `work` in a thread and look every so many seconds whether a stop is `asked` for; `on_asked` is called once.

    For processes whose signals are not ours to take, such as a trial's.
    """
    outcome: list[Value] = []
    failure: list[BaseException] = []

    def call() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # handed to the caller below
            failure.append(error)

    thread = threading.Thread(target=call, name="discovr-train", daemon=True)
    thread.start()
    told = False
    while thread.is_alive():
        thread.join(every_s)
        if not told and (number := asked()) is not None:
            told = True
            on_asked(number)
    if failure:
        raise failure[0]
    return outcome[0]
