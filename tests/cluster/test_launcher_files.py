"""cluster/*.yaml of `ray up`, held against Ray's schema, the clouds' models and our own promises."""

from __future__ import annotations

import copy
import re
import subprocess
from typing import Any

import pytest
from cluster_files import CLOUDS, LAUNCHED, ROOT, launcher_problems, load
from ray.autoscaler._private.util import prepare_config


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_and_the_cloud_take_the_file(name: str) -> None:
    assert launcher_problems(load(name)) == []


@pytest.mark.parametrize(
    ("name", "path", "typo", "words"),
    [
        ("aws", (), "idle_timeout_minute", "idle_timeout_minute"),
        ("gcp", ("available_node_types", "decode"), "min_worker", "min_worker"),
        ("azure", ("auth",), "ssh_users", "ssh_users"),
        ("onprem", (), "file_mount", "file_mount"),
        ("aws", ("provider",), "availability_zones", "provider.availability_zones"),
        ("gcp", ("provider",), "projectid", "provider.projectid"),
        ("azure", ("provider",), "ressource_group", "provider.ressource_group"),
        ("onprem", ("provider",), "workers_ips", "provider.workers_ips"),
        (
            "aws",
            ("available_node_types", "gpu", "node_config"),
            "InstanceTyp",
            'Unknown parameter in input: "InstanceTyp"',
        ),
        (
            "aws",
            ("available_node_types", "gpu", "node_config", "InstanceMarketOptions"),
            "MarketTyp",
            'Unknown parameter in InstanceMarketOptions: "MarketTyp"',
        ),
        ("aws", ("available_node_types", "gpu", "docker"), "worker_run_option", "worker_run_option"),
        ("gcp", ("available_node_types", "gpu", "node_config"), "machinetype", "machinetype"),
        (
            "gcp",
            ("available_node_types", "gpu", "node_config", "scheduling"),
            "preemptable",
            "scheduling: Additional properties are not allowed ('preemptable' was unexpected)",
        ),
        ("gcp", ("available_node_types", "gpu", "node_config", "disks", 0, "initializeParams"), "diskTyp", "diskTyp"),
        ("azure", ("available_node_types", "gpu", "node_config"), "azure_arm_params", "azure_arm_params"),
        ("azure", ("available_node_types", "gpu", "node_config", "azure_arm_parameters"), "vmsize", "vmsize"),
    ],
)
def test_a_planted_unknown_key_is_found(name: str, path: tuple[Any, ...], typo: str, words: str) -> None:
    config = load(name)
    place: Any = config
    for step in path:
        place = place[step]
    place[typo] = "x"
    (problem, *_) = launcher_problems(config)
    assert words in problem


GPU_NODE = ("available_node_types", "gpu", "node_config")


@pytest.mark.parametrize(
    ("name", "path", "value", "words"),
    [
        ("aws", (*GPU_NODE, "InstanceType"), "g5.12xlagre", "EC2 knows no such value"),
        ("aws", (*GPU_NODE, "InstanceMarketOptions", "MarketType"), "spott", "no such value"),
        ("aws", (*GPU_NODE, "BlockDeviceMappings"), {}, "Invalid type"),
        ("aws", ("available_node_types", "gpu", "min_workers"), "0", "is not of type 'integer'"),
        ("aws", ("head_node_type",), "heads", "must be one of `available_node_types`"),
        ("aws", ("provider", "type"), "awss", "awss"),
        ("azure", (*GPU_NODE, "azure_arm_parameters", "osDiskSize"), "200", "the template wants int"),
        ("gcp", (*GPU_NODE, "scheduling", "provisioningModel"), "SPOTT", "'SPOTT' is not one of"),
        ("gcp", (*GPU_NODE, "scheduling"), [{"preemptible": True}], "is not of type 'object'"),
    ],
)
def test_a_planted_wrong_value_is_found(name: str, path: tuple[str, ...], value: Any, words: str) -> None:
    config = load(name)
    place = config
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    (problem, *_) = launcher_problems(config)
    assert words in problem


@pytest.mark.parametrize("name", CLOUDS)
def test_nothing_is_paid_for_after_the_job(name: str) -> None:
    config = load(name)
    groups = config["available_node_types"]
    assert groups["head"]["resources"]["CPU"] == 0
    assert groups["decode"]["min_workers"] == groups["gpu"]["min_workers"] == 0
    assert config["idle_timeout_minutes"] <= 5
    assert config["provider"]["cache_stopped_nodes"] is False
    assert config["max_workers"] == groups["decode"]["max_workers"] + groups["gpu"]["max_workers"]


@pytest.mark.parametrize("name", CLOUDS)
def test_the_head_is_on_demand_and_gpus_are_spot(name: str) -> None:
    def is_spot(group: str) -> bool:
        return bool(re.search(r"'(spot|Spot|SPOT)'", str(load(name)["available_node_types"][group]["node_config"])))

    assert not is_spot("head")
    assert is_spot("gpu")


@pytest.mark.parametrize("group", ["decode", "gpu"])
def test_a_reclaimed_machine_leaves_no_disk_to_pay_for(group: str) -> None:
    google, azure = (load(name)["available_node_types"][group]["node_config"] for name in ("gcp", "azure"))
    assert google["scheduling"]["instanceTerminationAction"] == "DELETE"
    assert all(disk["autoDelete"] for disk in google["disks"])
    assert azure["azure_arm_parameters"]["evictionPolicy"] == "Delete"


@pytest.mark.parametrize("name", CLOUDS)
def test_the_container_of_a_gpu_node_gets_its_gpus(name: str) -> None:
    """From docker itself: Ray asks for them only if the driver is up when it looks, and the image says so, too."""
    config = prepare_config(load(name))
    assert "--gpus all" in config["available_node_types"]["gpu"]["docker"]["worker_run_options"]
    first = config["initialization_commands"]
    assert any("docker" in command for command in first)  # or `docker run` is refused
    assert any("nvidia-smi" in command for command in first)


def test_rays_own_security_group_which_lets_the_world_knock_is_not_used() -> None:
    """Ray makes one for node types without, and opens its port 22 to 0.0.0.0/0 beside all rules of ours."""
    for name, node in load("aws")["available_node_types"].items():
        assert node["node_config"]["SecurityGroupIds"], name


@pytest.mark.parametrize("name", LAUNCHED)
def test_commands_are_shell(name: str) -> None:
    config = prepare_config(load(name))
    commands = [command for key, value in config.items() if key.endswith("_commands") for command in value]
    assert commands
    for command in commands:
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", LAUNCHED)
def test_every_node_wants_the_token_and_the_dashboard_is_on_loopback(name: str) -> None:
    config = prepare_config(load(name))  # with Ray's defaults for what is not said
    head, worker = (" ".join(config[f"{kind}_start_ray_commands"]) for kind in ("head", "worker"))
    assert all("RAY_AUTH_MODE=token" in command.split("ray start")[0] for command in (head, worker))
    assert "--dashboard-host=127.0.0.1" in head
    assert any(target.endswith(".ray/auth_token") for target in config["file_mounts"])


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_is_installed_from_our_pins_and_not_from_a_nightly_wheel(name: str) -> None:
    config = prepare_config(load(name))
    commands = str([config[f"{kind}setup_commands"] for kind in ("", "head_", "worker_")])
    assert "3.0.0.dev0" not in commands
    assert "requirements.txt" in commands
    assert "cluster/requirements.txt" in config["file_mounts"].values()


@pytest.mark.parametrize("name", CLOUDS)
def test_labels_send_decoding_and_training_to_their_groups(name: str) -> None:
    groups, run = load(name)["available_node_types"], load("pretrain")
    assert groups["decode"]["labels"] == run["data"]["decode_node_labels"]
    assert groups["gpu"]["labels"] == run["run"]["worker_node_labels"]


def test_the_checks_leave_the_file_as_it_is() -> None:
    config = load("aws")
    before = copy.deepcopy(config["available_node_types"])
    launcher_problems(config)
    assert config["available_node_types"]["gpu"]["node_config"] == before["gpu"]["node_config"]


def test_no_file_holds_a_credential() -> None:
    shapes = r"AKIA[0-9A-Z]{16}|-----BEGIN|(?i:secret_access_key|password|token)\s*[:=]\s*['\"]?[A-Za-z0-9/+]{16,}"
    for path in sorted((ROOT / "cluster").rglob("*")):
        if path.is_file():
            assert not re.search(shapes, path.read_text()), path
