"""What features know of the phantom behind each video: R2 by ridge regression, fitted and chosen as for the EF.

Labels say what a doctor asks; these facts say what a picture shows first, and so what an encoder may have learned
instead: where the heart lies, how large it looks, and how bright the scanner makes it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from discovr_ray.data.phantom.patient import Patient, Placement, sample_patient
from discovr_ray.evaluate.features import FeatureArray, Features
from discovr_ray.evaluate.metrics import NumberPredictions, number_metrics
from discovr_ray.evaluate.regression import ridge_probe
from discovr_ray.evaluate.splits import Videos, pose, split_rows

Facts = Mapping[str, npt.NDArray[np.float64]]  # name -> [n]


def facts_of(patient_ids: list[str], placement: Placement) -> Facts:
    """Of each video, at end diastole where it changes; lengths and areas as they look, in pixels."""
    patients = [_patient(patient_id, placement) for patient_id in patient_ids]
    facts = {
        "apex, across": [patient.apex_x for patient in patients],
        "apex, down": [patient.apex_y for patient in patients],
        "tilt": [patient.tilt for patient in patients],
        "area of the ventricle": [patient.radius * patient.length for patient in patients],
        "thickness of the wall": [patient.wall for patient in patients],
        "volume, mL": [patient.edv_ml for patient in patients],
        "ejected share": [patient.ejected_share for patient in patients],
        "gain": [patient.gain_db for patient in patients],
    }
    return {name: np.array(values) for name, values in facts.items()}


def knowledge_of(known: Features, x: FeatureArray, facts: Facts) -> dict[str, float]:
    """R2 on the test split for each fact, from features x [n, D] of the videos of `known`."""
    videos = Videos(known.clip_ids, known.patient_ids, known.splits)
    rows = split_rows(videos, np.ones(len(x), bool))
    found = {}
    for name, values in facts.items():
        answers = ridge_probe(pose(videos, x, values, rows)).answers
        assert isinstance(answers, NumberPredictions)
        found[name] = number_metrics(answers)["r2"](None)
    return found


def table(known: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """Rows of text, one a model, the first one their heads."""
    names = list(next(iter(known.values())))
    rows = [[model, *(f"{of[name]:.2f}" for name in names)] for model, of in known.items()]
    return [["known to ridge regression, R²", *names], *rows]


def _patient(patient_id: str, placement: Placement) -> Patient:
    """patient_id is S<seed>-<index>."""
    seed, index = patient_id.removeprefix("S").split("-")
    return sample_patient(int(seed), int(index), placement)
