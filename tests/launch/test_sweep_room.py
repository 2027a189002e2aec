"""How many trials run at once: by hand, over clusters of nodes; and on a Ray that was told of a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from discovr_ray.config import Config, NodeRoom, load_config
from discovr_ray.errors import SweepError
from discovr_ray.launch.sweep_room import refuse_too_many, trials_at_once


def trial(**changes: object) -> Config:
    fields = {"run.workers": 1, "run.cpus_per_worker": 0.5, "data.decode_cpus": 0.5, "engine.micro_batch": 1}
    fields |= {name.replace("__", "."): value for name, value in changes.items()}
    return load_config("demo", [f"{name}={str(value).lower()}" for name, value in fields.items()])


def nodes(*cpus: float, gpus: float = 0.0) -> list[NodeRoom]:
    return [NodeRoom({}, number, gpus) for number in cpus]


@pytest.mark.parametrize(
    ("config", "cluster", "expected"),
    [
        (trial(), nodes(2), 2),
        (trial(run__cpus_per_worker=0.1, data__decode_cpus=0.1), nodes(1), 5),  # sums of tenths
        (trial(run__workers=2), nodes(2), 1),
        (trial(data__decode_cpus=1.5), nodes(4), 2),
        (trial(run__cpus_per_worker=2), nodes(3, 3), 2),  # a worker does not lie across nodes
        (trial(run__workers=2, run__cpus_per_worker=1), nodes(2, 2, 2), 2),  # a run's workers may
        (trial(run__use_gpu=True), nodes(8, gpus=2), 2),
        (trial(run__use_gpu=True, run__gpus_per_worker=0.25), nodes(8, gpus=2), 8),
        (trial(run__use_gpu=True, run__gpus_per_worker=0.4), nodes(8, 8, gpus=1), 4),  # nor across GPUs of nodes
        (trial(run__use_gpu=True, run__gpus_per_worker=0.4), nodes(16, gpus=4), 8),  # nor across GPUs of one
        (trial(), nodes(0.5), 1),  # whether that fits at all is for preflight.check_cluster
    ],
)
def test_trials_at_once(config: Config, cluster: list[NodeRoom], expected: int) -> None:
    assert trials_at_once(config, cluster) == expected


def test_labelled_nodes_count_for_what_they_are_for() -> None:
    config = trial(run__worker_node_labels="{kind: gpu}", data__decode_node_labels="{kind: cpu}")
    cluster = [NodeRoom({"kind": "gpu"}, 4, 0), NodeRoom({"kind": "cpu"}, 1, 0), NodeRoom({}, 64, 0)]
    assert trials_at_once(config, cluster) == 2  # 8 could train, 2 can decode


def test_a_wish_beyond_the_room_is_refused_unless_the_cluster_grows() -> None:
    with pytest.raises(SweepError, match="concurrent = 3: the cluster has room for 2 at once"):
        refuse_too_many(trial(), nodes(2), 3)
    half = trial(run__use_gpu=True, run__gpus_per_worker=0.5)
    with pytest.raises(
        SweepError, match=r"room for 2 at once, each with 1 x 0\.5 CPUs and 0\.5 GPUs, 0\.5 CPUs to dec"
    ):
        refuse_too_many(half, nodes(8, gpus=1), 3)
    refuse_too_many(trial(), nodes(2), 2)
    refuse_too_many(trial(run__autoscaling=True), nodes(2), 3)


# asked in a process of its own: this one may be connected to the session's cluster, which has no GPU
TWO_ON_ONE_GPU = """
import json
import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from discovr_ray.config import load_config
from discovr_ray.data.stream.nodes import alive_nodes
from discovr_ray.launch.preflight import check_cluster
from discovr_ray.launch.supervise import scaling
from discovr_ray.launch.sweep_room import trials_at_once

def half_of_which(group):
    place = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=False)
    return ray.remote(ray.get_gpu_ids).options(num_cpus=0.5, num_gpus=0.5, scheduling_strategy=place).remote()

fields = ["run.use_gpu=true", "run.gpus_per_worker=0.5", "run.workers=1", "run.cpus_per_worker=0.5"]
config = load_config("demo", [*fields, "data.decode_cpus=0.5", "engine.micro_batch=1"])
ray.init(address="local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)
check_cluster(config)
wanted = scaling(config.run)
groups = [placement_group([wanted.resources_per_worker] * wanted.num_workers) for _ in range(3)]
placed = [group.wait(seconds) for group, seconds in zip(groups, (60, 60, 1))]
gpus = ray.get([half_of_which(group) for group in groups[:2]])
print(json.dumps([trials_at_once(config, alive_nodes()), placed, gpus]))
"""


@pytest.mark.ray
def test_two_trials_have_half_a_gpu_each_at_the_same_time() -> None:
    """Ray reserves for each what its Ray Train asks for, and no third one. Only training itself would need the GPU."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", TWO_ON_ONE_GPU]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [2, [True, True, False], [[0], [0]]]
