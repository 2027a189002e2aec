"""One JSON line for each event on a worker, in Ray's folder of logs, where log shippers of clusters look.

Lines hold run, rank, node, step and clip ids. They hold no path, patient, label or pixel: messages of this package name
clips by id, and buckets in place of paths.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:
    from discovr_ray.data.stream import MicroBatch

MAX_BYTES = 32 * 2**20  # of a file; the one before it stays, too
FIELDS = ("clip_ids", "bad_clips")


class RankLog:
    """Takes what the package logs in this process, and which clips a step has. Close it."""

    def __init__(self, folder: Path, run: str, rank: int, every_steps: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"discovr_{run}_rank_{rank:05d}.jsonl"
        self._format = _JsonLines({"run": run, "rank": rank, "node": ray.get_runtime_context().get_node_id()})
        self._handler = RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=1)
        self._handler.setFormatter(self._format)
        logging.getLogger("discovr_ray").addHandler(self._handler)
        self._every_steps = every_steps

    def clips(self, batches: Sequence[MicroBatch]) -> None:
        """A step's clips of this rank, every so many steps; clips that failed always."""
        step = batches[0].step + 1  # steps count from 1 in logs
        self._format.step = step
        bad = {failure.clip_id: failure.reason for batch in batches for failure in batch.failures}
        if bad or step % self._every_steps == 0:
            record = logging.LogRecord(__name__, logging.INFO, __file__, 0, "clips of the step", None, None)
            record.clip_ids = [clip_id for batch in batches for clip_id in batch.clip_ids]
            record.bad_clips = bad
            self._handler.handle(record)

    def close(self) -> None:
        logging.getLogger("discovr_ray").removeHandler(self._handler)
        self._handler.close()


class _JsonLines(logging.Formatter):
    def __init__(self, context: dict[str, Any]) -> None:
        super().__init__()
        self._context = context
        self.step = 0

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {"time": f"{when}.{int(record.msecs):03d}Z", "level": record.levelname}
        line |= self._context | {"step": self.step, "message": record.getMessage()}
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        return json.dumps(line)


def session_logs() -> Path:
    """Ray's folder of logs on this node."""
    return Path(ray._private.worker._global_node.get_logs_dir_path())
