"""Made-up videos whose features tell their class and number as clearly as a test wants."""

from __future__ import annotations

import numpy as np

from discovr_ray.evaluate.splits import Problem, Videos, class_rows, pose, split_rows
from discovr_ray.evaluate.targets import Classes

SPLITS = ("TRAIN", "TRAIN", "TRAIN", "VAL", "TEST")


def videos(num_patients: int, videos_each: int = 2) -> Videos:
    """Patients in turn of SPLITS, each with so many videos."""
    patients = [place for place in range(num_patients) for _ in range(videos_each)]
    ids = [f"v{place:04d}" for place in range(len(patients))]
    return Videos(ids, [f"p{place}" for place in patients], [SPLITS[place % len(SPLITS)] for place in patients])


def classification(num_patients: int = 100, noise: float = 1.0, seed: int = 0, num_classes: int = 2) -> Problem:
    """Class c lies around the c-th axis of 8; patients have one class. Class 0 is normal."""
    generator = np.random.default_rng(seed)
    known = videos(num_patients)
    codes = np.array([int(patient[1:]) // len(SPLITS) % num_classes for patient in known.patient_ids])
    x = 2 * np.eye(8)[codes] + noise * generator.normal(size=(len(codes), 8))
    classes = Classes(tuple(str(code) for code in range(num_classes)), 0, codes)
    return pose(known, x.astype(np.float32), codes, class_rows(known, classes), classes)


def regression(num_patients: int = 100, noise: float = 3.0, seed: int = 0) -> Problem:
    """Number = 50 + 10 * first feature + 5 * second one + noise."""
    generator = np.random.default_rng(seed)
    known = videos(num_patients)
    x = generator.normal(size=(len(known.clip_ids), 8)).astype(np.float32)
    y = 50 + 10 * x[:, 0] + 5 * x[:, 1] + noise * generator.normal(size=len(x))
    return pose(known, x, y.astype(np.float64), split_rows(known, np.ones(len(x), bool)))
