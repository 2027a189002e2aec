"""cluster/prometheus/: the rules do what they say, played by Prometheus' own tool, on figures that runs really log."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import yaml
from cluster_files import FOLDER, ROOT

RULES = FOLDER / "prometheus"
with_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], cwd=RULES, capture_output=True, text=True, check=False)


@with_promtool
def test_configuration_and_rules_are_valid() -> None:
    done = promtool("check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@with_promtool
def test_each_rule_fires_when_it_should_and_not_before() -> None:
    done = promtool("test", "rules", "tests.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_a_case_in_which_it_fires() -> None:
    (group,) = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    cases = [
        case for test in yaml.safe_load((RULES / "tests.yml").read_text())["tests"] for case in test["alert_rule_test"]
    ]
    fired = {case["alertname"] for case in cases if case.get("exp_alerts")}
    quiet = {case["alertname"] for case in cases if not case.get("exp_alerts")}
    assert {rule["alert"] for rule in group["rules"]} == fired == quiet


def test_rules_look_at_figures_that_are_logged() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "discovr_ray" / "train").glob("*.py"))
    for name in set(re.findall(r"ray_discovr_(\w+)", (RULES / "alerts.yml").read_text())):
        assert f'"{name}"' in sources, name
