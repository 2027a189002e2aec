"""Why worker groups fail, told by Ray Train's controller to the actor that outlives them (stop.StopFlag)."""

from __future__ import annotations

from typing import Any

import ray
from ray.train import UserCallback

CAUSE_CHARS = 600  # of one failure; Ray Train broadcasts a kilobyte to the workers
NODE_LOST = "its node has died"  # in Ray's message about a worker whose node is gone


class FailureReporter(UserCallback):
    """Runs in the controller. A lost or reclaimed node says nothing about the run, so it is not told."""

    def __init__(self, stop_flag: Any) -> None:
        self._stop_flag = stop_flag

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        causes = {rank: str(error).strip() for rank, error in sorted(worker_exceptions.items())}
        reclaimed = any(_is_preempted(error) for error in worker_exceptions.values())
        if reclaimed or any(NODE_LOST in cause for cause in causes.values()):
            return
        told = "; ".join(f"worker {rank}: {' '.join(cause.split())}" for rank, cause in causes.items())
        ray.get(self._stop_flag.failed.remote(told[:CAUSE_CHARS]))


def _is_preempted(error: Exception) -> bool:
    """Ray Train wraps what its health check met."""
    met = getattr(error, "health_check_failure", error)
    return bool(getattr(met, "preempted", False))
