"""What a run has cost: hours of its workers, through all restarts, and what a million clips came to."""

from __future__ import annotations

import json
import logging
import time
import uuid
from typing import NamedTuple

from discovr_ray.data import storage
from discovr_ray.errors import StorageError

logger = logging.getLogger(__name__)

FOLDER = "usage"


class Usage:
    """Rank 0's account of one worker group: a small file of its own, written anew at every checkpoint and at the end.

    A group that dies has told of its time up to the last checkpoint.
    """

    def __init__(self, run_uri: str, workers: int, use_gpu: bool) -> None:
        self._uri = storage.join(run_uri, FOLDER, f"{uuid.uuid4().hex}.json")
        self._workers = workers
        self._use_gpu = use_gpu
        self._started = time.monotonic()

    def write(self) -> None:
        """A storage that fails is a warning: the account is not worth the run."""
        seconds = time.monotonic() - self._started
        record = {"workers": self._workers, "use_gpu": self._use_gpu, "seconds": round(seconds, 1)}
        try:
            storage.write_bytes(self._uri, json.dumps(record).encode())
        except StorageError as error:
            logger.warning("the hours of the workers are not written down: %s", error)


class Cost(NamedTuple):
    worker_hours: float
    use_gpu: bool
    clips: int  # that the run has trained on, each as often as it came
    price_per_hour: float  # of one worker; 0: unknown

    def __str__(self) -> str:
        kind = "GPU" if self.use_gpu else "CPU worker"
        per_million = self.worker_hours / max(1, self.clips) * 1e6
        text = f"{self.worker_hours:.3g} {kind}-hours, {self.clips:,} clips, {per_million:.3g} hours a million clips"
        if not self.price_per_hour:
            return text
        return (
            f"{text}; at {self.price_per_hour:g} an hour {self.worker_hours * self.price_per_hour:.3g}, "
            f"{per_million * self.price_per_hour:.3g} a million clips"
        )


def cost_of_run(run_uri: str, clips: int, price_per_hour: float) -> Cost:
    """The sum over all worker groups that have written down their time.

    Errors:
        StorageError: the files cannot be read.
    """
    names = storage.list_sizes(storage.join(run_uri, FOLDER))
    records = [json.loads(storage.read_bytes(storage.join(run_uri, FOLDER, name))) for name in names]
    hours = sum(record["workers"] * record["seconds"] for record in records) / 3600
    return Cost(hours, any(record["use_gpu"] for record in records), clips, price_per_hour)
