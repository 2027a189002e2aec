"""A training process that stands still says where, and ends, so that its group can start again."""

from __future__ import annotations

import faulthandler
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

LINGER_S = 10.0  # the first rank to end takes the others with it; until then they write down their own stacks
KEEP_WITHIN_S = 60.0  # for writing the stacks down; then the process ends without
STDERR = 2


class HangWatch:
    """Ends this process when no step is done for `timeout_s` seconds, after the stacks of its threads were kept.

    One that has gone on meanwhile is left alone.
    Every rank has one. It counts from the first step that is done to the end of the `with` block, without what is
    `paused`. A watching thread in Python cannot run while native code holds the interpreter's lock, nor end a process
    whose storage does not answer; a timer outside of Python does both, and writes the stacks to stderr.
    """

    def __init__(self, timeout_s: float, keep: Callable[[int, str], None], what: str = "step") -> None:
        """`keep` gets the number of the last step and the stacks, in another thread. A timeout of 0: never.

        Args:
            what: is not done in time, for the log.
        """
        self._timeout_s, self._keep, self._what = timeout_s, keep, what
        self._step = 0
        self._deadline: float | None = None  # by time.monotonic; None: not counting
        self._changed = threading.Condition()
        self._closed = False

    def __enter__(self) -> HangWatch:
        if self._timeout_s:
            threading.Thread(target=self._watch, name="discovr-hang", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed = True
        self._count_from_now(False)

    def step_done(self, step: int) -> None:
        """Count anew."""
        self._step = step
        self._count_from_now(True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The block may take as long as it likes."""
        self._count_from_now(False)
        yield
        self._count_from_now(True)

    def _count_from_now(self, counting: bool) -> None:
        if not self._timeout_s:
            return
        with self._changed:
            self._deadline = time.monotonic() + self._timeout_s if counting else None
            self._changed.notify()
        if counting:
            last = self._timeout_s + LINGER_S + KEEP_WITHIN_S
            faulthandler.dump_traceback_later(last, exit=True, file=STDERR)
        else:
            faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while self._wait_until_late():
            message = "no %s was done for %g s after step %d; this process ends"
            logger.error(message, self._what, self._timeout_s, self._step)
            try:
                self._keep(self._step, _stacks())
            except Exception:  # the process ends either way
                logger.exception("the stacks of a worker that hangs could not be kept")
            time.sleep(LINGER_S)
            with self._changed:
                if self._is_late():
                    os._exit(1)
            logger.warning("this process goes on after all; hanging ended by itself at step %d", self._step)

    def _wait_until_late(self) -> bool:
        """False: the watch is over."""
        with self._changed:
            while not self._closed and not self._is_late():
                self._changed.wait(None if self._deadline is None else self._deadline - time.monotonic())
            return not self._closed

    def _is_late(self) -> bool:
        return not self._closed and self._deadline is not None and time.monotonic() >= self._deadline


@contextmanager
def limited(timeout_s: float, step: int, keep: Callable[[int, str], None], what: str) -> Iterator[None]:
    """A watch of its own for a block that begins after `step`; see HangWatch.

    A process has one timer, so another watch must be `paused` meanwhile.
    """
    with HangWatch(timeout_s, keep, what) as watch:
        watch.step_done(step)
        yield


def _stacks() -> str:
    """Of all threads of this process, most recent call first."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()
