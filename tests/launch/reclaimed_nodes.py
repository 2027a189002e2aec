"""Nodes as processes of this machine, for Ray's autoscaler: one whose raylet died is gone, as a reclaimed machine is.

Ray's own provider goes on listing it, and the autoscaler waits for it for ever.
"""

from __future__ import annotations

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class ReclaimedNodes(FakeMultiNodeProvider):
    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        with self.lock:
            workers = {name: entry["node"] for name, entry in self._nodes.items() if "node" in entry}
            for name, node in workers.items():
                if node.all_processes["raylet"][0].process.poll() is not None:
                    del self._nodes[name]
                    node.kill_all_processes(check_alive=False, allow_graceful=False)
            found: list[str] = super().non_terminated_nodes(tag_filters)
            return found
