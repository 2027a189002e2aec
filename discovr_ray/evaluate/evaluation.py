"""A whole evaluation: what every probe said of every set of features, and what all of it is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from discovr_ray.evaluate.paper import REPORTED
from discovr_ray.evaluate.questions import Questions
from discovr_ray.evaluate.results import Result, to_plain
from discovr_ray.evaluate.settings import ProbeSettings

FORMAT = "discovr-ray evaluation 1"
MODELS = ("encoder", "random", "pixels")  # the one that is evaluated, and the floors
NO_FEATURES = "none"  # in the place of a model, for answers that need no features
VIDEO_LISTS = ("clip_ids", "truth", "predicted", "scores")  # of a result; they stay in its own file

ResultKind = TypeVar("ResultKind", bound=Result)


@dataclass(frozen=True)
class Subject:
    """What was evaluated, on what."""

    encoder: str  # as it was named
    step: int  # optimiser steps of its training
    model_sha256: str
    preprocessing_sha256: str
    preprocessing: dict[str, Any]
    manifest: str
    clips_sha256: str  # manifest.fingerprint
    num_failed: int  # videos without features; they are in no number


@dataclass(frozen=True)
class Evaluation:
    subject: Subject
    settings: ProbeSettings
    questions: Questions
    results: Mapping[str, Mapping[str, Result]]  # model -> name of the probe -> result
    places: npt.NDArray[np.float64]  # [n, 2], map of the encoder's embeddings of `place_rows`
    place_rows: npt.NDArray[np.intp]  # [n], rows of the questions' videos
    versions: Mapping[str, str]

    def of(self, probe: str, kind: type[ResultKind]) -> dict[str, ResultKind]:
        """Model -> its result; empty where the probe was not asked."""
        found = {model: results.get(probe) for model, results in self.results.items()}
        return {model: result for model, result in found.items() if isinstance(result, kind)}

    def to_plain(self) -> dict[str, Any]:
        """What results.json holds."""
        rows, numbers = self.questions.rows, self.questions.numbers
        return {
            "format": FORMAT,
            "subject": to_plain(self.subject),
            "settings": to_plain(self.settings),
            "versions": dict(self.versions),
            "videos": {
                "class": {**rows.counts(), "left_out": rows.left_out},
                "number": {**numbers.rows.counts(), "left_out": numbers.rows.left_out} if numbers else None,
            },
            "classes": list(self.questions.classes.names),
            "number": numbers.name if numbers else None,
            "skipped": dict(self.questions.skipped),
            "results": {
                model: {probe: _short(result) for probe, result in found.items()}
                for model, found in self.results.items()
            },
            "paper": to_plain(list(REPORTED)),
        }


def _short(result: Result) -> dict[str, Any]:
    return {name: value for name, value in to_plain(result).items() if name not in VIDEO_LISTS}
