"""The Ray that a job starts for itself on one machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

ASK_WITHOUT_TOKEN = """
import urllib.error, urllib.request
import ray
from discovr_ray.launch.ray_session import start_ray
start_ray(dashboard=True)
try:
    urllib.request.urlopen(f"http://{ray._private.worker.get_dashboard_url()}/api/jobs/", timeout=60)
except urllib.error.HTTPError as error:
    print("refused", error.code)
"""


def test_rays_own_cluster_on_a_laptop_wants_a_token_that_others_cannot_read() -> None:
    """With no setting at all: the tests' own RAY_AUTH_MODE is taken away, and the home is empty."""
    with tempfile.TemporaryDirectory(prefix="dr", dir="/tmp") as home:  # short, since Ray puts sockets below it
        unset = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_AUTH", "RAY_ADDRESS"))}
        environment = {**unset, "HOME": home, "RAY_TMPDIR": home}
        done = subprocess.run(
            [sys.executable, "-c", ASK_WITHOUT_TOKEN], env=environment, capture_output=True, text=True, timeout=200
        )
        assert "refused 401" in done.stdout, done.stdout + done.stderr
        token = Path(home, ".ray", "auth_token")
        assert token.read_text()
        assert token.stat().st_mode & 0o077 == 0
