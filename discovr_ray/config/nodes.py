"""What the nodes of a cluster offer, and which of them a set of labels selects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class NodeRoom(NamedTuple):
    """One node's CPUs and GPUs that Ray manages, taken or not."""

    labels: Mapping[str, str]
    cpus: float
    gpus: float

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether it has all of these labels."""
        return all(self.labels.get(name) == value for name, value in labels.items())


def select_nodes(nodes: Iterable[NodeRoom], labels: Mapping[str, str]) -> list[NodeRoom]:
    """Those that have all of `labels`; all of them where it is empty."""
    return [node for node in nodes if node.matches(labels)]


def total_cpus(nodes: Iterable[NodeRoom]) -> float:
    return sum(node.cpus for node in nodes)
