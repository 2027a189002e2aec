"""A real S3 server on loopback, which checks signatures: rclone, installed by the `dev` extra."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

KEY, SECRET = "testkey", "the-secret-that-nobody-may-see"  # pragma: allowlist secret (tests look for it in logs)


# above the ports of Ray's workers, below those that Linux gives to whoever does not ask for one: a server that binds
# its port only seconds later still finds it free
PORTS = range(20_000, 32_000)
TEST_PROCESSES = 16


def free_port() -> int:
    """Nobody listens there, and no other process of the same `pytest -n` is told it."""
    mine = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % TEST_PROCESSES
    while True:
        port = random.SystemRandom().choice(PORTS[mine::TEST_PROCESSES])
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def start_server(root: Path, port: int) -> subprocess.Popen[bytes]:
    """Serve the folders in `root` as buckets; returns before it listens."""
    rclone = [str(Path(sys.executable).with_name("rclone")), "serve", "s3", str(root)]
    return subprocess.Popen(
        [*rclone, "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}", "--vfs-cache-mode", "off"],
        env=os.environ | {"RCLONE_CONFIG": "/dev/null"},
    )


def client_environment(port: int) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }


def wait_for_server(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"rclone does not listen on port {port} (exit code {process.poll()})")
