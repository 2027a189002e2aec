"""`ray up` and `ray down` with cluster/onprem.yaml, over SSH, on three hosts that are namespaces of this machine.

    NETNS=1 pytest -m netns tests/cluster/test_ray_up.py

As root, with openssh-server, rsync and iproute2. CI does not run it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cluster_files import ROOT, load
from separate_hosts import Hosts

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(not os.environ.get("NETNS"), reason="wants root and SSH servers: set NETNS=1"),
]

ADDRESSES = {"laptop": "10.77.0.1", "head": "10.77.0.10", "one": "10.77.0.11", "two": "10.77.0.12"}
NODES = """
import json, ray
ray.init(logging_level="ERROR")
nodes = [[node["Labels"].get("discovr-role", "head"), node["Resources"].get("CPU", 0)] for node in ray.nodes()]
print(json.dumps(nodes))
"""


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Not below /tmp, which is another one on each host."""
    folder = Path(tempfile.mkdtemp(prefix="discovr-hosts-", dir="/var/tmp"))
    hosts = Hosts(folder, ADDRESSES)
    for name in ADDRESSES:
        home = hosts.home(name)
        (home / "discovr-env").symlink_to(Path(sys.executable).parents[1])  # set-up finds it there, all pins installed
        (home / ".profile").write_text("")
    shutil.copy(folder / "key", hosts.home("laptop") / "key")
    yield hosts
    hosts.end()
    shutil.rmtree(folder, ignore_errors=True)


def cluster_file(hosts: Hosts) -> Path:
    """cluster/onprem.yaml with this network's addresses, user and key."""
    config = load("onprem")
    config["provider"] |= {"head_ip": ADDRESSES["head"], "worker_ips": [ADDRESSES["one"], ADDRESSES["two"]]}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": "/root/key"}
    path = hosts.home("laptop") / "onprem.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.timeout(900)
def test_up_a_job_and_down_leaves_no_process(hosts: Hosts) -> None:
    cluster_file(hosts)
    path = f"export PATH={Path(sys.executable).parent}:$PATH; cd {ROOT};"
    made = hosts.run("laptop", f"{path} ray get-auth-token --generate")
    assert made.returncode == 0, made.stderr
    up = hosts.run("laptop", f"{path} ray up /root/onprem.yaml -y --no-config-cache", timeout_s=400)
    assert up.returncode == 0, up.stdout + up.stderr

    end = time.monotonic() + 200
    while True:
        environment = "export RAY_AUTH_MODE=token RAY_ADDRESS=10.77.0.10:6379;"
        answer = hosts.run("head", f"{environment} ~/discovr-env/bin/python -c '{NODES}'")
        if answer.stdout.count("decode") == 2:
            break
        assert time.monotonic() < end, answer.stdout + answer.stderr
        time.sleep(3)
    assert '["head", 0]' in answer.stdout
    without = hosts.run("head", "RAY_AUTH_MODE=disabled RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265 ray job list")
    assert without.returncode != 0
    submit = "RAY_AUTH_MODE=token ray job submit --address http://127.0.0.1:8265 -- python -c 'print(6 * 7)'"
    job = hosts.run("head", submit)
    assert job.returncode == 0, job.stdout + job.stderr
    assert "42" in job.stdout

    down = hosts.run("laptop", f"{path} ray down /root/onprem.yaml -y", timeout_s=300)
    assert down.returncode == 0, down.stdout + down.stderr
    # a worker node ends itself when its head has been gone for a minute, and its agents after it
    end = time.monotonic() + 150
    while any(left := {name: hosts.processes(name) for name in ("head", "one", "two")}.values()):
        assert time.monotonic() < end, f"{left}\n{down.stdout}{down.stderr}"
        time.sleep(3)
