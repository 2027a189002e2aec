"""Why worker groups fail, told by Ray Train's controller to the actor that outlives them (stop.StopFlag).

The next group asks it whether going on makes sense.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import ray
import ray.train
from ray.train import UserCallback
from ray.train.collective import broadcast_from_rank_zero

from discovr_ray.errors import CrashLoopError, StorageError
from discovr_ray.train import checkpoint

logger = logging.getLogger(__name__)

CAUSE_CHARS = 600  # of one failure; Ray Train broadcasts a kilobyte to the workers
NODE_LOST = "its node has died"  # in Ray's message about a worker whose node is gone


class FailureReporter(UserCallback):
    """Runs in the controller. A lost or reclaimed node says nothing about the run, so its cause is not told.

    Other workers of the group often fail first, in a collective; StopFlag finds out that a node of theirs is gone.
    """

    def __init__(self, stop_flag: Any, allowed: int) -> None:
        """`allowed` is `run.max_failures_per_step`."""
        self._stop_flag, self._allowed = stop_flag, allowed

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Errors: CrashLoopError: see `tell`; Ray Train then ends the run with a ControllerError that holds it."""
        if any(_is_preempted(error) for error in worker_exceptions.values()):
            return  # Ray Train has another budget for these, too
        causes = {rank: str(_met(error)).strip() for rank, error in sorted(worker_exceptions.items())}
        tell(self._stop_flag, self._allowed, "; ".join(f"worker {rank}: {cause}" for rank, cause in causes.items()))


def tell(stop_flag: Any, allowed: int, cause: str) -> None:
    """Have the failure of a worker group counted.

    Errors:
        CrashLoopError: more than `allowed` groups in a row failed before one had begun, so that none of them could
            look at the count itself.
    """
    told = "" if NODE_LOST in cause else _shortened(cause)
    never_began = ray.get(stop_flag.failed.remote(told))
    if len(never_began) > allowed:
        raise CrashLoopError(
            f"{len(never_began)} worker groups in a row could not start, and run.max_failures_per_step = {allowed}; "
            f"the last one: {never_began[-1]}"
        )


def _shortened(cause: str) -> str:
    """On one line, without colours; of a long one its begin and its end, which says most."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", cause).split())
    half = CAUSE_CHARS // 2
    return text if len(text) <= CAUSE_CHARS else f"{text[: half - 5]} ... {text[-half:]}"


def _is_preempted(error: Exception) -> bool:
    return bool(getattr(_met(error), "preempted", False))


def _met(error: Exception) -> Exception:
    """Ray Train wraps what its health check met."""
    return getattr(error, "health_check_failure", error)


def refuse_crash_loop(allowed: int, run_uri: str, stop_flag: Any) -> None:
    """Comes first on a worker, which can also die while it builds its model. Every rank must call it.

    Args:
        allowed: `run.max_failures_per_step`.

    Errors:
        CrashLoopError: too many worker groups before this one failed since the newest checkpoint; on every rank.
    """
    problem = ""
    if ray.train.get_context().get_world_rank() == 0:
        step = _newest_step(run_uri)
        alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        causes = ray.get(stop_flag.started.remote(step, alive))
        if len(causes) > allowed:
            since = "the newest checkpoint" if step is None else f"step {step}, the newest checkpoint"
            problem = (
                f"{len(causes)} worker groups failed since {since}, and "
                f"run.max_failures_per_step = {allowed}; the last one: {causes[-1]}"
            )
    if problem := broadcast_from_rank_zero(problem):
        raise CrashLoopError(problem)
    ray.get(stop_flag.joined.remote(ray.get_runtime_context().get_node_id()))


def _newest_step(run_uri: str) -> int | None:
    """Of the newest checkpoint, sound or not; 0: there is none; None: the storage fails, which must be counted, too."""
    try:
        newest = next(iter(checkpoint.sealed(run_uri)), checkpoint.folder_name(0))
    except StorageError as error:
        logger.warning("%s", error)
        return None
    return checkpoint.step_of(newest)
