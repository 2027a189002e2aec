"""A worker that has logged steps of a run, without the training."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import ray


class LoggingWorker:
    """Rank 0 of a run: the session's own `record`."""

    def __init__(self, run: str) -> None:
        from discovr_ray.launch.session import Session

        self._session: Any = Session.__new__(Session)
        self._session._config = SimpleNamespace(run=SimpleNamespace(name=run))
        self._session._gauges = {}
        self._session._log = SimpleNamespace(metrics=lambda values: None)

    def record(self, values: dict[str, float]) -> None:
        self._session.record(values)


def start_logging_worker(run: str) -> Any:
    """An actor of the session's Ray; its metrics last as long as somebody holds it."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return ray.remote(num_cpus=0)(LoggingWorker).remote(run)
