"""cluster/policies/*.json give no more than the job needs: no wildcards, folders of one bucket."""

from __future__ import annotations

import json
from typing import Any

import botocore.session
import pytest
from cluster_files import FOLDER, load

POLICIES = FOLDER / "policies"
AWS = ("aws-bucket", "aws-head")


def statements(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((POLICIES / f"{name}.json").read_text())["Statement"]
    return found


def too_much(statement: dict[str, Any]) -> list[str]:
    """Actions with a wildcard; every resource, but for calls that only describe, which know no narrower one."""
    wide = [action for action in statement["Action"] if "*" in action]
    only_looks = all(action.split(":")[1].startswith("Describe") for action in statement["Action"])
    if not only_looks:
        wide += [resource for resource in statement["Resource"] if resource in ("*", "arn:aws:s3:::*")]
    return wide


@pytest.mark.parametrize("name", AWS)
def test_aws_policies_name_what_they_allow(name: str) -> None:
    assert [too_much(statement) for statement in statements(name)] == [[] for _ in statements(name)]
    assert {statement["Effect"] for statement in statements(name)} == {"Allow"}


def test_wildcards_would_be_found() -> None:
    assert too_much({"Action": ["s3:*"], "Resource": ["*"]}) == ["s3:*", "*"]
    assert too_much({"Action": ["ec2:TerminateInstances"], "Resource": ["*"]}) == ["*"]
    assert too_much({"Action": ["ec2:DescribeImages"], "Resource": ["*"]}) == []


def test_clips_can_be_read_and_only_runs_written() -> None:
    writable = {
        resource
        for statement in statements("aws-bucket")
        if {"s3:PutObject", "s3:DeleteObject"} & set(statement["Action"])
        for resource in statement["Resource"]
    }
    assert writable == {"arn:aws:s3:::YOUR-BUCKET/runs/*"}


def test_the_head_ends_machines_of_its_cluster_alone_and_hands_on_one_role() -> None:
    by_action = {action: statement for statement in statements("aws-head") for action in statement["Action"]}
    tag = by_action["ec2:TerminateInstances"]["Condition"]["StringEquals"]["ec2:ResourceTag/ray-cluster-name"]
    assert tag == load("aws")["cluster_name"]
    worker = load("aws")["available_node_types"]["gpu"]["node_config"]["IamInstanceProfile"]["Name"]
    assert by_action["iam:PassRole"]["Resource"] == [f"arn:aws:iam::YOUR-ACCOUNT:role/{worker}"]


def test_the_head_cannot_make_strangers_machines_its_own_by_tagging_them() -> None:
    cluster = load("aws")["cluster_name"]
    conditions = [item.get("Condition") for item in statements("aws-head") if "ec2:CreateTags" in item["Action"]]
    assert conditions == [
        {"StringEquals": {"ec2:CreateAction": "RunInstances"}},
        {"StringEquals": {"ec2:ResourceTag/ray-cluster-name": cluster}},
    ]


def test_ec2_has_all_the_named_actions() -> None:
    known = set(botocore.session.get_session().get_service_model("ec2").operation_names)
    named = {action.split(":")[1] for item in statements("aws-head") for action in item["Action"] if "ec2:" in action}
    assert named <= known


def test_the_other_clouds_policies_are_narrow_too() -> None:
    for binding in json.loads((POLICIES / "gcp-bucket.json").read_text())["bindings"]:
        assert binding["role"] in ("roles/storage.objectViewer", "roles/storage.objectUser")  # not admin
        assert "YOUR-BUCKET/objects/" in binding["condition"]["expression"]
    role = json.loads((POLICIES / "azure-container.json").read_text())
    assert not any("*" in action for key in ("Actions", "DataActions") for action in role[key])
    assert all("storageAccounts/" in scope for scope in role["AssignableScopes"])
