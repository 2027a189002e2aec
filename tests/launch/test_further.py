"""`--suite paper` end to end: segmentation, robustness and attentive probe of real videos, on disk and on the page."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import torch

from discovr_ray.config import load_config
from discovr_ray.data.adapters.listing import Trace
from discovr_ray.data.manifest import read_labels, read_manifest, write_manifest
from discovr_ray.data.traces import read_traces, write_traces
from discovr_ray.evaluate.degradations import KINDS, LEVELS, parse_degraded_id
from discovr_ray.evaluate.features import read_features
from discovr_ray.model.discovr import Teacher
from discovr_ray.model.weights import export_encoder

pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Done(NamedTuple):
    code: int
    manifest: Path
    encoder: Path
    output: Path


def run_job(done: Done, *more: str) -> int:
    """jobs/evaluate.py in this process."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("evaluate_job", Path(__file__).parents[2] / "jobs/evaluate.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    words = [str(done.manifest), "--encoder", str(done.encoder), "--output", str(done.output), "--label", "abnormal"]
    words += ["--k", "5", "--resamples", "100", "--few-label-seeds", "1", "--clips-per-video", "1", "--workers", "1"]
    before, sys.argv = sys.argv, ["evaluate.py", *words, *more]
    try:
        return int(module.main())
    finally:
        sys.argv = before


@pytest.fixture(scope="module")
def done(echo_manifest: str, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """24 videos of which every split has normal and abnormal ones; an encoder that has learnt nothing."""
    root = tmp_path_factory.mktemp("further")
    clips = read_manifest(echo_manifest)
    abnormal = [labels["abnormal"] for labels in read_labels(clips)]
    order = sorted(range(24), key=lambda row: (abnormal[:row].count(abnormal[row]), abnormal[row]))
    of_row = dict(zip(order, ["TRAIN"] * 12 + ["VAL"] * 6 + ["TEST"] * 6, strict=True))
    column = pa.array([of_row[row] for row in range(24)], pa.string())
    (root / "manifest").mkdir()
    write_manifest(
        clips.set_column(clips.schema.get_field_index("split"), "split", column),
        str(root / "manifest" / "manifest.parquet"),
    )
    shutil.copy(Path(echo_manifest).parent / "traces.parquet", root / "manifest")
    config = load_config("demo", ["model.width=24", "model.depth=2", "data.image_size=64"])
    torch.manual_seed(1)
    (root / "encoder").mkdir()
    export_encoder(root / "encoder", config, Teacher(config).state_dict(), step=7)
    found = Done(0, root / "manifest" / "manifest.parquet", root / "encoder", root / "out")
    return found._replace(code=run_job(found, "--finetune-blocks", "1"))


def further(done: Done) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((done.output / "results.json").read_text())["further"]
    return found


def test_segmentation_is_of_every_outlined_frame(done: Done) -> None:
    assert done.code == 0
    found = further(done)["segmentation"]
    assert found["structures"] == ["lv"]
    assert found["frames"] == {"TRAIN": 24, "VAL": 12, "TEST": 12}
    assert found["failed"] == {}
    assert set(found["results"]) == {"encoder", "random", "pixels", "none"}
    for of in found["results"].values():
        dice = of["metrics"]["lv"]["dice"]
        assert 0 <= dice["low"] <= dice["value"] <= dice["high"] <= 1
        assert of["num_hearts"] + sum(map(len, of["no_ejection_fraction"].values())) == 6, "rows in, rows out"
    assert found["experts_ejection_fraction"]["mae"]["value"] < 2, "the phantom's own outlines give its own EF"
    answers = json.loads((done.output / "answers/encoder/segmentation.json").read_text())["result"]
    assert len(answers["dice"]) == 12


def test_the_attentive_probe_answers_every_test_video(done: Done) -> None:
    found = further(done)["attentive"]
    assert found["failed"] == 0
    for about, metric in (("class", "macro_f1"), ("number", "mae")):
        assert set(found[about]) == {"encoder", "random", "pixels"}
        for of in found[about].values():
            assert of["metrics"][metric]["low"] <= of["metrics"][metric]["high"]
    answers = json.loads((done.output / "answers/pixels/attentive_class.json").read_text())["result"]
    assert len(answers["predicted"]) == 6


def test_fine_tuning_answers_every_test_video(done: Done) -> None:
    found = further(done)["fine_tuning"]
    assert (found["blocks"], found["about"]) == (1, "number")
    assert set(found["results"]) == {"encoder", "random"}
    answers = json.loads((done.output / "answers/encoder/fine_tuning_number.json").read_text())["result"]
    assert len(answers["predicted"]) == 6
    assert set(answers["validation"]) == {"rate=3e-05", "rate=0.0001"}


def test_every_test_video_is_asked_again_at_every_grade_of_every_model(done: Done) -> None:
    results = further(done)["robustness"]["results"]
    clean = json.loads((done.output / "results.json").read_text())["results"]
    assert set(results) == {"encoder", "random", "pixels"}
    for model, found in results.items():
        assert found["num_videos"] == {"class": 6, "number": 6}
        assert len(found["points"]) == 3 * (1 + len(KINDS) * len(LEVELS))
        for point in found["points"]:
            if point["kind"] == "clean":
                known = clean[model][point["probe"]]["metrics"][point["metric"]]
                assert point["value"] == pytest.approx(known), "more rows, sums in another order"
        degraded = read_features(str(done.output / "features" / "degraded" / model))
        assert len(degraded.clip_ids) == 6 * len(KINDS) * len(LEVELS)
        features = read_features(str(done.output / "features" / model))
        of = dict(zip(features.clip_ids, features.cls, strict=True))
        moved = [
            np.abs(x - of[parse_degraded_id(name)[0]]).max()
            for name, x in zip(degraded.clip_ids, degraded.cls, strict=True)
        ]
        assert min(moved) > 0, "each degradation reaches the model"


def test_masks_and_the_attentive_probe_are_asked_at_every_grade(done: Done) -> None:
    found, count = further(done), 1 + len(KINDS) * len(LEVELS)
    masks = found["segmentation"]["robustness"]
    assert set(masks) == {"encoder", "random", "pixels"}
    for model, points in masks.items():
        assert len(points) == count
        assert points[0]["value"] == pytest.approx(found["segmentation"]["results"][model]["metrics"]["lv"]["dice"])
        assert any(point["drop"]["value"] != 0 for point in points), "other frames, other masks"
    for about, metric in (("class", "macro_f1"), ("number", "mae")):
        for model, points in found["attentive"]["robustness"][about].items():
            assert len(points) == count
            clean = found["attentive"][about][model]["metrics"][metric]
            assert points[0]["value"] == pytest.approx(clean, rel=1e-4), "kept scores have six digits"
            assert points[0]["drop"]["value"] == 0


def test_the_page_shows_it(done: Done) -> None:
    page = re.sub(r"<script.*?</script>", "", (done.output / "report.html").read_text(), flags=re.DOTALL)
    titles = (
        "Fine-tuning",
        "Attentive probe",
        "Segmentation",
        "Masks: worst and best",
        "Masks, moving",
        "When pictures are worse",
        "Masks when pictures are worse",
        "Attentive probe when pictures are worse",
    )
    for text in (*titles, "Dice 84.4 % on CAMUS", "mean mask", "a sector of 30 degrees without contact"):
        assert text in page, text


def with_traces(done: Done, folder: Path, traces: list[Trace]) -> Done:
    folder.mkdir()
    shutil.copy(done.manifest, folder)
    if traces:
        write_traces(traces, str(folder / "traces.parquet"))
    return done._replace(manifest=folder / "manifest.parquet", output=folder / "out")


def test_outlines_that_cannot_be_used_are_refused_first(
    done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    traces = read_traces(str(done.manifest.parent / "traces.parquet"))
    splits = dict(
        zip(*(read_manifest(str(done.manifest))[name].to_pylist() for name in ("clip_id", "split")), strict=True)
    )
    untested = [trace for trace in traces if splits[trace.clip_id] != "TEST"]
    beyond = [trace._replace(frame=999) for trace in traces[:1]]
    for name, wrong, reason in (
        ("untested", untested, "split TEST has no outlined frame (of TRAIN 24, VAL 12, TEST 0)"),
        ("beyond", beyond, "frame 999: has an outline, but the video has"),
    ):
        assert run_job(with_traces(done, tmp_path / name, wrong)) == 2
        assert reason in capsys.readouterr().err
    for more, reason in (
        (("--finetune-blocks", "3"), "finetune_blocks = 3: must be at most the 2 blocks of the encoder"),
        (("--finetune-blocks", "1", "--suite", "quick"), "finetune_blocks = 1: only the suite paper asks it"),
    ):
        assert run_job(done, *more) == 2
        assert reason in capsys.readouterr().err
