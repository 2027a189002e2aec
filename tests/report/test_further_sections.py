"""What is asked beside the probes, on the page: numbers beside the floors, masks over frames, drops of each grade."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from discovr_ray.evaluate.bootstrap import Estimate, draw_for_classes, draw_for_numbers
from discovr_ray.evaluate.degradations import KINDS, LEVELS
from discovr_ray.evaluate.metrics import ClassPredictions, NumberPredictions
from discovr_ray.evaluate.results import ClassResult, NumberResult, class_result, number_result
from discovr_ray.evaluate.robustness import Point, RobustnessResult
from discovr_ray.evaluate.segmentation_scores import EMPTY_MASK, NO_LABEL, Hearts, SegmentationResult
from discovr_ray.report.attentive_section import attentive_section
from discovr_ray.report.fine_tuning_section import fine_tuning_section
from discovr_ray.report.overlays import LINE, overlay
from discovr_ray.report.probe_text import with_interval
from discovr_ray.report.robustness_sections import robustness_section
from discovr_ray.report.section import Picture, section_html
from discovr_ray.report.segmentation_sections import SegmentationPart, not_asked, segmentation_sections


def estimate(value: float) -> Estimate:
    return Estimate(value, value - 0.02, value + 0.02)


def result(dice: float, nothing: int = 0, structures: tuple[str, ...] = ("lv", "la")) -> SegmentationResult:
    names = (*structures, "mean") if len(structures) > 1 else structures
    return SegmentationResult(
        structures=list(structures),
        metrics={name: {"dice": estimate(dice), "hd95": estimate(5.0)} for name in names},
        nothing_predicted=dict.fromkeys(structures, nothing),
        ejection_fraction={name: estimate(4.0) for name in ("mae", "rmse", "r2")} if not nothing else {},
        num_hearts=0 if nothing else 7,
        chosen={"weight_decay": 3.0},
        validation={},
        no_ejection_fraction={EMPTY_MASK: [f"h{place}" for place in range(7)]} if nothing else {},
        clip_ids=[],
        frames=[],
        dice=[],
        hd95=[],
        hearts=[],
        ef_truth=[],
        ef_predicted=[],
    )


IDS = [f"v{place}" for place in range(60)]
CODES = np.arange(60) % 2


def made_classes(noise: float) -> ClassResult:
    second = 1 / (1 + np.exp(-(2 * CODES - 1 + noise * np.random.default_rng(0).normal(size=60))))
    answers = ClassPredictions(CODES, (second > 0.5).astype(np.int64), np.stack([1 - second, second], axis=1))
    return class_result(["0", "1"], IDS, answers, draw_for_classes(np.array(IDS), CODES, 100, 0))


def made_numbers(noise: float) -> NumberResult:
    truth = 40.0 + np.arange(60) / 3
    answers = NumberPredictions(truth, truth + noise * np.random.default_rng(0).normal(size=60))
    return number_result(IDS, answers, draw_for_numbers(np.array(IDS), truth, 100, 0))


def part(**dice: float) -> SegmentationPart:
    results = {model: result(value, nothing=3 if model == "pixels" else 0) for model, value in dice.items()}
    still = Picture("worst: <clip>", "frame 3", np.zeros((1, 8, 8, 3), np.uint8))
    hearts = Hearts(["h"] * 7, np.zeros(7), np.zeros(7), {NO_LABEL: ["unlabelled"]})
    experts = {name: estimate(1.5) for name in ("mae", "rmse", "r2")}, hearts
    remarks = ["Left out: frames without all of lv, la: 4."]
    return SegmentationPart(("lv", "la"), results, experts, {"TRAIN": 20, "TEST": 9}, remarks, [still], [])


def test_segmentation_stands_beside_floors_and_paper() -> None:
    sections = segmentation_sections(part(encoder=0.9, random=0.7, pixels=0.6, none=0.8))
    assert [section.slug for section in sections] == ["segmentation", "segmentation-frames"]
    (finding,) = sections[0].findings
    assert finding.level == "good"
    text = "".join(section_html(section)[2] for section in sections)
    for words in (
        "90.0 (88.0 to 92.0)",
        "mean mask",
        "left atrium",
        "mean of all",
        "Dice 84.4 % on CAMUS",
        "pixels of patches predicts no left ventricle in 3 frame(s)",
        "Left out: frames without all of lv, la: 4.",
        "the experts&#x27; outlines",
        "by anybody&#x27;s masks: 1 video, no label of the ejection fraction (unlabelled)",
        "by pixels of patches: 7 videos, a mask of the left ventricle is empty (h0, h1, h2, h3, h4, h5, h6)",
        "worst: &lt;clip&gt;",
    ):
        assert words in text, words


def test_nothing_predicted_by_any_model_is_no_missing_table() -> None:
    of = part(encoder=0.9, random=0.7, pixels=0.6, none=0.8)
    empty = of._replace(results={model: result(0.1, nothing=3) for model in of.results})
    assert "by this encoder: 7 videos, a mask" in section_html(segmentation_sections(empty)[0])[2]
    unlabelled = {model: replace(found, no_ejection_fraction={}) for model, found in empty.results.items()}
    text = section_html(segmentation_sections(of._replace(results=unlabelled))[0])[2]
    assert "No ejection fraction from masks: 1 video, no label of the ejection fraction (unlabelled)." in text


def test_a_floor_that_is_as_good_is_said() -> None:
    for mean_mask, level in ((0.95, "bad"), (0.89, "watch")):
        sections = segmentation_sections(part(encoder=0.9, random=0.7, pixels=0.6, none=mean_mask))
        assert sections[0].findings[0].level == level
        assert "mean mask" in sections[0].findings[0].sentence


def test_attentive_probe_and_fine_tuning_stand_beside_what_has_learnt_nothing() -> None:
    noise = {"encoder": 0.1, "random": 3.0, "pixels": 3.0}
    classes = {model: made_classes(value) for model, value in noise.items()}
    numbers = {model: made_numbers(value) for model, value in noise.items()}
    section = attentive_section({"class": classes, "number": numbers}, num_failed=2)
    assert [finding.level for finding in section.findings] == ["good", "good"]
    text = section_html(section)[2]
    assert with_interval(numbers["pixels"].metrics["mae"], "mae") in text
    assert "in no number here: 2 videos" in text
    tuned = {model: numbers[model] for model in ("encoder", "random")}
    text = section_html(fine_tuning_section(tuned, 3))[2]
    assert "The last 3 block(s)" in text
    assert "The paper: MAE 6.32 on EchoNet-Dynamic, last three blocks tuned." in text
    of_classes = fine_tuning_section({model: classes[model] for model in tuned}, 1)
    assert "The paper" not in section_html(of_classes)[2], "the paper tunes for ejection fraction alone"


def test_what_is_not_asked_is_said() -> None:
    assert "Not asked: no outlines: none there." in section_html(not_asked("a", "A", "no outlines: none there"))[2]


def test_masks_lie_over_the_frame() -> None:
    frame = np.full((1, 32, 32), 100, np.uint8)
    predicted, truth = np.zeros((2, 1, 32, 32), np.uint8)
    predicted[0, 4:10, 4:10] = 1
    predicted[0, 20:24, 20:24] = 2
    truth[0, 12:18, 12:18] = 1
    picture = overlay(frame, predicted, truth)
    factor = picture.shape[1] // 32
    assert picture.shape == (1, 32 * factor, 32 * factor, 3)
    assert factor == 6
    assert (picture[0, 0, 0] == 100).all(), "nothing there, nothing changed"
    one, two = picture[0, 5 * factor, 5 * factor], picture[0, 21 * factor, 21 * factor]
    assert one[2] > one[0], "the first structure is blue"
    assert two[0] > two[2], "the second one orange"
    assert (picture[0, 12 * factor, 14 * factor] == LINE).all(), "the expert's edge"
    assert (picture[0, 15 * factor, 15 * factor] == 100).all(), "and not its inside"


@pytest.mark.parametrize(("metric", "unit", "scale"), [("macro_f1", "points", 100), ("mae", "MAE", 1)])
def test_each_grade_has_its_drop(metric: str, unit: str, scale: float) -> None:
    probe = "linear" if metric == "macro_f1" else "ridge"
    points = [Point(probe, metric, "clean", 0, estimate(0.8), Estimate(0.0, 0.0, 0.0))]
    points += [
        Point(probe, metric, kind, level, estimate(0.8 - 0.1 * level), estimate(0.1 * level))
        for kind in KINDS
        for level in LEVELS
    ]
    floor = [point._replace(drop=estimate(0.05 * point.level)) for point in points]
    results = {model: RobustnessResult(of, {"class": 9}) for model, of in (("encoder", points), ("random", floor))}
    section = robustness_section(results, tuple(KINDS))
    (table,), (chart,) = section.tables, section.charts
    assert len(table.rows) == 1 + 3 * len(KINDS)
    assert table.head[3] == table.head[5] == f"Drop, {unit}"
    assert table.head[4].endswith(", random weights")
    assert table.rows[2][1] == "12 dB less gain"
    assert table.rows[2][3].startswith(f"{scale * 0.2:+.1f} (")
    assert table.rows[2][5].startswith(f"{scale * 0.1:+.1f} (")
    assert all(len(row) == len(table.head) for row in table.rows)
    data = chart.figure["data"]
    assert [line["name"] for line in data if line["showlegend"]] == [kind.replace("_", " ") for kind in KINDS]
    assert data[0]["y"] == pytest.approx([0, scale * 0.1, scale * 0.2, scale * 0.3])
    assert data[len(KINDS)]["y"] == pytest.approx([0, scale * 0.05, scale * 0.1, scale * 0.15])
    assert "frame rate" in section_html(section)[2]
