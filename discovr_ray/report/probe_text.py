"""Numbers of an evaluation as a reader sees them: percent where the paper has percent, with the interval."""

from __future__ import annotations

from typing import NamedTuple

from discovr_ray.evaluate.bootstrap import Estimate


class Shown(NamedTuple):
    """How a metric is written."""

    title: str
    scale: float
    form: str
    higher_is_better: bool = True


METRICS = {
    "macro_f1": Shown("macro F1, %", 100, ".1f"),
    "balanced_accuracy": Shown("balanced accuracy, %", 100, ".1f"),
    "auroc": Shown("AUROC, %", 100, ".1f"),
    "average_precision": Shown("average precision, %", 100, ".1f"),
    "dice": Shown("Dice, %", 100, ".1f"),
    "hd95": Shown("95 % Hausdorff distance, pixels", 1, ".1f", higher_is_better=False),
    "mae": Shown("MAE", 1, ".2f", higher_is_better=False),
    "rmse": Shown("RMSE", 1, ".2f", higher_is_better=False),
    "r2": Shown("R²", 1, ".3f"),
}


def number(value: float, metric: str) -> str:
    shown = METRICS[metric]
    digits = int(shown.form[1])
    return format(round(shown.scale * value, digits) + 0.0, shown.form)  # + 0.0: no minus before a zero


def of_paper(value: float, metric: str) -> str:
    """With the digits that the paper gives."""
    return f"{METRICS[metric].scale * value:.4g}"


def with_interval(found: Estimate, metric: str) -> str:
    """Such as 61.4 (57.9 to 65.0)."""
    return f"{number(found.value, metric)} ({number(found.low, metric)} to {number(found.high, metric)})"


def is_clearly_better(one: Estimate, other: Estimate, metric: str) -> bool:
    """Whether the intervals do not overlap."""
    return one.low > other.high if METRICS[metric].higher_is_better else one.high < other.low


def is_better(one: Estimate, other: Estimate, metric: str) -> bool:
    return one.value > other.value if METRICS[metric].higher_is_better else one.value < other.value
