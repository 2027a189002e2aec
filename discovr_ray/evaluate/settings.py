"""What is asked of a set of features, and how; everything that the numbers depend on besides features and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from discovr_ray.errors import ConfigError
from discovr_ray.evaluate.targets import ClassRule

DEFAULT_NUMBER = "ef"  # percent
QUICK_RESAMPLES = 200


@dataclass(frozen=True)
class ProbeSettings:
    """Settings of all probes. What is chosen on the validation split is not among them."""

    classes: ClassRule
    number: str = ""  # label of the regression; "": DEFAULT_NUMBER, where a video has it
    feature: Literal["cls", "patches"] = "cls"  # CLS token, or mean patch feature
    k: int = 20  # nearest training videos that vote
    temperature: float = 0.07  # of the votes; lower counts the nearest more
    anomaly_neighbours: int = 5  # nearest normal training videos whose mean distance is the score
    suite: Literal["paper", "quick"] = "paper"  # quick: kNN, anomalies, linear, ridge, and 200 draws
    resamples: int = 1000  # draws of patients for an interval
    few_label_seeds: int = 5  # draws of patients for each share of labels
    finetune_blocks: int = 0  # last blocks of the encoder that are tuned, as a question of its own; 0: not asked
    seed: int = 0  # of draws, MLP head, principal components, map and random encoder

    def __post_init__(self) -> None:
        rules = {
            f"label = {self.classes.label!r}: a label must be named": bool(self.classes.label),
            f"feature = {self.feature!r}: must be cls or patches": self.feature in ("cls", "patches"),
            f"suite = {self.suite!r}: must be paper or quick": self.suite in ("paper", "quick"),
            f"k = {self.k}: must be at least 1": self.k >= 1,
            f"temperature = {self.temperature}: must be above 0": self.temperature > 0,
            f"anomaly_neighbours = {self.anomaly_neighbours}: must be at least 1": self.anomaly_neighbours >= 1,
            f"resamples = {self.resamples}: must be at least 100": self.resamples >= 100,
            f"few_label_seeds = {self.few_label_seeds}: must be at least 1": self.few_label_seeds >= 1,
            f"finetune_blocks = {self.finetune_blocks}: must be at least 0": self.finetune_blocks >= 0,
            f"finetune_blocks = {self.finetune_blocks}: only the suite paper asks it": (
                not self.finetune_blocks or self.suite == "paper"
            ),
            f"seed = {self.seed}: must be from 0 to 2^32 - 1": 0 <= self.seed < 2**32,
        }
        if problems := [rule for rule, kept in rules.items() if not kept]:
            raise ConfigError(problems)

    @property
    def draws(self) -> int:
        return min(self.resamples, QUICK_RESAMPLES) if self.suite == "quick" else self.resamples
