"""`ray job submit -- python jobs/pretrain.py` on a real head node with its job server, which wants a token."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from page_reader import CHROMIUM, drawn_page, screenshot
from pretrain_runs import ROOT, complete_steps, overrides
from ray._private.utils import get_num_cpus
from rclone_server import free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BIN = Path(sys.executable).parent
TOKEN = "1f" * 32
ENDLESS = {"schedule__epochs": 5000, "checkpoint__every_steps": 10000}


@pytest.fixture(scope="module")
def job_server() -> Iterator[dict[str, str]]:
    """A head node of its own, ended by its pid; yields the environment of a client."""
    temporary = tempfile.mkdtemp(prefix="dr", dir="/tmp")  # short: Ray puts sockets below it
    dashboard_port = free_port()
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
    token = Path(temporary, "token")
    token.write_text(TOKEN)
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    environment |= {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}  # at its end there is nothing left to wait for
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
        except urllib.error.HTTPError:  # it answers, and wants a token
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"{url} does not answer")


def submit(environment: dict[str, str], arguments: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    """As the README's `make submit`, which starts this from the repository's folder."""
    address = environment["RAY_API_SERVER_ADDRESS"]
    command = ["make", "-s", "submit", f"VENV={BIN.parent}", f"ADDRESS={address}", f"ARGS={shlex.join(arguments)}"]
    command += [f"SUBMIT_ARGS={shlex.join(options)}"] if options else []
    end = time.monotonic() + 60
    while True:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
        if "No available agent" not in done.stderr or time.monotonic() > end:  # the node's agent starts last
            return done
        time.sleep(1.0)


class Submitted(NamedTuple):
    arguments: list[str]
    folder: Path  # of the run
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def trained(job_server: dict[str, str], echo_manifest: str, tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    """The job `trained`, which has ended."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = overrides(echo_manifest, folder, schedule__max_steps=4)
    return Submitted(arguments, folder / "demo", submit(job_server, arguments, "--submission-id", "trained"))


def test_a_submitted_run_trains_and_leaves_its_encoder(job_server: dict[str, str], trained: Submitted) -> None:
    done = trained.done
    assert done.returncode == 0, done.stdout + done.stderr
    assert complete_steps(trained.folder) == [4, 2]
    assert (trained.folder / "encoder.safetensors").exists()
    assert "step 4/4" in done.stdout
    assert re.search(r"^cost     [\d.e-]+ CPU worker-hours, 16 clips", done.stdout, re.MULTILINE)
    with request(job_server, "/api/train/v2/runs/v1", TOKEN) as answer:  # state tracking is on
        assert [run["name"] for run in json.load(answer)["train_runs"]] == ["demo"]
    with request(job_server, "/api/jobs/trained", TOKEN) as answer:
        assert json.load(answer)["metadata"] == metadata(trained)


def metadata(trained: Submitted) -> dict[str, str]:
    """What `make submit` tells Ray."""
    return {"job_name": "demo", "run": str(trained.folder), "report": f"{trained.folder}/report.html"}


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on PATH")
def test_rays_page_of_a_job_shows_the_run_and_its_report(
    job_server: dict[str, str], trained: Submitted, tmp_path: Path
) -> None:
    with signed_in(job_server["RAY_API_SERVER_ADDRESS"]) as address:
        page = drawn_page(f"{address}/#/jobs/trained", tmp_path)
        pixels = screenshot(f"{address}/#/jobs/trained", tmp_path, 1500)
    assert (pixels.min(axis=-1) < 128).sum() > 1000, "there is dark text on the page"
    shown = html.unescape(re.sub(r"<[^>]*>", "", page))
    assert f"python jobs/pretrain.py {shlex.join(trained.arguments)}" in shown, "entrypoint"
    assert "SUCCEEDED" in shown
    assert "User-provided metadata" in shown
    for name, value in metadata(trained).items():
        assert f'"{name}": "{value}"' in shown, name


@contextmanager
def signed_in(dashboard: str) -> Iterator[str]:
    """An address that leads a browser to Ray's dashboard with the cookie that its question for the token leaves."""

    class Door(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Set-Cookie", f"ray-authentication-token={TOKEN}; Path=/; HttpOnly; SameSite=Strict")
            self.send_header("Location", dashboard)  # with the fragment that was asked for
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_refused_config_fails_the_job(job_server: dict[str, str], echo_manifest: str, tmp_path: Path) -> None:
    arguments = overrides(echo_manifest, tmp_path, engine__global_batch=7)
    done = submit(job_server, arguments, "--submission-id", "refused")
    assert done.returncode != 0
    assert "engine.global_batch = 7" in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
    with request(job_server, "/api/jobs/refused", TOKEN) as answer:  # the CLI says 1 for every failure
        assert json.load(answer)["driver_exit_code"] == 2


def request(environment: dict[str, str], path: str, token: str = "", data: bytes | None = None) -> Any:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    url = environment["RAY_API_SERVER_ADDRESS"] + path
    return urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30)


@pytest.mark.parametrize(("token", "code"), [("", 401), ("00" * 32, 403)])
def test_who_has_no_token_or_a_wrong_one_runs_nothing(
    job_server: dict[str, str], tmp_path: Path, token: str, code: int
) -> None:
    job = json.dumps({"entrypoint": f"touch {tmp_path}/ran"}).encode()
    with pytest.raises(urllib.error.HTTPError) as refused:
        request(job_server, "/api/jobs/", token, job)
    assert refused.value.code == code
    with pytest.raises(urllib.error.HTTPError) as refused:  # nor does he read logs and commands of others
        request(job_server, "/api/jobs/", token)
    assert refused.value.code == code
    client = {**job_server, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else job_server
    without = {name: value for name, value in client.items() if name != "RAY_AUTH_TOKEN_PATH"}
    done = submit({**without, "HOME": str(tmp_path)}, ["--help"])
    assert done.returncode != 0
    assert "token" in done.stdout + done.stderr
    assert not (tmp_path / "ran").exists()


def test_stop_saves_and_the_same_command_goes_on(
    job_server: dict[str, str], echo_manifest: str, tmp_path: Path
) -> None:
    arguments = overrides(echo_manifest, tmp_path, run__resume="true", **ENDLESS)
    done = submit(job_server, arguments, "--no-wait", "--submission-id", "first")
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = tmp_path / "demo" / "metrics.jsonl"
    end = time.monotonic() + 200
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 3):
        assert time.monotonic() < end, job("logs", job_server, "first")
        time.sleep(0.5)
    assert "RUNNING" in job("status", job_server, "first")
    assert complete_steps(tmp_path / "demo") == []
    assert "stopped" in job("stop", job_server, "first")
    (saved,) = complete_steps(tmp_path / "demo")
    assert saved > 3
    assert "continue with the same command" in job("logs", job_server, "first")
    assert "was stopped" in job("status", job_server, "first")

    done = submit(job_server, [*arguments, f"schedule.max_steps={saved + 2}"], "--submission-id", "second")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"starting at step {saved} of {saved + 2}" in done.stdout
    assert complete_steps(tmp_path / "demo")[0] == saved + 2


def job(verb: str, environment: dict[str, str], name: str) -> str:
    command = [str(BIN / "ray"), "job", verb, name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    return done.stdout + done.stderr


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
