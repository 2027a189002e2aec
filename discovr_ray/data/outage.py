"""Reading a file through a pause of its storage: a server that restarts must not count as thousands of bad clips.

And the reverse: one file that nobody can read must not count as a storage that is gone. What tells them apart is the
last file of the same storage that could be read: as long as that one still answers, the other is at fault itself.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator

from discovr_ray.data import storage
from discovr_ray.errors import MissingFileError, StorageError

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
ROUNDS_ALONE = 3  # failures of one file while another one can be read, after 1 and 2 s; each has its own attempts

FRAME_MARK = b" in _through_outage\n"  # in the stacks of a process that is ended while it reads

_readable: dict[str, str] = {}  # storage -> a file that this process could read there


def read_through_outage(uri: str) -> bytes:
    """A whole file as storage.read_bytes gives it; asked for again for storage.outage_patience_s while nobody answers.

    Errors:
        MissingFileError: this file alone is at fault; at once, or when others can be read after ROUNDS_ALONE.
        StorageError: the last answer, when all attempts failed.
    """
    return _through_outage(uri, lambda: storage.read_bytes(uri))


def read_part_through_outage(uri: str, offset: int | None, num_bytes: int) -> bytes:
    """`num_bytes` of a file from `offset` on, or all of it (None), as they came: for callers that know their hash.

    Errors: as of read_through_outage.
    """
    if offset is None:
        return _through_outage(uri, lambda: storage.read_once(uri))
    return _through_outage(uri, lambda: storage.read_range(uri, offset, num_bytes))


def longest_s() -> float:
    """Seconds that the functions above may take where every request waits for as long as the settings let it."""
    config = storage.settings()
    rounds = len(list(_pauses(config.outage_patience_s)))
    return config.outage_patience_s + rounds * storage.longest_read_s()


def without_path(error: Exception, uri: str) -> str:
    """The message for logs and tables of reasons: a file's name may be a patient's."""
    return str(error).replace(uri, f"a file in {_place(uri)}")


def _through_outage(uri: str, read: Callable[[], bytes]) -> bytes:
    patience_s = storage.settings().outage_patience_s
    rounds = 0
    for pause_s in _pauses(patience_s):
        try:
            content = read()
        except MissingFileError:
            raise
        except StorageError as error:
            rounds += 1
            failure = error
        else:
            if content:  # of an empty file there is no byte to ask for later
                _readable[_place(uri)] = uri
            return content
        if rounds >= ROUNDS_ALONE and _another_answers(uri):
            alone = f"{failure} (rounds of attempts: {rounds}, while other files can be read)"
            raise MissingFileError(alone) from failure
        if rounds == 1 and pause_s:
            logger.warning("%s; asking again for up to %g s", without_path(failure, uri), patience_s)
        time.sleep(pause_s)
    raise StorageError(f"{failure} (rounds of attempts: {rounds}, within {patience_s:g} s or more)") from failure


def _pauses(patience_s: float) -> Iterator[float]:
    """Seconds to wait after each failed round: 1, 2, 4, ..., the last one cut; then 0, after which nothing follows."""
    left_s, pause_s = patience_s, FIRST_PAUSE_S
    while left_s > 0:
        yield min(pause_s, left_s)
        left_s, pause_s = left_s - pause_s, 2 * pause_s
    yield 0.0


def _place(uri: str) -> str:
    """What stands or falls together: a bucket, or a disk of this machine."""
    if storage.is_remote(uri):
        return "/".join(uri.split("/", 3)[:3])
    try:
        return f"device {os.stat(storage.absolute(uri)).st_dev}"
    except OSError:
        return "no device"


def _another_answers(uri: str) -> bool:
    """Whether a file that could be read before still can be."""
    other = _readable.get(_place(uri))
    if other is None or other == uri:
        return False
    try:
        storage.read_range(other, 0, 1)
    except StorageError:
        return False
    return True
