"""`ray job submit -- python jobs/pretrain.py` on a real head node with its job server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from pretrain_runs import ROOT, complete_steps, overrides
from ray._private.utils import get_num_cpus

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def job_server() -> Iterator[dict[str, str]]:
    """A head node of its own, ended by its pid; yields the environment of a client."""
    temporary = tempfile.mkdtemp(prefix="dr", dir="/tmp")  # short: Ray puts sockets below it
    dashboard_port = free_port()
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
    command = [
        str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=3", f"--port={free_port()}",
        "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}",
        f"--ray-client-server-port={free_port()}", "--object-store-memory=500000000", "--disable-usage-stats",
        f"--temp-dir={temporary}/ray", f"--dashboard-agent-listen-port={free_port()}",  # default: taken
    ]  # fmt: skip
    head = subprocess.Popen(
        command, env=environment, cwd=temporary, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{dashboard_port}"
    try:
        wait_until_up(f"{address}/api/version", head)
        yield {**environment, "RAY_API_SERVER_ADDRESS": address, "RAY_TMPDIR": temporary}
    finally:
        head.terminate()
        try:
            head.wait(30)
        except subprocess.TimeoutExpired:
            head.kill()
        shutil.rmtree(temporary, ignore_errors=True)


def wait_until_up(url: str, head: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert head.poll() is None, "ray start ended"
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"{url} does not answer")


def submit(environment: dict[str, str], arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = ["ray", "job", "submit", "--working-dir", str(ROOT), "--", "python", "jobs/pretrain.py", *arguments]
    end = time.monotonic() + 60
    while True:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
        if "No available agent" not in done.stderr or time.monotonic() > end:  # the node's agent starts last
            return done
        time.sleep(1.0)


def test_a_submitted_run_trains_and_leaves_its_encoder(
    job_server: dict[str, str], echo_manifest: str, tmp_path: Path
) -> None:
    done = submit(job_server, overrides(echo_manifest, tmp_path, schedule__max_steps=4))
    assert done.returncode == 0, done.stdout + done.stderr
    assert complete_steps(tmp_path / "demo") == [4, 2]
    assert (tmp_path / "demo" / "encoder.safetensors").exists()
    assert "step 4/4" in done.stdout


def test_a_refused_config_fails_the_job(job_server: dict[str, str], echo_manifest: str, tmp_path: Path) -> None:
    done = submit(job_server, overrides(echo_manifest, tmp_path, engine__global_batch=7))
    assert done.returncode != 0
    assert "engine.global_batch = 7" in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


def wait_for_file(path: Path) -> None:
    """`ray start` leaves its address there, as the last thing."""
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"no {path}: {list(path.parent.iterdir())}"
        time.sleep(0.2)


OWN_RAY = """
import logging, ray
from discovr_ray.launch.ray_session import ray_session
ray.init(logging_level=logging.WARNING)  # without an address, Ray follows what `ray start` left running
print(ray.get_runtime_context().gcs_address, ray.cluster_resources()["CPU"])
ray.shutdown()
with ray_session():
    print(ray.get_runtime_context().gcs_address, ray.cluster_resources()["CPU"])
"""


def test_a_ray_that_runs_on_the_machine_is_left_alone(job_server: dict[str, str]) -> None:
    wait_for_file(Path(job_server["RAY_TMPDIR"]) / "ray" / "ray_current_cluster")
    done = subprocess.run([sys.executable, "-c", OWN_RAY], env=job_server, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    (followed, its_cpus), (own, own_cpus) = (line.split() for line in done.stdout.splitlines()[-2:])
    assert its_cpus == "3.0"  # the fixture's --num-cpus
    assert own != followed
    assert float(own_cpus) == get_num_cpus()
