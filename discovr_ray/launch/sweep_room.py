"""How many trials a cluster has room for at once, so that none waits for what another one holds.

A trial takes its workers' CPUs and GPUs, and data.decode_cpus for the decoding, which in a sweep is also the most that
its decoding gets. What its driver and controller take is no CPU of Ray's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from discovr_ray.config import Config, NodeRoom, select_nodes, total_cpus
from discovr_ray.errors import SweepError

NEGLIGIBLE = 1e-6  # of a CPU: what sums of tenths are off by


def trials_at_once(config: Config, nodes: Sequence[NodeRoom]) -> int:
    """At least 1; whether the cluster has room for that one is `preflight.check_cluster`'s to say."""
    run, data = config.run, config.data
    training = select_nodes(nodes, run.worker_node_labels)
    workers = sum(_workers_on(node, config) for node in training)
    decoding = select_nodes(nodes, data.decode_node_labels)
    shared = [node for node in nodes if node in training or node in decoding]
    cpus = run.max_workers * run.cpus_per_worker
    limits = [
        workers // run.max_workers,
        _times(total_cpus(shared), cpus + data.decode_cpus),
        _times(total_cpus(decoding), data.decode_cpus),
    ]
    return max(1, min(limits))


def refuse_too_many(config: Config, nodes: Sequence[NodeRoom], concurrent: int) -> None:
    """Refuse a wish for more trials at once than there is room for, unless the cluster grows.

    Errors:
        SweepError: they would wait for each other.
    """
    room = trials_at_once(config, nodes)
    if concurrent > room and not config.run.autoscaling:
        each = needs(config)
        raise SweepError(
            [f"concurrent = {concurrent}: the cluster has room for {room} at once, each with {each}; they would wait"]
        )


def needs(config: Config) -> str:
    """What a trial takes, in words."""
    run = config.run
    gpus = f" and {run.gpus_per_worker:g} GPUs" if run.use_gpu else ""
    return f"{run.max_workers} x {run.cpus_per_worker:g} CPUs{gpus}, {config.data.decode_cpus:g} CPUs to decode"


def _workers_on(node: NodeRoom, config: Config) -> int:
    run = config.run
    by_cpus = _times(node.cpus, run.cpus_per_worker)
    if not run.use_gpu:
        return by_cpus
    return min(by_cpus, math.floor(node.gpus) * _times(1, run.gpus_per_worker))  # a share lies on one GPU


def _times(there: float, each: float) -> int:
    return math.floor(there / each + NEGLIGIBLE)
