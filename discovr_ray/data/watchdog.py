"""A time limit that also ends a decoder which hangs outside of Python, where no exception can reach it."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator
from contextlib import contextmanager

from discovr_ray.data import outage

LIMIT_VARIABLE = "DISCOVR_FILE_LIMIT_S"
DEFAULT_LIMIT_S = 120.0  # the slowest file of the public sets takes some ten seconds
S_PER_MB = 4.0  # H.264 of 800 x 600 pixels decodes at about 1 MB in 2 s
STDERR = 2
TIMEOUT_MARK = b"Timeout ("  # what faulthandler writes to stderr before it ends the process


def base_limit_s() -> float:
    """Seconds that a small file may take, as the environment says."""
    return float(os.environ.get(LIMIT_VARIABLE) or DEFAULT_LIMIT_S)


def adopt(base_s: float) -> None:
    """Take over the limit of another process."""
    os.environ[LIMIT_VARIABLE] = f"{base_s:g}"


def limit_s(num_bytes: int) -> float:
    """Seconds that a file of this size may take: the base, scaled up by 4 s for each MB at the base of 120 s."""
    return base_limit_s() * (1 + num_bytes / 1e6 * S_PER_MB / DEFAULT_LIMIT_S)


def limit_with_reading_s() -> float:
    """Seconds for a file, or a few of them, from the first request on: pauses of the storage are waited for.

    Longer than reading takes to give up by itself, so that what it ends is a hang.
    """
    return base_limit_s() + 300 + 2 * outage.longest_s()


@contextmanager
def end_process_after(seconds: float) -> Iterator[None]:
    """End this process, with the stacks of its threads on stderr, unless the block is left in time.

    One limit counts at a time: an inner one replaces the outer one for good.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
