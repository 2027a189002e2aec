"""A pretraining run on a cluster that grows from no worker node to two, replaces one that dies, and shrinks to none.

Ray's autoscaler; nodes are processes of this machine (reclaimed_nodes.py).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from pretrain_runs import Job, complete_steps, overrides
from rclone_server import free_port

from discovr_ray.train import checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.chaos]

CONFIG: dict[str, Any] = {
    "cluster_name": "growing",
    "max_workers": 2,
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 0.2,
    "provider": {
        "type": "external",
        "module": "reclaimed_nodes.ReclaimedNodes",
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "use_node_id_as_ip": True,  # all nodes have one address, and a dead one must be told from the others
    },
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 3}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "head_node_type": "ray.head.default",
    "auth": {},
    "docker": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
}
LONG = {
    "run__workers": 2,
    "run__cpus_per_worker": 2,  # one on each node, which leaves one CPU for decoding
    "run__threads_per_worker": 1,
    "run__autoscaling": "true",
    "schedule__epochs": 5000,
    "checkpoint__every_steps": 5,
    "checkpoint__keep": 1000,
}


class Growing:
    """The cluster: an address, and the raylets of its worker nodes."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        config = {**CONFIG, "provider": {**CONFIG["provider"], "gcs_address": self.address}}
        Path(folder, "autoscaling.json").write_text(json.dumps(config))
        command = [
            str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=0",
            "--node-ip-address=127.0.0.1", f"--autoscaling-config={folder}/autoscaling.json", "--disable-usage-stats",
            f"--temp-dir={folder}/ray", f"--dashboard-port={free_port()}", f"--ray-client-server-port={free_port()}",
            f"--dashboard-agent-listen-port={free_port()}", "--object-store-memory=300000000",
        ]  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "0"}
        environment |= {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}  # at its end there is nothing left to wait for
        paths = (str(Path(__file__).parent), environment.get("PYTHONPATH", ""))
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        with Path(folder, "head.log").open("w") as log:
            self._head = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT)

    def worker_nodes(self) -> list[psutil.Process]:
        """Their raylets."""
        return [
            process for process, words in self._processes() if words[0].endswith("/raylet") and "--head" not in words
        ]

    def autoscaler_log(self) -> str:
        """The end of what the autoscaler says it does."""
        return Path(self.folder, "ray/session_latest/logs/monitor.log").read_text()[-6000:]

    def end(self) -> None:
        self._head.terminate()
        try:
            self._head.wait(30)
        except subprocess.TimeoutExpired:
            self._head.kill()
        for process, _ in self._processes():  # nodes that the autoscaler started belong to nobody now
            process.kill()

    def _processes(self) -> list[tuple[psutil.Process, list[str]]]:
        """Those that live, with their command lines."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):  # it has ended meanwhile
                words = process.cmdline()
                if any(self.folder in word for word in words):
                    found.append((process, words))
        return found


@pytest.fixture
def growing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Growing]:
    folder = tempfile.mkdtemp(prefix="dr", dir="/tmp")  # short, since Ray puts sockets below it
    monkeypatch.setenv("RAY_TMPDIR", folder)
    cluster = Growing(folder)
    yield cluster
    cluster.end()
    shutil.rmtree(folder, ignore_errors=True)


def wait_for(condition: Callable[[], bool], timeout_s: float, told: Callable[[], object]) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, told()
        time.sleep(0.5)


def steps_of_two_workers(run: Path) -> list[int]:
    """Steps of the complete checkpoints that two workers wrote, newest first."""
    found = checkpoint.find_checkpoints(str(run))
    return [item.state.step for item in found if item.state.world_size == 2]


@pytest.mark.timeout(900)
def test_nodes_come_for_the_run_are_replaced_and_go(growing: Growing, echo_manifest: str, tmp_path: Path) -> None:
    run = tmp_path / "demo"
    gcs_port = int(growing.address.rpartition(":")[2])
    wait_for(lambda: _listens(gcs_port), 90, Path(growing.folder, "head.log").read_text)
    assert growing.worker_nodes() == []
    environment = {"RAY_ADDRESS": growing.address, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300"}
    job = Job(overrides(echo_manifest, tmp_path, **LONG), tmp_path / "job.log", **environment)
    job.wait_for(lambda: bool(steps_of_two_workers(run)), timeout_s=300)
    assert "waiting for the cluster to grow" in job.output()
    first = {process.pid for process in growing.worker_nodes()}
    assert len(first) == 2

    growing.worker_nodes()[0].kill()
    job.wait_for(lambda: len({item.pid for item in growing.worker_nodes()} | first) == 3, timeout_s=200)
    newest = steps_of_two_workers(run)[0]
    job.wait_for(lambda: steps_of_two_workers(run)[0] > newest + 10, timeout_s=300)

    job.send(signal.SIGTERM)
    assert job.wait() == 128 + signal.SIGTERM, job.output()
    assert complete_steps(run)[0] >= newest
    wait_for(lambda: growing.worker_nodes() == [], 240, growing.autoscaler_log)


def _listens(port: int) -> bool:
    return any(item.laddr.port == port for item in psutil.net_connections("tcp") if item.status == "LISTEN")
