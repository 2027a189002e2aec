"""cluster/*.yaml of `ray up`, held against Ray's schema, the clouds' models and our own promises."""

from __future__ import annotations

import copy
import re
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
        ("aws", ("provider", "security_group", "IpPermissions", 0), "FromPorts", "FromPorts"),
        ("gcp", ("available_node_types", "gpu", "node_config"), "machinetype", "machinetype"),
        (
            "gcp",
            ("available_node_types", "gpu", "node_config", "scheduling", 0),
            "preemptable",
            "scheduling.preemptable",
        ),
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


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("available_node_types", "gpu", "node_config", "InstanceType"), "g5.12xlagre", "EC2 knows no such value"),
        (
            ("available_node_types", "gpu", "node_config", "InstanceMarketOptions", "MarketType"),
            "spott",
            "no such value",
        ),
        (("available_node_types", "gpu", "node_config", "BlockDeviceMappings"), {}, "Invalid type"),
        (("available_node_types", "gpu", "min_workers"), "0", "is not of type 'integer'"),
        (("head_node_type",), "heads", "must be one of `available_node_types`"),
        (("provider", "type"), "awss", "awss"),
    ],
)
def test_a_planted_wrong_value_is_found(path: tuple[str, ...], value: Any, words: str) -> None:
    config = load("aws")
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
        return bool(
            re.search(r"'spot'|preemptible|'Spot'", str(load(name)["available_node_types"][group]["node_config"]))
        )

    assert not is_spot("head")
    assert is_spot("gpu")


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
