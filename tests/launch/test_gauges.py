"""The metrics of a run on Ray's Prometheus page, fetched as a monitoring system would."""

from __future__ import annotations

import sys
import time
import urllib.request
from types import SimpleNamespace
from typing import Any

import pytest
import ray

pytestmark = pytest.mark.ray


class Worker:
    """Rank 0 at a logged step, without the training: the session's own `record`."""

    def record(self, values: dict[str, float]) -> None:
        from discovr_ray.launch.session import Session

        self.session: Any = Session.__new__(Session)
        self.session._config = SimpleNamespace(run=SimpleNamespace(name="gauges"))
        self.session._gauges = {}
        self.session._log = SimpleNamespace(metrics=lambda values: None)
        self.session.record({name: value + 1 for name, value in values.items()})
        self.session.record(values)


def metrics_page() -> str:
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def test_values_of_the_last_logged_step_are_on_the_page(ray_cluster: None) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    worker = ray.remote(num_cpus=0)(Worker).remote()
    ray.get(worker.record.remote({"loss": 2.5, "data_wait_share": 0.0}))
    end = time.monotonic() + 90  # processes report every ten seconds
    while True:
        lines = [line for line in metrics_page().splitlines() if 'run="gauges"' in line]
        if len(lines) >= 2 or time.monotonic() > end:
            break
        time.sleep(1.0)
    assert {line.split("{")[0]: float(line.split()[-1]) for line in lines} == {
        "ray_discovr_loss": 2.5,
        "ray_discovr_data_wait_share": 0.0,
    }
