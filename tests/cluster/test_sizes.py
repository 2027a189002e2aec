"""The groups of every cluster file are large enough for cluster/pretrain.yaml, and nothing adds up to too much."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from cluster_files import CLOUDS, FOLDER, MANIFESTS, cluster_spec, load

from discovr_ray.config import Config, derive_plan, load_config
from discovr_ray.data.plan import plan_stream
from discovr_ray.data.stream.feeder import StreamSpec, _read_ahead_bytes
from discovr_ray.train.estimate import estimate_memory

GIB = 2**30
FRAMEWORK_GIB = 2.5  # CUDA context, NCCL, DeepSpeed's buckets (0.4) and what the allocator cannot use; not measured
PROCESS_GIB = 8  # host memory of a worker beside its copy for saves: torch, CUDA and the queue of clips
RAYS_SHARE = 0.3  # of a machine's memory that Ray takes for its object store, unless it is told


class Group(NamedTuple):
    count: int  # nodes, at most
    cpus: int  # of a node
    ray_cpus: int  # of them, that Ray may give to tasks and workers
    memory: float  # bytes of a node
    gpus: int
    object_store: float  # bytes


# the makers' figures: CPUs, GiB, GPUs; GiB of one GPU below
MACHINES = {
    "c6i.4xlarge": (16, 32, 0),
    "g5.12xlarge": (48, 192, 4),
    "n2-standard-16": (16, 64, 0),
    "g2-standard-48": (48, 192, 4),
    "Standard_F16s_v2": (16, 32, 0),
    "Standard_NC24ads_A100_v4": (24, 220, 1),
}
GPU_GIB = {"g5.12xlarge": 24, "g2-standard-48": 24, "Standard_NC24ads_A100_v4": 80}
SMALLEST_POD_GPU_GIB = 24  # what the manifests ask for in words


def config() -> Config:
    return load_config(FOLDER / "pretrain.yaml")


def machine_of(name: str, group: str) -> str:
    node = load(name)["available_node_types"][group]["node_config"]
    node = node.get("azure_arm_parameters", node)
    return str(node.get("InstanceType") or node.get("machineType") or node["vmSize"])


def groups(name: str) -> dict[str, Group]:
    if name in CLOUDS:
        found = {}
        for kind in ("decode", "gpu"):
            node = load(name)["available_node_types"][kind]
            cpus, gib, gpus = MACHINES[machine_of(name, kind)]
            assert node["resources"].get("GPU", 0) == gpus
            found[kind] = Group(
                node["max_workers"], cpus, node["resources"]["CPU"], gib * GIB, gpus, RAYS_SHARE * gib * GIB
            )
        return found
    return {group["groupName"]: pod_group(group) for group in cluster_spec(load(name))["workerGroupSpecs"]}


def quantity(text: str) -> float:
    return float(text.removesuffix("Gi")) * GIB if text.endswith("Gi") else float(text)


def pod_group(group: dict[str, object]) -> Group:
    (container,) = group["template"]["spec"]["containers"]  # type: ignore[index]
    limits = container["resources"]["limits"]
    start = group["rayStartParams"]
    return Group(
        group["maxReplicas"],  # type: ignore[arg-type]
        int(limits["cpu"]),
        int(start["num-cpus"]),  # type: ignore[index]
        quantity(limits["memory"]),
        int(limits.get("nvidia.com/gpu", 0)),
        float(start["object-store-memory"]),  # type: ignore[index]
    )


everywhere = pytest.mark.parametrize("name", [*CLOUDS, *MANIFESTS])


@everywhere
def test_the_gpus_are_enough_and_hold_the_preset(name: str) -> None:
    group, run = groups(name)["gpu"], config()
    assert group.count * group.gpus >= run.run.max_workers
    needed = estimate_memory(run).total / GIB + FRAMEWORK_GIB
    assert needed <= (GPU_GIB[machine_of(name, "gpu")] if name in CLOUDS else SMALLEST_POD_GPU_GIB)


@everywhere
def test_decoding_finds_no_cpu_on_gpu_nodes_and_enough_on_its_own(name: str) -> None:
    found, run = groups(name), config()
    gpu, decode = found["gpu"], found["decode"]
    assert gpu.ray_cpus == gpu.gpus * run.run.cpus_per_worker  # workers take all that Ray knows of
    assert gpu.ray_cpus <= gpu.cpus - 2
    assert decode.ray_cpus <= decode.cpus - 2
    assert run.data.decode_cpus <= decode.count * decode.ray_cpus


@everywhere
def test_host_memory_holds_object_store_processes_and_saves(name: str) -> None:
    gpu, memory = groups(name)["gpu"], estimate_memory(config())
    copies = memory.weights + memory.optimizer + memory.teachers  # of one worker, held for saves
    assert gpu.object_store + gpu.gpus * (copies + PROCESS_GIB * GIB) <= gpu.memory


@everywhere
def test_the_object_store_of_decode_nodes_holds_the_read_ahead(name: str) -> None:
    decode, run = groups(name)["decode"], config()
    plan = plan_stream(run, derive_plan(run, 10_000), run.run.max_workers, 0)
    spec = StreamSpec(run, plan, 1024, None, None)
    read_ahead = _read_ahead_bytes(spec, run.data.decode_cpus, spec.micro_batches_per_block(spec.segments()[0]))
    assert read_ahead <= decode.object_store  # of one node, though two share it


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_have_shared_memory_for_the_object_store_within_their_limit(name: str) -> None:
    spec = cluster_spec(load(name))
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (shm,) = [volume for volume in pod["volumes"] if volume["name"] == "shm"]
        assert shm["emptyDir"]["medium"] == "Memory"
        size = quantity(shm["emptyDir"]["sizeLimit"])
        assert float(group["rayStartParams"]["object-store-memory"]) < size
        (container,) = pod["containers"]
        assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
        assert size < quantity(container["resources"]["limits"]["memory"]) / 2
