"""Ray Train under supervision: what ends it without being a reason to end the run starts it again.

Ray Train itself restarts a worker group of which workers fail. It ends, and another one goes on from the newest
checkpoint, when
- the workers have left together after a checkpoint, because a node of theirs is about to be taken away;
- its controller met an error, which is what a worker or node lost while a group starts is to it, or died;
- there was no room for the group for a while.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import ray
import ray.train
from ray.exceptions import RayActorError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

from discovr_ray.config import Config, RunConfig
from discovr_ray.data import storage
from discovr_ray.errors import CrashLoopError, DiscovrError
from discovr_ray.launch.failures import FailureReporter, tell
from discovr_ray.launch.session import WorkerResult, WorkerTask
from discovr_ray.launch.worker import run_worker

logger = logging.getLogger(__name__)

# An elastic group's size comes from what Ray's AutoscalingCoordinator saw up to 20 s ago. When that was too much, as
# after a node was lost, waiting longer for the room does not bring it; the next look does.
ELASTIC_START_TIMEOUT_S = 20
START_TIMEOUT_VARIABLE = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
# Past the deadline of a node that is taken away: it rarely goes on the second, and a save may be on its way
PREEMPTION_GRACE_S = 30.0


class TrainingFailedError(DiscovrError):
    """The workers failed more often than `run.max_failures`; the message holds the last causes."""


class Supervisor:
    """Runs in the driver, in a thread beside the one that takes signals."""

    def __init__(self, config: Config, task: WorkerTask, stop_asked: Callable[[], bool]) -> None:
        self._config, self._task, self._stop_asked = config, task, stop_asked

    def run(self) -> WorkerResult:
        """Train until the run ends; what the workers made of it.

        Errors:
            CrashLoopError: more than `run.max_failures_per_step` groups in a row could not start.
            TrainingFailedError: more than `run.max_failures` groups failed.
        """
        while True:
            try:
                result = self._fit()
            except (ray.train.ControllerError, RayActorError) as error:
                self._judge(getattr(error, "controller_failure", error))
            except ray.train.TrainingFailedError as error:
                raise TrainingFailedError(_causes(error)) from error
            else:
                if not result.leaves or self._stop_asked():
                    return result
                logger.warning("going on from step %d without the node that is about to be taken away", result.steps)

    def _fit(self) -> WorkerResult:
        limit = self._config.run.max_failures
        left = limit if limit == -1 else max(0, limit - self._num_failed())
        os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")  # the run's state on Ray's dashboard and its API
        result = _trainer(self._config, self._task, left).fit().return_value
        assert isinstance(result, WorkerResult)
        return result

    def _judge(self, failure: BaseException) -> None:
        """Raise if this failure of the controller ends the run."""
        run = self._config.run
        if isinstance(failure, CrashLoopError):
            raise failure
        if isinstance(failure, WorkerGroupStartupTimeoutError):
            logger.warning("waiting: the cluster has no room for %d workers", failure.num_workers)
            return
        cause = f"{type(failure).__name__}: {failure}"
        logger.warning("a worker group could not start: %s", cause)
        tell(self._task.stop_flag, run.max_failures_per_step, cause)
        if 0 <= run.max_failures < self._num_failed():
            raise TrainingFailedError(cause)

    def _num_failed(self) -> int:
        return int(ray.get(self._task.stop_flag.num_failed.remote()))


def _trainer(config: Config, task: WorkerTask, max_failures: int) -> TorchTrainer:
    run = config.run
    filesystem, path = storage.arrow_filesystem(run.storage_path)
    if run.min_workers < run.max_workers:
        os.environ.setdefault(START_TIMEOUT_VARIABLE, str(ELASTIC_START_TIMEOUT_S))
    return TorchTrainer(
        run_worker_on_ray,
        train_loop_config={"task": task},
        torch_config=TorchConfig(backend="nccl" if run.use_gpu else "gloo"),
        scaling_config=scaling(run),
        run_config=ray.train.RunConfig(
            name=run.name,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(
                max_failures=max_failures,
                controller_failure_limit=0,  # Supervisor tells them apart
                max_preemption_failures=-1,  # a node that was taken before the group could leave it
                preemption_grace_s=PREEMPTION_GRACE_S,
            ),
            callbacks=[FailureReporter(task.stop_flag, run.max_failures_per_step)],
            worker_runtime_env={"env_vars": worker_variables(config)},
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),  # it repeats every checkpoint on every worker
        ),
    )


def scaling(run: RunConfig) -> ray.train.ScalingConfig:
    """How many workers, and what each of them takes."""
    return ray.train.ScalingConfig(
        num_workers=run.workers,
        use_gpu=run.use_gpu,
        resources_per_worker={"CPU": run.cpus_per_worker} | ({"GPU": run.gpus_per_worker} if run.use_gpu else {}),
        label_selector=run.worker_node_labels or None,
        elastic_resize_monitor_interval_s=run.resize_interval_s,
    )


def worker_variables(config: Config) -> dict[str, str]:
    """Of the workers' environment; no credentials, for Ray logs them."""
    return {} if config.run.use_gpu else {"DS_ACCELERATOR": "cpu"}


def run_worker_on_ray(loop_config: dict[str, WorkerTask]) -> WorkerResult:
    """Ray hands the train function one dict."""
    return run_worker(loop_config["task"])


def _causes(error: Exception) -> str:
    failures = getattr(error, "worker_failures", {})
    causes = [f"worker {rank}: {cause}" for rank, cause in sorted(failures.items())]
    return "\n".join(causes) or str(error)
