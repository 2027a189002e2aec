"""Asking a run to end: signals reach only the driver, so a flag actor carries the wish to the workers."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

import ray

Value = TypeVar("Value")


class StopFlag:
    """Ray actor; rank 0 looks at it every step."""

    def __init__(self) -> None:
        self._requested = False

    def request(self) -> None:
        self._requested = True

    def requested(self) -> bool:
        return self._requested


def start_stop_flag() -> ray.actor.ActorHandle:
    """A flag that lives as long as the driver and takes no CPU from anybody."""
    return ray.remote(num_cpus=0)(StopFlag).remote()


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
    outcome: list[Value] = []
    failure: list[BaseException] = []

    def call() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # handed to the caller below
            failure.append(error)

    thread = threading.Thread(target=call, name="discovr-train", daemon=True)
    with interrupts() as seen:
        thread.start()
        told = False
        while thread.is_alive():
            thread.join(0.2)
            if seen.signal_number is not None and not told:
                told = True
                on_interrupt(seen.signal_number)
    if failure:
        raise failure[0]
    return outcome[0]
