"""cluster/kuberay/*.yaml against KubeRay's own schema, closed for unknown fields, and our own promises."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from cluster_files import MANIFESTS, ROOT, cluster_spec, documents, load, manifest_problems

from discovr_ray.config import load_config

every_manifest = pytest.mark.parametrize("name", MANIFESTS)


def pods(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Pod specs: head, groups, submitter."""
    spec = cluster_spec(manifest)
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        yield group["template"]["spec"]
    if "submitterPodTemplate" in manifest["spec"]:
        yield manifest["spec"]["submitterPodTemplate"]["spec"]


@every_manifest
def test_kuberay_takes_the_manifest(name: str) -> None:
    assert manifest_problems(load(name)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda spec: spec.update(backofLimit=3), "backofLimit"),
        (lambda spec: spec["rayClusterSpec"].update(enableInTreeAutoscaler=True), "enableInTreeAutoscaler"),
        (lambda spec: spec["rayClusterSpec"]["autoscalerOptions"].update(idleTimeoutSecond=1), "idleTimeoutSecond"),
        (lambda spec: spec["rayClusterSpec"]["authOptions"].update(mode="tokens"), "'tokens' is not one of"),
        (lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][1].update(minReplica=0), "minReplica"),
        (
            lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][1].update(maxReplicas="2"),
            "is not of type 'integer'",
        ),
        (lambda spec: next(pods({"spec": spec}))["containers"][0].update(volumeMount=[]), "volumeMount"),
        (lambda spec: next(pods({"spec": spec}))["securityContext"].update(runAsNonroot=True), "runAsNonroot"),
        (lambda spec: next(pods({"spec": spec}))["volumes"][0]["emptyDir"].update(sizelimit="1Gi"), "sizelimit"),
        (lambda spec: spec["submitterPodTemplate"]["spec"].update(restartpolicy="Never"), "restartpolicy"),
        (lambda spec: spec["rayClusterSpec"]["headGroupSpec"].pop("template"), "'template' is a required property"),
    ],
)
def test_planted_mistakes_are_found(change: Any, words: str) -> None:
    manifest = load("rayjob")
    change(manifest["spec"])
    assert any(words in problem for problem in manifest_problems(manifest))


@every_manifest
def test_nothing_is_paid_for_after_the_job(name: str) -> None:
    manifest = load(name)
    spec = cluster_spec(manifest)
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert {group["groupName"]: group["minReplicas"] for group in spec["workerGroupSpecs"]} == {"decode": 0, "gpu": 0}
    assert spec["autoscalerOptions"]["idleTimeoutSeconds"] <= 300
    if name == "rayjob":
        assert manifest["spec"]["shutdownAfterJobFinishes"] is True


@every_manifest
def test_the_token_is_on_and_passwords_are_secrets(name: str) -> None:
    spec = cluster_spec(load(name))
    assert spec["authOptions"]["mode"] == "token"
    assert list(spec["gcsFaultToleranceOptions"]["redisPassword"]) == ["valueFrom"]


@every_manifest
def test_pods_run_without_root_and_read_the_data_only(name: str) -> None:
    for pod in pods(load(name)):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
            mounts = {mount["name"]: mount for mount in container.get("volumeMounts", [])}
            assert all(mounts[data]["readOnly"] for data in mounts.keys() & {"data"})


@every_manifest
def test_no_worker_may_make_or_delete_pods(name: str) -> None:
    """KubeRay lets the head's service account do so; jobs run in the workers' pods."""
    head, *others = pods(load(name))
    assert "automountServiceAccountToken" not in head
    assert all(pod["automountServiceAccountToken"] is False for pod in others)


@every_manifest
def test_only_the_apps_pods_and_the_operator_reach_rays_ports(name: str) -> None:
    policy = next(item for item in documents(name) if item["kind"] == "NetworkPolicy")
    assert policy["spec"].keys() == {"podSelector", "policyTypes", "ingress"}
    rule, figures = policy["spec"]["ingress"]
    assert [list(peer) for peer in rule["from"]] == [["podSelector"], ["namespaceSelector"]]
    assert figures["ports"] == [{"port": "metrics"}]  # and none of those that take commands
    label = policy["spec"]["podSelector"]["matchLabels"].items()
    spec = cluster_spec(load(name))
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert label <= group["template"]["metadata"]["labels"].items()
        assert group["template"]["spec"]["serviceAccountName"] in {item["metadata"]["name"] for item in documents(name)}


@every_manifest
def test_labels_send_decoding_and_training_to_their_groups(name: str) -> None:
    groups = {group["groupName"]: group for group in cluster_spec(load(name))["workerGroupSpecs"]}
    run = load("pretrain")
    assert groups["decode"]["labels"] == run["data"]["decode_node_labels"]
    assert groups["gpu"]["labels"] == run["run"]["worker_node_labels"]


def test_both_manifests_describe_one_and_the_same_cluster() -> None:
    assert cluster_spec(load("rayjob")) == cluster_spec(load("raycluster"))


def test_every_try_of_the_job_continues_the_run() -> None:
    spec = load("rayjob")["spec"]
    words = shlex.split(spec["entrypoint"])
    assert words[:2] == ["python", "/opt/discovr-ray/jobs/pretrain.py"]
    source = words[words.index("--config") + 1].removeprefix("/opt/discovr-ray/")
    config = load_config(ROOT / source, [word for word in words if re.match(r"\w+\.\w+=", word)])
    assert config.run.resume
    assert config.run.storage_path.startswith("s3://")  # outlives the cluster
    assert spec["backoffLimit"] > 0
    assert int(yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 120
