"""The queries of cluster/grafana/'s panels, asked of a real Prometheus that reads a real Ray's metrics."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from cluster_files import FOLDER
from rclone_server import free_port

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs the server (Debian: prometheus)"),
]

PANELS = json.loads((FOLDER / "grafana" / "dashboards" / "discovr.json").read_text())["panels"]
OURS = [target["expr"] for panel in PANELS for target in panel.get("targets", []) if "ray_discovr_" in target["expr"]]
FIGURES = sorted({expression.split("ray_discovr_")[1].split("{")[0] for expression in OURS})
OF_THE_NODE = [
    "avg by (instance) (ray_node_cpu_utilization)",
    "sum by (instance) (ray_node_mem_used)",
    "sum by (Location) (ray_object_store_memory)",
    'sum(up{job="ray"})',
]  # all that a machine without a GPU has


@pytest.fixture
def prometheus(ray_cluster: None, tmp_path: Path) -> Iterator[str]:
    """Address of a server with the settings of cluster/prometheus/, but for the place of the metrics and its haste."""
    (node,) = ray.nodes()
    settings = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yml").read_text())
    (job,) = settings["scrape_configs"]
    job["static_configs"] = [{"targets": [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"]}]
    del job["file_sd_configs"]  # Ray's dashboard writes that file, which the session's cluster does without
    settings["global"] = {"scrape_interval": "1s"}
    settings["rule_files"] = [str(FOLDER / "prometheus" / name) for name in settings["rule_files"]]
    config, port = tmp_path / "prometheus.yml", free_port()
    config.write_text(yaml.safe_dump(settings))
    places = [f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/data"]
    server = subprocess.Popen(
        ["prometheus", *places, f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"], cwd=tmp_path
    )
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait(30)


class Worker:
    """A worker that has logged a step of the run `panels`, as `Session.record` does it."""

    def record(self, values: dict[str, float]) -> None:
        from types import SimpleNamespace

        from discovr_ray.launch.session import Session

        self.session: Any = Session.__new__(Session)
        self.session._config = SimpleNamespace(run=SimpleNamespace(name="panels"))
        self.session._gauges = {}
        self.session._log = SimpleNamespace(metrics=lambda values: None)
        self.session.record(values)


def ask(server: str, expression: str) -> list[float]:
    """Values of the series that Prometheus answers with now."""
    query = urllib.parse.urlencode({"query": expression.replace("$run", "panels")})
    try:
        with urllib.request.urlopen(f"{server}/api/v1/query?{query}", timeout=10) as answer:
            return [float(series["value"][1]) for series in json.load(answer)["data"]["result"]]
    except OSError:  # it has not begun to listen
        return []


def test_every_panel_has_a_series(prometheus: str) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    values = {name: float(number + 1) for number, name in enumerate(FIGURES)}
    worker = ray.remote(num_cpus=0)(Worker).remote()
    ray.get(worker.record.remote(values))
    end = time.monotonic() + 90  # processes report every ten seconds
    queries = [*OURS, *OF_THE_NODE]
    while missing := [expression for expression in queries if not ask(prometheus, expression)]:
        assert time.monotonic() < end, missing
        time.sleep(0.5)
    for expression in OURS:
        (name,) = [name for name in FIGURES if f"ray_discovr_{name}{{" in expression]
        assert ask(prometheus, expression) == [values[name]], expression
