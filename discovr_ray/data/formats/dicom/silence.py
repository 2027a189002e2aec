"""pydicom with its mouth shut: its warnings, log lines and exceptions quote what stands in a file, names included."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from discovr_ray.errors import ClipError


@contextmanager
def unquoted(doing: str) -> Iterator[None]:
    """Around every use of pydicom. What it raises becomes a ClipError that tells no more than the kind of error."""
    _silence()
    try:
        yield
    except ClipError:
        raise
    except Exception as error:  # a parser of foreign bytes raises anything, and every message may quote them
        raise ClipError(f"{doing}: {type(error).__name__}") from None


@lru_cache(maxsize=1)
def _silence() -> None:
    """For the whole process: frames are decoded in threads, so nothing here may be switched back in between."""
    from pydicom import config

    config.settings.reading_validation_mode = config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
