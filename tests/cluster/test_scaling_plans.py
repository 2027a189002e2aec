"""What Ray's autoscaler makes of the cluster files: its own planner, of version 2, as `ray up` and KubeRay have it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from cluster_files import CLOUDS, FOLDER, MANIFESTS, cluster_spec, load
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingReply, SchedulingRequest
from ray.autoscaler.v2.schema import AutoscalerInstance
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import ClusterResourceConstraint, NodeState, NodeStatus
from ray.core.generated.common_pb2 import LabelSelectorOperator
from ray.core.generated.instance_manager_pb2 import Instance, NodeKind, TerminationRequest

from discovr_ray.config import Config, load_config

everywhere = pytest.mark.parametrize("name", [*CLOUDS, *MANIFESTS])


def autoscaling(name: str) -> AutoscalingConfig:
    """As the autoscaler gets it: of the file, or of what KubeRay shows it of the manifest."""
    if name in MANIFESTS:
        meta = {"name": "discovr", "namespace": "default"}
        resource = {"metadata": meta, "spec": cluster_spec(load(name))}
        return AutoscalingConfig(_derive_autoscaling_config_from_ray_cr(resource), skip_content_hash=True)
    return AutoscalingConfig(load(name), skip_content_hash=True)


def wanted(run: Config) -> list[Any]:
    """What the run's workers and its decoding ask for."""
    training = {"CPU": run.run.cpus_per_worker, "GPU": 1.0}
    bundles = [(training, run.run.worker_node_labels)] * run.run.max_workers
    bundles += [({"CPU": 1.0}, run.data.decode_node_labels)] * int(run.data.decode_cpus)
    return [
        ResourceRequestUtil.make(
            resources,
            label_selectors=[
                [(key, LabelSelectorOperator.LABEL_OPERATOR_IN, [value]) for key, value in labels.items()]
            ],
        )
        for resources, labels in bundles
    ]


def node(config: AutoscalingConfig, kind: str, idle_s: float = 0.0) -> AutoscalerInstance:
    """One that runs."""
    facts = config.get_node_type_configs()[kind]
    is_head = kind == config.get_head_node_type()
    ray_node = NodeState(
        node_id=kind.encode(),
        ray_node_type_name=kind,
        instance_id=kind,
        status=NodeStatus.IDLE if idle_s else NodeStatus.RUNNING,
        total_resources=facts.resources,
        available_resources=facts.resources,
        idle_duration_ms=int(idle_s * 1000),
        labels=facts.labels,
    )
    instance = Instance(
        instance_id=kind,
        cloud_instance_id=kind,
        instance_type=kind,
        status=Instance.RAY_RUNNING,
        node_kind=NodeKind.HEAD if is_head else NodeKind.WORKER,
        launch_config_hash=facts.launch_config_hash,
        node_id=kind,
    )
    return AutoscalerInstance(ray_node=ray_node, im_instance=instance, cloud_instance_id=kind)


def plan(config: AutoscalingConfig, requests: list[Any], nodes: list[AutoscalerInstance]) -> SchedulingReply:
    constraints = [ClusterResourceConstraint(resource_requests=ResourceRequestUtil.group_by_count(requests))]
    return ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=False,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            idle_timeout_s=config.get_idle_timeout_s(),
            cluster_resource_constraints=constraints if requests else [],
            current_instances=nodes,
        )
    )


def launched(reply: SchedulingReply) -> Counter[str]:
    return Counter({launch.instance_type: launch.count for launch in reply.to_launch})


@everywhere
def test_the_run_gets_its_gpu_nodes_and_one_decode_node(name: str) -> None:
    config, run = autoscaling(name), load_config(FOLDER / "pretrain.yaml")
    head = node(config, config.get_head_node_type())
    reply = plan(config, wanted(run), [head])
    gpus = config.get_node_type_configs()["gpu"].resources["GPU"]
    assert launched(reply) == {"gpu": run.run.max_workers / gpus, "decode": 1}
    assert not reply.infeasible_cluster_resource_constraints
    assert launched(plan(config, [], [head])) == {}  # nothing before a job asks


@everywhere
def test_a_label_that_no_group_has_brings_no_node(name: str) -> None:
    config = autoscaling(name)
    run = load_config(FOLDER / "pretrain.yaml", ["run.worker_node_labels={discovr-role: trian}"])
    reply = plan(config, wanted(run), [node(config, config.get_head_node_type())])
    assert "gpu" not in launched(reply)
    assert reply.infeasible_cluster_resource_constraints


@everywhere
@pytest.mark.parametrize("kind", ["gpu", "decode"])
def test_an_idle_node_goes_after_five_minutes_and_the_head_stays(name: str, kind: str) -> None:
    config = autoscaling(name)
    head = node(config, config.get_head_node_type(), idle_s=100_000)
    assert plan(config, [], [head, node(config, kind, idle_s=290)]).to_terminate == []
    (end,) = plan(config, [], [head, node(config, kind, idle_s=310)]).to_terminate
    assert end.instance_id == kind
    assert end.cause == TerminationRequest.Cause.IDLE
