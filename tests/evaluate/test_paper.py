"""The paper's numbers, repeated here so that a slip of the finger in one place is seen."""

from __future__ import annotations

import pytest

from discovr_ray.evaluate.paper import OPEN, REPORTED, reported


def test_the_main_numbers() -> None:
    percent = {
        (item.probe, item.metric, item.data_set): 100 * item.value
        for item in reversed(REPORTED)  # so that the plain numbers, which come first, stand
        if item.metric != "mae"
    }
    assert percent == pytest.approx(
        {
            ("knn", "macro_f1", "EchoNet-Dynamic"): 61.45,
            ("knn", "balanced_accuracy", "EchoNet-Dynamic"): 63.20,
            ("knn", "macro_f1", "RVENet"): 53.88,
            ("knn", "macro_f1", "EchoPediatric-LVH"): 54.63,
            ("knn", "macro_f1", "FetalEcho-1"): 61.79,
            ("knn", "macro_f1", "FetalEcho-2"): 56.69,
            ("linear", "macro_f1", "EchoNet-Dynamic"): 77.63,
            ("linear", "macro_f1", "FetalEcho-2"): 63.59,
            ("linear", "macro_f1", "RVENet"): 62.65,
            ("segmentation", "dice", "CAMUS"): 84.4,
        }
    )
    found = reported("knn", "macro_f1")
    assert found is not None
    assert (found.value, found.about) == (0.6145, ""), "not that of an ablation"
    assert reported("anomaly", "auroc") is None
    assert len(OPEN) == len({choice.question for choice in OPEN})
