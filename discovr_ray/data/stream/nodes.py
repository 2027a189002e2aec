"""The nodes of the running cluster."""

from __future__ import annotations

import ray
from ray.data._internal.stats import get_or_create_stats_actor

from discovr_ray.config import NodeRoom


def alive_nodes() -> list[NodeRoom]:
    """Of the Ray that this process is connected to."""
    return [
        NodeRoom(node["Labels"] or {}, node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]


def keep_statistics_here() -> None:
    """Have Ray Data keep its statistics on this process's node, unless it has begun elsewhere.

    An actor holds them, one for a cluster, on the node of whoever first runs a data set, and it outlives all jobs. Of
    a stream that is rank 0's node, which would then never be idle again: autoscaling would never take it down.
    """
    get_or_create_stats_actor()
