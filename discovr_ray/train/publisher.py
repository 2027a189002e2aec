"""Growing files of a local folder, copied over and over to a storage that cannot append, behind the training's back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from discovr_ray.data import storage
from discovr_ray.errors import RunTakenError, StorageError

logger = logging.getLogger(__name__)


class Publisher:
    """One copy is on its way at a time; however often one is asked for meanwhile, one more follows."""

    def __init__(self, folder: Path, uri: str, check: Callable[[], None] = lambda: None) -> None:
        """`check` raises RunTakenError once nothing may be copied any more."""
        self._folder, self._uri, self._check = folder, uri, check
        self._asked = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="discovr-publish", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Have everything copied that is in the folder now; returns at once, in any thread."""
        self._asked.set()

    def close(self) -> None:
        """Copy a last time, and wait for it."""
        self._closed = True
        self._asked.set()
        self._thread.join()

    def _work(self) -> None:
        is_last = False
        while not is_last:
            self._asked.wait()
            self._asked.clear()
            is_last = self._closed  # looked at before the copy, which then has all that was written before `close`
            self._copy()

    def _copy(self) -> None:
        """A storage that fails is tried again next time."""
        try:
            self._check()
            for path in sorted(path for path in self._folder.rglob("*") if path.is_file()):
                storage.put_file(str(path), storage.join(self._uri, *path.relative_to(self._folder).parts))
        except (StorageError, RunTakenError) as error:
            logger.warning("the run's log could not be copied, training goes on: %s", error)
