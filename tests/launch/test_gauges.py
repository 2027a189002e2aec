"""The metrics of a run on Ray's Prometheus page, fetched as a monitoring system would."""

from __future__ import annotations

import time
import urllib.request

import pytest
import ray
from logging_worker import start_logging_worker

pytestmark = pytest.mark.ray


def metrics_page() -> str:
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def test_values_of_the_last_logged_step_are_on_the_page(ray_cluster: None) -> None:
    worker = start_logging_worker("gauges")
    for values in ({"loss": 3.5, "data_wait_share": 1.0}, {"loss": 2.5, "data_wait_share": 0.0}):
        ray.get(worker.record.remote(values))
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
