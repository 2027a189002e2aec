"""Offline checks of the cluster files, as functions that return one line for each problem."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import ray
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
SCHEMAS = Path(__file__).parent / "schemas"
CLOUDS = ("aws", "gcp", "azure")
LAUNCHED = (*CLOUDS, "onprem")
MANIFESTS = ("rayjob", "raycluster")

# What Ray 2.60's providers read: Ray's own schema lets any key through. Taken from ray/autoscaler/_private/<provider>.
PROVIDER_KEYS = {
    "aws": {
        "type", "region", "availability_zone", "cache_stopped_nodes", "security_group", "use_internal_ips", "key_pair",
    },
    "gcp": {"type", "region", "availability_zone", "project_id", "cache_stopped_nodes", "use_internal_ips"},
    "azure": {
        "type", "location", "resource_group", "subscription_id", "tags", "availability_zone", "cache_stopped_nodes",
        "use_internal_ips", "use_external_head_ip", "unique_id", "subnet_mask", "msi_name", "msi_resource_group",
    },
    "local": {"type", "head_ip", "worker_ips", "external_head_ip"},
}  # fmt: skip

ARM_TYPES = {"string": str, "securestring": str, "int": int, "bool": bool, "object": dict, "array": list}


def load(name: str) -> dict[str, Any]:
    """cluster/NAME.yaml, or the Ray object of cluster/kuberay/NAME.yaml."""
    if name not in MANIFESTS:
        config: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
        return config
    (manifest,) = [item for item in documents(name) if item["kind"].startswith("Ray")]
    return manifest


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / "kuberay" / f"{name}.yaml").read_text()))


def cluster_spec(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The cluster's part of a RayJob or RayCluster."""
    spec: dict[str, Any] = manifest["spec"]
    return spec.get("rayClusterSpec", spec)


def launcher_problems(config: dict[str, Any]) -> list[str]:
    """What `ray up` would stumble over, as far as it can be known without the cloud."""
    try:
        validate_config(prepare_config(config))
    except jsonschema.ValidationError as error:
        return [error.message]
    except (ValueError, NotImplementedError, KeyError) as error:
        return [str(error)]
    return [*_provider_problems(config), *_node_problems(config)]


def _provider_problems(config: Mapping[str, Any]) -> Iterator[str]:
    kind = config["provider"]["type"]
    yield from (f"provider.{key}: Ray reads no such key" for key in config["provider"].keys() - PROVIDER_KEYS[kind])


def _node_problems(config: Mapping[str, Any]) -> Iterator[str]:
    kind = config["provider"]["type"]
    for name, node in config.get("available_node_types", {}).items():
        if kind == "aws":
            problems = ec2_problems(node["node_config"])
        elif kind == "azure":
            problems = _azure_problems(node["node_config"])
        elif kind == "gcp":
            problems = iter(against_schema(node["node_config"], "compute_instance"))
        else:
            problems = iter(())
        yield from (f"{name}: {problem}" for problem in problems)


def ec2_input(operation: str) -> Any:
    """Shape of an EC2 call's input, from the model that botocore ships."""
    return botocore.session.get_session().get_service_model("ec2").operation_model(operation).input_shape


def ec2_problems(node_config: Mapping[str, Any]) -> Iterator[str]:
    """Names and types of RunInstances' parameters, and the names of machines and markets."""
    shape = ec2_input("RunInstances")
    yield from _against_model({**node_config, "MinCount": 1, "MaxCount": 1}, shape)
    yield from _enum_problems(node_config, shape, "")


def _against_model(values: Mapping[str, Any], shape: Any) -> Iterator[str]:
    report = ParamValidator().validate(values, shape)
    if report.has_errors():
        yield report.generate_report()


def _enum_problems(value: Any, shape: Any, path: str) -> Iterator[str]:
    if shape.type_name == "structure" and isinstance(value, Mapping):
        for key, item in value.items():
            if key in shape.members:
                yield from _enum_problems(item, shape.members[key], f"{path}.{key}")
    elif shape.type_name == "list" and isinstance(value, list):
        for item in value:
            yield from _enum_problems(item, shape.member, path)
    elif getattr(shape, "enum", None) and value not in shape.enum:
        yield f"{path[1:]} = {value}: EC2 knows no such value"


def _azure_problems(node_config: Mapping[str, Any]) -> Iterator[str]:
    """Against the parameters of the template that Ray deploys machines with."""
    template = Path(ray.__file__).parent / "autoscaler/_private/_azure/azure-vm-template.json"
    known = {**json.loads(template.read_text())["parameters"], "availability_zone": {"type": "string"}}
    yield from (f"{key}: Ray reads no such key" for key in node_config.keys() - {"azure_arm_parameters"})
    for key, value in node_config.get("azure_arm_parameters", {}).items():
        if key not in known:
            yield f"{key}: not in the template"
        elif not isinstance(value, ARM_TYPES[known[key]["type"]]):
            yield f"{key} = {value!r}: the template wants {known[key]['type']}"


def manifest_problems(manifest: Mapping[str, Any]) -> list[str]:
    """What Kubernetes would refuse, or drop without a word."""
    return against_schema(manifest, manifest["kind"].lower())


def against_schema(value: Mapping[str, Any], name: str) -> list[str]:
    """Of schemas/NAME.json, which slim_schema.py has made."""
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    errors = jsonschema.Draft202012Validator(schema).iter_errors(value)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]
