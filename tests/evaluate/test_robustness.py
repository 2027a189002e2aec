"""Degradations do what they are called after, one clip always the same way; probes fitted on clean videos see them."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest
from problems import classification, regression

from discovr_ray.data.phantom.patient import sample_patient
from discovr_ray.data.phantom.render import render
from discovr_ray.evaluate.degradations import (
    KINDS,
    LEVELS,
    LEVELS_PER_DB,
    DegradedPreprocessing,
    degrade,
    degraded_id,
    held,
    parse_degraded_id,
)
from discovr_ray.evaluate.embedding import Preprocessing
from discovr_ray.evaluate.linear import linear_probe
from discovr_ray.evaluate.metrics import class_metrics
from discovr_ray.evaluate.results import to_plain
from discovr_ray.evaluate.robustness import robustness, robustness_from_plain
from discovr_ray.evaluate.settings import ProbeSettings
from discovr_ray.evaluate.targets import ClassRule

SETTINGS = ProbeSettings(ClassRule("abnormal"), k=5, resamples=100)
Frames = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def frames() -> Frames:
    """One temporal clip of a phantom, [1, 16, 112, 112]."""
    return render(sample_patient(7, 1))[None, :16]


@pytest.mark.parametrize("kind", KINDS)
def test_a_level_is_worse_than_the_one_before_and_always_the_same(kind: str, frames: Frames) -> None:
    distances = []
    for level in LEVELS:
        worse = degrade(frames, kind, level, "a")
        assert worse.shape == frames.shape
        assert worse.dtype == np.uint8
        assert np.array_equal(worse, degrade(frames, kind, level, "a"))
        assert not worse[:, :, (frames == 0).all(axis=(0, 1))].any(), "what is no echo stays black"
        distances.append(np.abs(worse.astype(float) - frames).mean())
    assert 0 < distances[0] < distances[1] < distances[2]


def test_what_the_names_say(frames: Frames) -> None:
    bright = np.full((1, 8, 60, 60), 200, np.uint8)
    assert (degrade(bright, "gain", 1, "a") == round(200 - 6 * LEVELS_PER_DB)).all()
    rows = degrade(bright, "attenuation", 2, "a")[0, 0, :, 0].astype(int)
    assert rows[0] == 200
    assert rows[-1] == round(200 - 20 * LEVELS_PER_DB)
    assert (np.diff(rows) <= 0).all()
    haze = degrade(bright, "haze", 3, "a")[0, 0, :, 0].astype(int)
    assert haze[0] > haze[-1] >= 200
    noise = degrade(bright, "speckle", 1, "a").astype(float)
    assert not np.array_equal(noise[0, 0], noise[0, 1]), "new in every frame"
    assert abs(noise.mean() - 200) < 2, "brightness stays"
    one, other = (degrade(bright, "dropout", 3, clip_id)[0, 0] for clip_id in ("a", "b"))
    assert not np.array_equal(one, other), "the sector lies elsewhere in another clip"
    assert 0.05 < (one < 100).mean() < 0.5
    held = degrade(frames, "frame_rate", 2, "a")
    assert np.array_equal(held[0, :8], np.repeat(frames[0, [0, 4]], 4, axis=0))


def test_a_lower_frame_rate_keeps_the_outlined_frame() -> None:
    for place in range(10):
        for every in (2, 4, 8):
            shown = held(10, every, place)
            assert shown[place] == place
            assert (np.diff(shown) >= 0).all()
            assert set(shown) == {frame for frame in range(10) if frame % every == place % every}
            assert (shown[place % every :] <= np.arange(10)[place % every :]).all(), "no picture before it was taken"
    assert held(10, 4).tolist() == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]


def test_names_come_back_and_features_are_never_mixed_with_clean_ones() -> None:
    assert parse_degraded_id(degraded_id("a#b", "gain", 2)) == ("a#b", "gain", 2)
    clean = Preprocessing(16, 64, 3, 50.0, "fit_stride", (0.5,) * 3, (0.5,) * 3, 4)
    assert DegradedPreprocessing(**clean.__dict__).sha256 != clean.sha256


def test_probes_know_clean_videos_only() -> None:
    """Level 1 changes nothing, level 2 shifts all test videos by a constant, level 3 swaps the classes' axes."""
    problems = {"class": classification(num_patients=60), "number": regression(num_patients=60)}
    generator = np.random.default_rng(0)
    degraded = {}
    for problem in problems.values():
        for clip_id, x in zip(problem.test.clip_ids, problem.test.x, strict=True):
            for level, values in ((1, x), (2, x + 1.0), (3, x[[1, 0, *range(2, 8)]])):
                degraded.setdefault(degraded_id(clip_id, "gain", level), values.astype(np.float32))
    # the two problems have videos of the same names and other features, so each is asked alone
    found = robustness({"class": problems["class"]}, degraded, ("gain",), SETTINGS)
    of = {(point.probe, point.level): point for point in found.points}
    assert set(of) == {(probe, level) for probe in ("knn", "linear") for level in (0, 1, 2, 3)}
    clean = linear_probe(problems["class"]).answers
    assert of["linear", 0].value.value == pytest.approx(class_metrics(clean)["macro_f1"](None))
    for probe in ("knn", "linear"):
        assert of[probe, 1].drop == (0, 0, 0), "the same videos are the same answers, in every draw"
        assert of[probe, 3].drop.low > 0, "the other class's axis is clearly worse"
        assert of[probe, 3].drop.value == pytest.approx(of[probe, 0].value.value - of[probe, 3].value.value)
    assert robustness_from_plain(json.loads(json.dumps(to_plain(found)))) == found
    numbers = {name: problems["number"].test.x[place] for place, name in enumerate(problems["number"].test.clip_ids)}
    noisy = {
        degraded_id(name, "gain", level): (x + level * generator.normal(size=8)).astype(np.float32)
        for name, x in numbers.items()
        for level in LEVELS
    }
    points = robustness({"number": problems["number"]}, noisy, ("gain",), SETTINGS).points
    assert [point.probe for point in points] == ["ridge"] * 4
    assert points[3].drop.value > points[1].drop.value > 0, "an error that grows is a drop, too"
