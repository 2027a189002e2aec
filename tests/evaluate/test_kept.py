"""Results go through JSON unchanged, and are kept only as long as what they follow from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from problems import classification, regression

from discovr_ray.evaluate.kept import KeptResults, result_key
from discovr_ray.evaluate.probes import PROBES, Probe
from discovr_ray.evaluate.results import ClassResult, FewResult, NumberResult, to_plain
from discovr_ray.evaluate.settings import ProbeSettings
from discovr_ray.evaluate.splits import Problem
from discovr_ray.evaluate.targets import ClassRule

SETTINGS = ProbeSettings(ClassRule("abnormal"), k=5, few_label_seeds=2, suite="quick")
PROBLEMS = {"class": classification(num_patients=60), "number": regression(num_patients=60)}
OF_NAME = {probe.name: probe for probe in PROBES}


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_every_result_comes_back_as_it_was(probe: Probe, tmp_path: Path) -> None:
    problem = PROBLEMS[probe.about]
    result = probe.run(problem, SETTINGS)
    kept = KeptResults(str(tmp_path))
    kept.put("encoder", probe, "key", result)
    assert kept.get("encoder", probe, "key") == result
    assert kept.get("encoder", probe, "other") is None
    assert kept.get("random", probe, "key") is None
    if not isinstance(result, FewResult):
        assert result.clip_ids == problem.test.clip_ids
        assert result.truth == pytest.approx(problem.test.y.tolist())
    if isinstance(result, ClassResult):
        assert set(result.metrics) == {"macro_f1", "balanced_accuracy", "auroc", "average_precision"}
        assert sum(map(sum, result.confusion)) == len(problem.test.y)
    if isinstance(result, NumberResult):
        assert sum(item.num_videos for item in result.ranges) == len(problem.test.y)


def test_results_without_a_value_are_json_too(tmp_path: Path) -> None:
    """A range of ejection fraction without a video has no bias, and the first one no lower end."""
    problem = PROBLEMS["number"]
    high = problem._replace(test=problem.test._replace(y=problem.test.y + 100))
    result = OF_NAME["ridge"].run(high, SETTINGS)
    text = json.dumps(to_plain(result), allow_nan=False)
    assert '"low": null' in text
    kept = KeptResults(str(tmp_path))
    kept.put("encoder", OF_NAME["ridge"], "key", result)
    found = kept.get("encoder", OF_NAME["ridge"], "key")
    assert isinstance(found, NumberResult)
    assert np.isnan(found.ranges[0].bias)
    assert found.ranges[-1] == result.ranges[-1]  # type: ignore[union-attr]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"key": "key", "result": {"classes": []}}'])
def test_a_damaged_file_is_computed_again(content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "knn.json").write_bytes(content)
    assert KeptResults(str(tmp_path)).get("encoder", OF_NAME["knn"], "key") is None
    assert "is damaged and computed again" in caplog.text


def changed_feature(problem: Problem) -> Problem:
    x = problem.val.x.copy()
    x[0, 0] += 1
    return problem._replace(val=problem.val._replace(x=x))


@pytest.mark.parametrize(
    "change",
    [
        changed_feature,
        lambda problem: problem._replace(test=problem.test._replace(y=problem.test.y[::-1])),
        lambda problem: problem._replace(train=problem.train._replace(patient_ids=problem.train.patient_ids[::-1])),
        lambda problem: problem._replace(classes=("0", "2")),
    ],
    ids=["features", "labels", "patients", "classes"],
)
def test_other_input_has_another_key(change: object) -> None:
    problem = PROBLEMS["class"]
    key = result_key(OF_NAME["knn"], problem, SETTINGS)
    assert key == result_key(OF_NAME["knn"], classification(num_patients=60), SETTINGS)
    assert key != result_key(OF_NAME["knn"], change(problem), SETTINGS)  # type: ignore[operator]
    assert key != result_key(OF_NAME["linear"], problem, SETTINGS)


@pytest.mark.parametrize(
    ("settings", "affected"),
    [
        ({"k": 6}, {"knn"}),
        ({"anomaly_neighbours": 6}, {"anomaly"}),
        ({"few_label_seeds": 3}, {"few_labels", "few_labels_number"}),
        ({"seed": 1}, set(OF_NAME)),
        ({"suite": "paper"}, set(OF_NAME)),  # more draws
        ({"suite": "paper", "resamples": 200}, set()),
        ({"number": "esv"}, set()),  # then the numbers themselves are others
    ],
)
def test_a_setting_touches_only_what_depends_on_it(settings: dict, affected: set[str]) -> None:
    other = dataclasses.replace(SETTINGS, **settings)
    found = {
        name
        for name, probe in OF_NAME.items()
        if result_key(probe, PROBLEMS[probe.about], SETTINGS) != result_key(probe, PROBLEMS[probe.about], other)
    }
    assert found == affected
