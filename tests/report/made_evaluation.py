"""A whole evaluation of made-up features, without an encoder: class and number are as clear as a test wants."""

from __future__ import annotations

import numpy as np

from discovr_ray.evaluate.embedding_map import embedding_map
from discovr_ray.evaluate.evaluation import NO_FEATURES, Evaluation, Subject
from discovr_ray.evaluate.kept import library_versions
from discovr_ray.evaluate.probes import PROBES
from discovr_ray.evaluate.questions import pose_questions, problem_of
from discovr_ray.evaluate.results import Result
from discovr_ray.evaluate.settings import ProbeSettings
from discovr_ray.evaluate.splits import Videos
from discovr_ray.evaluate.targets import ClassRule

SPLITS = ("TRAIN", "TRAIN", "TRAIN", "VAL", "TEST")


def made_evaluation(clearness: float = 3.0, label: str = "abnormal", num_videos: int = 150) -> Evaluation:
    """The encoder's first feature tells the class and the number, those of the floors tell nothing.

    Labels: abnormal 0 or 1 and ef; with `label` "view" three classes of which none is normal, and no number.
    """
    generator = np.random.default_rng(0)
    codes = np.arange(num_videos) // 5 % (2 if label == "abnormal" else 3)
    ef = 60 - 20 * codes + generator.normal(scale=3, size=num_videos)
    labels = [
        {"abnormal": int(code), "ef": float(value)} if label == "abnormal" else {label: "ABC"[code]}
        for code, value in zip(codes, ef, strict=True)
    ]
    ids = [f"video <{number}>" for number in range(num_videos)]
    videos = Videos(ids, [f"p{number}" for number in range(num_videos)], [SPLITS[n % 5] for n in range(num_videos)])
    settings = ProbeSettings(ClassRule(label), k=5, resamples=200, few_label_seeds=2)
    questions = pose_questions(videos, labels, settings)
    noise = {name: generator.normal(size=(num_videos, 8)) for name in ("encoder", "random", "pixels")}
    noise["encoder"] += clearness * np.eye(8)[codes]
    inputs = {name: values.astype(np.float32) for name, values in noise.items()}
    results: dict[str, dict[str, Result]] = {name: {} for name in (*inputs, NO_FEATURES)}
    for probe in PROBES:
        if probe.name not in questions.skipped:
            for model in inputs if probe.of_features else (NO_FEATURES,):
                problem = problem_of(questions, probe.about, inputs.get(model, inputs["encoder"]))
                results[model][probe.name] = probe.run(problem, settings)
    rows = questions.rows.test
    subject = Subject("runs/<mine>", 180, "a" * 64, "b" * 64, {"num_frames": 16}, "manifest.parquet", "c" * 64, 2)
    places = embedding_map(inputs["encoder"][rows], 0)
    return Evaluation(subject, settings, questions, results, places, rows, library_versions())
