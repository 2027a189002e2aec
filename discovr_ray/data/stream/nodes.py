"""The nodes of the running cluster."""

from __future__ import annotations

import ray

from discovr_ray.config import NodeRoom


def alive_nodes() -> list[NodeRoom]:
    """Of the Ray that this process is connected to."""
    return [
        NodeRoom(node["Labels"] or {}, node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]
