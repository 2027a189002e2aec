"""How far a long job is, as a log line every few seconds."""

from __future__ import annotations

import logging
import time

logger = logging.getLogger(__name__)

EVERY_S = 5.0


class Progress:
    """`text` takes how many are done and how many there are, such as "looked at %d of %d files"."""

    def __init__(self, text: str, total: int) -> None:
        self._text = text
        self._total = total
        self._start = self._shown = time.monotonic()

    def leave_out(self, number: int) -> None:
        """So many are there already: they are none of those that take time."""
        self._total -= number

    def show(self, done: int, last: bool = False) -> None:
        now = time.monotonic()
        if not last and now - self._shown < EVERY_S:
            return
        self._shown = now
        rate = done / max(now - self._start, 1e-6)
        left = f", about {(self._total - done) / rate:.0f} s left" if 0 < done < self._total else ""
        logger.info(f"{self._text}, %.1f/s%s", done, self._total, rate, left)
