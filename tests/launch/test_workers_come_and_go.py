"""run.workers=[1, 2] on a cluster that loses, gets and has to give a node: the run goes on, and no step is missing."""

from __future__ import annotations

import itertools
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pretrain_runs import Job, complete_steps, overrides
from ray.cluster_utils import Cluster

from discovr_ray.train import checkpoint
from discovr_ray.train.run_log import read_records

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.chaos]

ELASTIC = {
    "data__synthetic_clips": 24,
    "run__workers": "[1,2]",
    "run__resize_interval_s": 5,
    "run__cpus_per_worker": 2,  # one on each node; the head has room for decoding alone
    "run__threads_per_worker": 1,
    "schedule__epochs": 5000,
    "checkpoint__every_steps": 5,
    "checkpoint__keep": 1000,
}


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Short, since Ray puts sockets below it; of this test alone, or other tests would join its cluster."""
    folder = tempfile.mkdtemp(prefix="dr", dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(temporary: str) -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield cluster
    cluster.shutdown()


def worker_counts(run: Path) -> list[int]:
    """Workers that wrote the complete checkpoints, oldest first, each change once."""
    states = [found.state for found in checkpoint.find_checkpoints(str(run))]
    return [count for count, _ in itertools.groupby(state.world_size for state in reversed(states))]


def logged_steps(job: Job) -> list[int]:
    """In the order in which they were done, those that were done again included."""
    return [int(step) for step in re.findall(r" step (\d+)/", job.output())]


def announce_removal(cluster: Cluster, node: Any) -> None:
    """What an autoscaler does when the cloud tells that it wants a machine back."""
    command = [str(Path(sys.executable).parent / "ray"), "drain-node", "--address", cluster.address]
    command += ["--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "spot", "--deadline-remaining-seconds", "120"]
    subprocess.run(command, check=True)


@pytest.mark.timeout(1200)
def test_a_run_shrinks_and_grows(cluster: Cluster, temporary: str, tmp_path: Path) -> None:
    first, second = cluster.add_node(num_cpus=2), cluster.add_node(num_cpus=2)
    run = tmp_path / "demo"
    environment = {"RAY_ADDRESS": cluster.address, "RAY_TMPDIR": temporary, "RAY_DEDUP_LOGS": "0"}
    job = Job(overrides("synthetic", tmp_path, **ELASTIC), tmp_path / "job.log", **environment)
    job.wait_for(lambda: worker_counts(run)[-1:] == [2], timeout_s=400)
    cluster.remove_node(first, allow_graceful=False)
    job.wait_for(lambda: worker_counts(run)[-1:] == [1], timeout_s=400)
    cluster.add_node(num_cpus=2)
    job.wait_for(lambda: worker_counts(run)[-1:] == [2], timeout_s=400)
    num_logged = len(logged_steps(job))
    announce_removal(cluster, second)
    job.wait_for(lambda: worker_counts(run)[-1:] == [1], timeout_s=400)
    job.send(signal.SIGTERM)
    assert job.wait() == 128 + signal.SIGTERM, job.output()
    assert worker_counts(run)[-4:] == [2, 1, 2, 1]
    assert "nodes of ranks [" in job.output()
    assert "are about to be taken away in" in job.output()
    done = logged_steps(job)[num_logged:]
    assert done == list(range(done[0], done[-1] + 1))  # no step was done twice
    assert complete_steps(run)[0] == done[-1]  # and none in vain, neither at the notice nor at the signal
    steps = [record["step"] for record in read_records(str(run), "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))
