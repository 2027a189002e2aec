"""cluster/grafana/: a dashboard that Grafana understands, of figures that runs and Ray really export."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_files import FOLDER, ROOT
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

GRAFANA = FOLDER / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "discovr.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}


def metric_names() -> set[str]:
    queries = [*EXPRESSIONS, VARIABLES["run"]["query"]]
    return {name for text in queries for name in re.findall(r"\b(ray_\w+|up)\b", text)}


def lost(written: Any, understood: Any, place: str = "") -> list[str]:
    """What is in the file and not in what was read from it; defaults that were added do not count."""
    if isinstance(written, dict) and isinstance(understood, dict):
        return [
            text
            for key, value in written.items()
            if value is not None
            for text in (lost(value, understood[key], f"{place}.{key}") if key in understood else [f"{place}.{key}"])
        ]
    if isinstance(written, list) and isinstance(understood, list) and len(written) == len(understood):
        pairs = zip(written, understood, strict=True)
        return [text for number, pair in enumerate(pairs) for text in lost(*pair, f"{place}[{number}]")]
    return [] if written == understood else [f"{place}: {written!r} is read as {understood!r}"]


def test_grafanas_own_schema_knows_every_field() -> None:
    register_default_plugins()
    understood = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))
    assert lost(DASHBOARD, understood) == []
    spoilt = {**DASHBOARD, "refesh": "30s"}
    assert lost(spoilt, json.loads(JSONEncoder().encode(Dashboard.from_json(spoilt)))) == [".refesh"]


def test_panels_do_not_overlap_and_have_names_of_their_own() -> None:
    places = [
        (panel["gridPos"]["x"] + column, panel["gridPos"]["y"] + row)
        for panel in DASHBOARD["panels"]
        for column in range(panel["gridPos"]["w"])
        for row in range(panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))
    assert max(column for column, _ in places) == 23, "Grafana's grid has 24 columns"
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all(panel["description"] for panel in DASHBOARD["panels"] if panel["type"] != "row")


def test_every_metric_is_one_that_a_run_or_ray_exports() -> None:
    from ray.dashboard.modules.metrics.dashboards import default_dashboard_panels
    from ray.dashboard.modules.reporter.reporter_agent import GPU_TAG_KEYS, METRICS_GAUGES

    names = metric_names()
    folders = (ROOT / "discovr_ray/train", ROOT / "discovr_ray/launch")
    ours = "\n".join(path.read_text() for folder in folders for path in folder.glob("*.py"))
    for name in sorted(names):
        figure = name.removeprefix("ray_discovr_")
        if figure != name:
            assert f'"{figure}"' in ours, name
        elif name.removeprefix("ray_") not in METRICS_GAUGES and name != "up":  # Prometheus makes `up`
            assert f"({name}{{" in inspect.getsource(default_dashboard_panels), name
    asked_for = {"loss", "loss_vid", "loss_img", "loss_scd", "feature_std", "rank_me", "prototype_perplexity"}
    asked_for |= {"video_teacher_entropy", "clips_per_s", "data_wait_share", "health_warnings"}
    assert {f"ray_discovr_{figure}" for figure in asked_for} | {"ray_node_gram_used"} <= names
    assert "GpuIndex" in GPU_TAG_KEYS


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")
def test_prometheus_answers_every_expression(tmp_path: Path) -> None:
    """With one series of each metric, every panel has something to draw."""
    labels = 'run="first", instance="n1", job="ray", GpuIndex="0", Location="MMAP_SHM"'
    series = [{"series": f"{name}{{{labels}}}", "values": "1x10"} for name in sorted(metric_names())]
    expected = [{"labels": "{}", "value": 1}]
    cases = [
        {"expr": f"count({text.replace('$run', '.*')})", "eval_time": "5m", "exp_samples": expected}
        for text in EXPRESSIONS
    ]
    rules = tmp_path / "dashboard.yml"
    rules.write_text(yaml.safe_dump({"tests": [{"input_series": series, "promql_expr_test": cases, "interval": "1m"}]}))
    done = subprocess.run(["promtool", "test", "rules", str(rules)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_provisioning_files_fit_the_dashboard_and_prometheus() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert VARIABLES["source"]["current"]["value"] == source["uid"]
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"] if panel["type"] != "row"} == {"${source}"}
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/discovr.yaml").read_text())["providers"]
    variable = provider["options"]["path"].removeprefix("$")
    page = (ROOT / "docs/dashboards.md").read_text()
    assert f"{variable}=$PWD/cluster/grafana/dashboards" in page, "the command of the page sets it"
    settings = yaml.safe_load((FOLDER / "prometheus/prometheus.yml").read_text())
    assert [job["job_name"] for job in settings["scrape_configs"]] == ["ray"], "`up` is asked for by this name"
    assert source["url"].removeprefix("http://") in (FOLDER / "prometheus/prometheus.yml").read_text()
