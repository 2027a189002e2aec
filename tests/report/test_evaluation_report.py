"""The page of an evaluation: every number beside the floors and the paper, judged, and readable without a network."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import plotly.graph_objects
import pyarrow as pa
import pytest
from made_evaluation import made_evaluation
from page_reader import CHROMIUM, Page, drawn_page, screenshot
from PIL import Image

from discovr_ray.data.manifest import SCHEMA
from discovr_ray.evaluate.evaluation import Evaluation
from discovr_ray.evaluate.results import ClassResult, NumberResult
from discovr_ray.report.cases import Case, case_sections, class_cases, extremes, number_cases
from discovr_ray.report.evaluation_page import evaluation_page
from discovr_ray.report.probe_sections import main_table, summary
from discovr_ray.report.probe_text import number, with_interval
from discovr_ray.report.section import Picture, Section, Table, section_html


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return made_evaluation()


@pytest.fixture(scope="module")
def page(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Page:
    still = Picture("Mask of <one>", "left ventricle", np.full((1, 20, 30, 3), 90, np.uint8))
    further = Section("segmentation", "Segmentation", ["A head on patch tokens."], pictures=[still])
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(evaluation_page(evaluation, [], [further], "today"))
    return Page(str(path))


def test_every_number_stands_beside_floors_and_paper(evaluation: Evaluation) -> None:
    table = main_table(evaluation)
    assert list(table.head) == [
        "Probe",
        "Metric",
        "this encoder",
        "random weights",
        "pixels, PCA",
        "paper, EchoNet-Dynamic",
    ]
    of = {(row[0], row[1]): row for row in table.rows}
    assert len(of) == 3 * 4 + 3
    knn = evaluation.of("knn", ClassResult)
    row = of["Zero-shot kNN", "macro F1, %"]
    assert row[2] == with_interval(knn["encoder"].metrics["macro_f1"], "macro_f1")
    assert row[3] == with_interval(knn["random"].metrics["macro_f1"], "macro_f1")
    assert row[5] == "61.45"
    assert of["Regression", "MAE"][5] == "7.79"
    assert of["Anomaly detection", "AUROC, %"][5] == ""


def test_the_encoder_is_judged_against_the_floors(evaluation: Evaluation) -> None:
    clear = {item.title: item for item in summary(evaluation).findings}
    assert {item.level for item in clear.values()} == {"good"}
    assert set(clear) == {"Zero-shot kNN", "Anomaly detection", "Linear probe", "Regression"}
    assert "random weights" in clear["Regression"].scale
    dull = summary(made_evaluation(clearness=0)).findings
    assert "good" not in {item.level for item in dull}
    assert [item.level for item in dull] == sorted((item.level for item in dull), key=["bad", "watch"].index)
    assert "Not better than" in dull[0].sentence


def test_the_page_has_all_sections(page: Page) -> None:
    links = [values["href"] for tag, values in page.tags if tag == "a"]
    assert links == [
        *("#summary", "#knn", "#anomaly", "#linear", "#regression", "#few-labels", "#segmentation", "#map"),
        *("#protocol", "#provenance"),
    ]
    for text in ("runs/<mine>", "0, 1 (normal: 0)", "Mask of <one>", "A head on patch tokens.", "a" * 64, "settings.k"):
        assert text in page.text
    for text in ("2 videos could not be read", "Bank and queries of kNN", "without semantic cluster distillation"):
        assert text in page.text
    assert not any(tag in ("b", "mine", "one") for tag, _ in page.tags), "text is escaped"


def test_the_figures_hold_the_answers(page: Page, evaluation: Evaluation) -> None:
    for figure in page.figures.values():
        plotly.graph_objects.Figure(figure)  # refuses unknown properties and values
    probes = ("knn", "anomaly", "linear")
    expected = {f"{probe}-confusion-{model}" for probe in probes for model in ("encoder", "random", "pixels")}
    expected |= {f"{probe}-roc" for probe in probes} | {"regression-scatter", "regression-agreement"}
    assert set(page.figures) == expected | {"few_labels", "few_labels_number", "map-number", "map-class"}
    knn = evaluation.of("knn", ClassResult)["encoder"]
    texts = [item["text"] for item in page.figures["knn-confusion-encoder"]["layout"]["annotations"]]
    assert texts == [str(count) for row in knn.confusion for count in row]
    ridge = evaluation.of("ridge", NumberResult)["encoder"]
    assert page.figures["regression-scatter"]["data"][0]["x"] == ridge.truth
    differences = np.subtract(ridge.predicted, ridge.truth)
    agreement = page.figures["regression-agreement"]["data"]
    assert agreement[0]["y"] == pytest.approx(differences.tolist())
    assert [trace["y"][0] for trace in agreement[1:]] == pytest.approx(
        [differences.mean() + k * differences.std(ddof=1) for k in (0, -1.96, 1.96)]
    )
    assert [trace["name"] for trace in page.figures["knn-roc"]["data"]] == [
        *("this encoder", "random weights", "pixels, PCA", "chance")
    ]
    assert len(page.figures["map-number"]["data"][0]["x"]) == 30
    assert sum(len(trace["x"]) for trace in page.figures["map-class"]["data"]) == 30


def test_the_page_needs_nothing_else(page: Page) -> None:
    for tag, values in page.tags:
        for name in ("src", "href"):
            target = values.get(name)
            assert not target or target.startswith(("data:", "#")), (tag, target)


def test_several_classes_without_a_normal_one(tmp_path: Path) -> None:
    found = made_evaluation(label="view")
    path = tmp_path / "report.html"
    path.write_text(evaluation_page(found, [], [], "today"))
    page = Page(str(path))
    assert "Not asked: anomaly, because no class is the normal one among A, B, C" in page.text
    assert "Not asked: ridge, because no video has the label 'ef'" in page.text
    assert "regression-scatter" not in page.figures
    assert [trace["name"] for trace in page.figures["knn-roc"]["data"]] == ["A", "B", "C", "chance"]
    assert set(page.figures) >= {"map-class", "few_labels"}
    assert "map-number" not in page.figures


def test_the_json_has_every_number_and_no_video(evaluation: Evaluation) -> None:
    plain = json.loads(json.dumps(evaluation.to_plain(), allow_nan=False))
    assert list(plain) == [
        *("format", "subject", "settings", "versions", "videos", "classes", "number", "skipped", "results", "paper")
    ]
    assert set(plain["results"]) == {"encoder", "random", "pixels", "none"}
    assert set(plain["results"]["encoder"]) == {
        *("knn", "anomaly", "linear", "ridge", "mlp", "few_labels", "few_labels_number")
    }
    metrics = plain["results"]["encoder"]["linear"]["metrics"]
    assert set(metrics["auroc"]) == {"value", "low", "high"}
    assert plain["videos"]["class"] == {"train": 90, "val": 30, "test": 30, "left_out": {}}
    assert "video <4>" not in json.dumps(plain), "answers for single videos stay in their own files"


def test_numbers_as_a_reader_sees_them() -> None:
    assert number(0.61449, "macro_f1") == "61.4"
    assert number(-1e-9, "r2") == "0.000"
    assert number(7.794, "mae") == "7.79"


def test_a_section_is_escaped_and_whole() -> None:
    table = Table(["a<b", "n"], [["x&y", "1"]], frozenset({1}), title="T<1>", note="n<1>")
    slug, title, content = section_html(Section("s", "A & B", ["p<1>"], tables=[table]))
    assert (slug, title) == ("s", "A &amp; B")
    for text in ('<p class="lead">p&lt;1&gt;</p>', "<h3>T&lt;1&gt;</h3>", "a&lt;b", "x&amp;y", "n&lt;1&gt;"):
        assert text in content
    assert '<td class="number">1</td>' in content


def test_worst_and_best_cases(evaluation: Evaluation) -> None:
    ridge = evaluation.of("ridge", NumberResult)["encoder"]
    worst, best = extremes(number_cases(ridge))
    errors = dict(zip(ridge.clip_ids, np.abs(np.subtract(ridge.predicted, ridge.truth)), strict=True))
    ordered = sorted(errors, key=errors.__getitem__)
    assert [case.clip_id for case in worst] == ordered[::-1][:4]
    assert [case.clip_id for case in best] == ordered[:4]
    linear = evaluation.of("linear", ClassResult)["encoder"]
    worst, best = extremes(class_cases(linear))
    assert worst[0].error == max(1 - scores[truth] for scores, truth in zip(linear.scores, linear.truth, strict=True))
    few = [Case("a", "", 1), Case("b", "", 2), Case("c", "", 3)]
    assert [[case.clip_id for case in side] for side in extremes(few)] == [["c"], ["a"]], "no video twice"


def test_a_video_that_cannot_be_shown_is_named(evaluation: Evaluation) -> None:
    rows = [
        dict.fromkeys(SCHEMA.names)
        | {"clip_id": clip_id, "uri": "/absent/clip.avi", "format": "mjpeg", "num_frames": 100, "fps": 50.0}
        | {"height": 112, "width": 112, "num_bytes": 10, "sha256": "0" * 64}
        for clip_id in evaluation.questions.videos.clip_ids
    ]
    sections = case_sections(evaluation, pa.Table.from_pylist(rows, SCHEMA))
    assert [section.slug for section in sections] == ["cases-number", "cases-class"]
    for section in sections:
        assert section.pictures == []
        assert sum("cannot be shown" in text for text in section.paragraphs) == 8
        assert not any("/absent" in text for text in section.paragraphs), "places of files are not on the page"


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on PATH")
def test_a_browser_draws_every_figure(evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(evaluation_page(evaluation, [], [], "today"))
    drawn = drawn_page(str(path), tmp_path)
    assert drawn.count('class="plot js-plotly-plot"') == 18
    assert drawn.count('class="hm"') == 9
    pixels = screenshot(str(path), tmp_path, 3000)
    assert (np.abs(pixels - (31, 95, 168)).max(axis=-1) < 30).sum() > 1000, "lines and full cells are visible"


def test_moving_pictures_move() -> None:
    frames = np.zeros((3, 16, 16), np.uint8)
    frames[1], frames[2] = 120, 240
    content = section_html(Section("s", "S", pictures=[Picture("p", "", frames, 40)]))[2]
    movie = Image.open(io.BytesIO(base64.b64decode(content.split("base64,")[1].split('"')[0])))
    assert movie.n_frames == 3
