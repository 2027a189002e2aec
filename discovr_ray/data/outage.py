"""Reading a file through a pause of its storage: a server that restarts must not count as thousands of bad clips."""

from __future__ import annotations

import logging
import time

from discovr_ray.data import storage
from discovr_ray.errors import MissingFileError, StorageError

logger = logging.getLogger(__name__)

# two minutes: a storage server restarts or fails over within one, and the stream waits for fifteen
PAUSES_S: tuple[float, ...] = (1, 2, 4, 8, 15, 30, 60)


def read_through_outage(uri: str, offset: int | None = None, num_bytes: int = 0) -> bytes:
    """A whole file, or `num_bytes` of it from `offset` on; asked again after each of PAUSES_S while nobody answers.

    Errors:
        MissingFileError: at once, when this file alone is at fault.
        StorageError: the last answer, when all attempts failed.
    """
    for number, pause_s in enumerate(PAUSES_S):
        try:
            return _read(uri, offset, num_bytes)
        except MissingFileError:
            raise
        except StorageError as error:
            if number == 0:
                logger.warning("%s; asking again for up to %g s", error, sum(PAUSES_S))
            time.sleep(pause_s)
    try:
        return _read(uri, offset, num_bytes)
    except MissingFileError:
        raise
    except StorageError as error:
        raise StorageError(f"{error} ({len(PAUSES_S) + 1} attempts within {sum(PAUSES_S):g} s or more)") from error


def _read(uri: str, offset: int | None, num_bytes: int) -> bytes:
    return storage.read_bytes(uri) if offset is None else storage.read_range(uri, offset, num_bytes)
