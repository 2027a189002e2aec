"""Shares of the training patients: nested, whole patients, every class there."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from problems import classification, regression

from discovr_ray.evaluate.few_labels import SHARES, few_labels
from discovr_ray.evaluate.linear import linear_probe
from discovr_ray.evaluate.metrics import class_metrics
from discovr_ray.evaluate.splits import Problem


def test_shares_are_nested_and_of_whole_patients() -> None:
    problem = classification(num_patients=500)
    seen: list[Problem] = []
    found = few_labels(problem, seen.append, seeds=range(3))
    assert [(few.share, few.seed) for few in found] == [
        *((share, 0) for share in SHARES),
        *((share, seed) for seed in (1, 2) for share in SHARES[:-1]),
    ]
    by_seed = {seed: [part for part, few in zip(seen, found, strict=True) if few.seed == seed] for seed in range(3)}
    for parts in by_seed.values():
        clips = [set(part.train.clip_ids) for part in parts]
        assert all(small < large for small, large in pairwise(clips))
        for part in parts:
            patients = set(part.train.patient_ids)
            assert len(part.train.clip_ids) == 2 * len(patients), "both videos of a patient or none"
            assert part.val is problem.val
            assert part.test is problem.test
    assert [few.num_patients for few in found[:4]] == [3, 15, 30, 300]
    assert [few.num_videos for few in found[:4]] == [6, 30, 60, 600]
    assert by_seed[0][0].train.clip_ids != by_seed[1][0].train.clip_ids


def test_a_share_grows_until_it_has_every_class() -> None:
    """1 % of 60 patients is one, and there are 3 classes."""
    seen: list[Problem] = []
    found = few_labels(classification(num_classes=3), seen.append, seeds=range(5))
    for part, few in zip(seen, found, strict=True):
        assert set(part.train.y) == {0, 1, 2}
        assert few.num_patients == len(set(part.train.patient_ids)) >= 3
    assert min(few.num_patients for few in found) < 10


def test_a_regression_has_at_least_the_patients_it_needs() -> None:
    found = few_labels(regression(), lambda part: None, seeds=range(1), min_patients=5)
    assert [few.num_patients for few in found] == [5, 5, 6, 60]


def test_more_labels_help() -> None:
    problem = classification(num_patients=400, noise=2)
    found = few_labels(problem, lambda part: linear_probe(part).answers, seeds=range(3))
    scores = {
        share: np.mean([class_metrics(few.answers)["macro_f1"](None) for few in found if few.share == share])
        for share in SHARES
    }
    assert scores[0.01] < scores[0.1] < scores[1.0]
