"""What a trial is worth, from records written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from discovr_ray.config import load_config
from discovr_ray.errors import SweepError
from discovr_ray.sweep.objective import measured, values_at

HEALTHY = {"feature_std": 0.5, "rank_me": 7.5, "prototype_perplexity": 20.0}


def record(step: int, **changes: Any) -> dict[str, Any]:
    return {"step": step, "clips_per_s": 10.0 * step, "knn_balanced_accuracy": 0.6, **HEALTHY, **changes}


def value(name: str, *records: dict[str, Any], step: int = 3) -> float:
    (found,) = values_at(records, step, [name], load_config("demo"))
    return found


def test_figures_of_the_step_that_is_asked_for() -> None:
    records = [record(1), record(3, rank_me=9.0), record(9, rank_me=2.5)]
    assert value("rank_me", *records) == 9.0
    assert value("knn_balanced_accuracy", *records) == 0.6


def test_the_newest_record_of_a_step_counts() -> None:
    assert value("rank_me", record(3, rank_me=4.0), record(3, rank_me=5.0)) == 5.0


@pytest.mark.parametrize(
    "sign", [{"feature_std": 0.01}, {"rank_me": 1.5}, {"prototype_perplexity": 1.2}, {"rank_me": None}]
)
def test_a_collapsed_trial_is_worth_nothing(sign: dict[str, Any]) -> None:
    assert value("rank_me", record(3, **sign)) == 0.0


def test_speed_leaves_out_the_start_and_what_came_later() -> None:
    assert value("clips_per_s", record(1), record(2), record(3), record(9)) == 25.0
    assert value("clips_per_s", record(3)) == 30.0


def test_several_objectives_keep_their_order() -> None:
    config = load_config("demo")
    assert values_at([record(3)], 3, ["knn_balanced_accuracy", "clips_per_s"], config) == [0.6, 30.0]


def test_what_was_not_logged_is_an_error() -> None:
    with pytest.raises(SweepError, match="step 3: the run has not logged it"):
        value("rank_me", record(1))
    without = {name: figure for name, figure in record(3).items() if name != "knn_balanced_accuracy"}
    with pytest.raises(SweepError, match="no knn_balanced_accuracy"):
        value("knn_balanced_accuracy", without)


def test_the_probe_is_switched_on_for_the_knn_alone() -> None:
    config = load_config("demo", ["probe.label=abnormal"])
    assert measured(config, ["knn_balanced_accuracy"], 90).probe.every_steps == 90
    assert measured(config, ["rank_me"], 90).probe.every_steps == 0
