"""run.worker_node_labels and data.decode_node_labels on a cluster with both kinds of nodes: what ran where."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from pretrain_runs import Job, complete_steps, overrides
from ray.cluster_utils import Cluster
from rclone_server import free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# asked in a process of its own: this one may be connected to the session's cluster
WHO_RAN_WHERE = """
import json, sys
from ray.util.state import list_actors, list_nodes, list_tasks
role = {node.node_id: (node.labels or {}).get("role", "head") for node in list_nodes(sys.argv[1])}
tasks = [task for task in list_tasks(sys.argv[1], limit=10_000, detail=True) if task.node_id]
ran = [(task.name, role[task.node_id], False) for task in tasks]
actors = [actor for actor in list_actors(sys.argv[1], limit=1000) if actor.node_id]
ran += [(actor.class_name, role[actor.node_id], actor.state == "ALIVE") for actor in actors]
print(json.dumps(ran))
"""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head without CPUs; one node for training, one for decoding, each with more CPUs than its own work takes."""
    folder = tempfile.mkdtemp(prefix="dr", dir="/tmp")  # short, since Ray puts sockets below it
    monkeypatch.setenv("RAY_TMPDIR", folder)
    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": free_port()}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=4, labels={"role": "train"})
    cluster.add_node(num_cpus=4, labels={"role": "decode"})
    yield cluster
    cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def test_training_and_decoding_keep_to_their_nodes(cluster: Cluster, echo_manifest: str, tmp_path: Path) -> None:
    labels = {
        "run__worker_node_labels": "{role: train}",
        "data__decode_node_labels": "{role: decode}",
        "data__decode_cpus": 3,
    }
    arguments = overrides(echo_manifest, tmp_path, schedule__max_steps=6, **labels)
    job = Job(arguments, tmp_path / "job.log", RAY_ADDRESS=cluster.address)
    assert job.wait() == 0, job.output()
    assert complete_steps(tmp_path / "demo")[0] == 6

    command = [sys.executable, "-c", WHO_RAN_WHERE, f"http://{cluster.webui_url}"]
    asked = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=120)
    assert asked.returncode == 0, asked.stderr
    places = defaultdict(set)
    ran = json.loads(asked.stdout.splitlines()[-1])
    for name, role, _ in ran:
        places[name].add(role)
    workers = {role for name, roles in places.items() if "RayTrainWorker" in name for role in roles}
    decoders = {role for name, roles in places.items() if "_decode" in name for role in roles}
    assert workers == {"train"}, places
    assert decoders == {"decode"}, places
    left = {(name, role) for name, role, is_alive in ran if is_alive}
    assert {role for _, role in left} == {"head"}, left  # or autoscaling would never take the other nodes down


def test_labels_that_no_node_has_are_refused(cluster: Cluster, echo_manifest: str, tmp_path: Path) -> None:
    arguments = overrides(echo_manifest, tmp_path, run__worker_node_labels="{role: trian}")
    job = Job(arguments, tmp_path / "job.log", RAY_ADDRESS=cluster.address)
    assert job.wait() == 2
    assert "nodes with {'role': 'trian'} have 0" in job.output()
