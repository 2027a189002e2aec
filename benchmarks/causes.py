"""Why the numbers are what they are: the trial with the suspects changed, one at a time, and the ceiling.

The ceiling is the same encoder taught by labels: what it could know after as many steps, by the same questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from brightness import change_brightness
from taught import taught
from variants import Variant, in_changed_workers

from discovr_ray.config import Config


def _temperature(value: float) -> dict[str, float]:
    return {"teacher_temperature_start": value, "teacher_temperature": value}


def as_long(config: Config) -> Mapping[str, Mapping[str, Any]]:
    """As many epochs as the trial's own run, whatever the other variants have."""
    return {"schedule": {"epochs": config.schedule.epochs}}


SHARP = {"loss": _temperature(0.02), "schedule": {"ema_momentum": 0.95}}
FEW_OUTPUTS = {
    "loss": {**_temperature(0.03), "centre_momentum": 0.5, "w_vid": 1.0, "w_img": 1.0},
    "model": {"head_outputs": 128},
    "optim": {"lr": 1e-2},
}

CAUSES = (
    Variant("students of another brightness", "brightness", {}, in_changed_workers(change_brightness)),
    Variant("a sharp teacher (0.02) that moves fast", "sharp", SHARP),
    Variant("a teacher of 0.03 with 128 outputs and a quick centre", "few-outputs", FEW_OUTPUTS),
    Variant("SCD alone", "scd-alone", {"loss": {"w_vid": 0.0, "w_img": 0.0}}),
    Variant("taught by labels", "labels", {}, taught),
    Variant("taught by labels, as long as the run above", "labels-long", as_long, taught),
)
