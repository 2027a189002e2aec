"""The queries of cluster/grafana/'s panels, asked of a real Prometheus that reads a real Ray's metrics."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import yaml
from cluster_files import FOLDER
from logging_worker import start_logging_worker
from rclone_server import free_port

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs the server (Debian: prometheus)"),
]

PANELS = json.loads((FOLDER / "grafana" / "dashboards" / "discovr.json").read_text())["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel.get("targets", [])]
OURS = [expression for expression in QUERIES if "ray_discovr_" in expression]
FIGURES = sorted({expression.split("ray_discovr_")[1].split("{")[0] for expression in OURS})
OF_GPUS = [expression for expression in QUERIES if "GpuIndex" in expression]  # a machine without one has no series


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


def ask(server: str, expression: str) -> list[float]:
    """Values of the series that Prometheus answers with now."""
    query = urllib.parse.urlencode({"query": expression.replace("$run", "panels")})
    try:
        with urllib.request.urlopen(f"{server}/api/v1/query?{query}", timeout=10) as answer:
            return [float(series["value"][1]) for series in json.load(answer)["data"]["result"]]
    except OSError:  # it has not begun to listen
        return []


def test_every_panel_has_a_series(prometheus: str) -> None:
    values = {name: float(number + 1) for number, name in enumerate(FIGURES)}
    worker = start_logging_worker("panels")
    ray.get(worker.record.remote(values))
    end = time.monotonic() + 90  # processes report every ten seconds
    queries = [expression for expression in QUERIES if expression not in OF_GPUS]
    while missing := [expression for expression in queries if not ask(prometheus, expression)]:
        assert time.monotonic() < end, missing
        time.sleep(0.5)
    for expression in OURS:
        (name,) = [name for name in FIGURES if f"ray_discovr_{name}{{" in expression]
        assert ask(prometheus, expression) == [values[name]], expression
