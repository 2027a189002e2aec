"""The evaluation job on real videos: what is on disk agrees, the same command continues, refusals exit with 2."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from discovr_ray.config import load_config
from discovr_ray.data import storage
from discovr_ray.data.manifest import read_labels, read_manifest, write_manifest
from discovr_ray.errors import EvaluationError, FeaturesError
from discovr_ray.evaluate.bootstrap import Estimate
from discovr_ray.evaluate.features import read_features
from discovr_ray.evaluate.floors import pixel_features
from discovr_ray.evaluate.probes import run_knn, run_ridge
from discovr_ray.evaluate.questions import pose_questions, problem_of
from discovr_ray.evaluate.results import to_plain
from discovr_ray.evaluate.settings import ProbeSettings
from discovr_ray.evaluate.splits import Videos
from discovr_ray.evaluate.targets import ClassRule
from discovr_ray.launch.encode_videos import EmbedOptions
from discovr_ray.launch.evaluate import EvaluationSummary, Further, Prepared, carry_out, evaluate, prepare
from discovr_ray.model.discovr import Teacher
from discovr_ray.model.weights import export_encoder
from discovr_ray.report.section import Section

OPTIONS = EmbedOptions(clips_per_video=2, workers=1)
SETTINGS = ProbeSettings(ClassRule("abnormal"), k=5, resamples=100, few_label_seeds=2)


def export(folder: Path, seed: int) -> str:
    """An encoder that has learnt nothing, as a run would leave it."""
    config = load_config("demo", ["model.width=24", "model.depth=2", "data.image_size=64"])
    torch.manual_seed(seed)
    folder.mkdir()
    export_encoder(folder, config, Teacher(config).state_dict(), step=7)
    return str(folder)


class Done(NamedTuple):
    manifest: str
    encoder: str
    output: Path
    summary: EvaluationSummary


@pytest.fixture(scope="module")
def manifest(echo_manifest: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The session's 24 clips; every split has normal and abnormal ones."""
    clips = read_manifest(echo_manifest)
    splits = ["TRAIN"] * 12 + ["VAL"] * 6 + ["TEST"] * 6
    abnormal = [labels["abnormal"] for labels in read_labels(clips)]
    order = sorted(range(24), key=lambda row: (abnormal[:row].count(abnormal[row]), abnormal[row]))
    of_row = dict(zip(order, splits, strict=True))
    column = pa.array([of_row[row] for row in range(24)], pa.string())
    path = str(tmp_path_factory.mktemp("labelled") / "manifest.parquet")
    write_manifest(clips.set_column(clips.schema.get_field_index("split"), "split", column), path)
    return path


@pytest.fixture(scope="module")
def done(manifest: str, tmp_path_factory: pytest.TempPathFactory) -> Done:
    root = tmp_path_factory.mktemp("evaluation")
    encoder = export(root / "encoder", seed=1)
    return Done(manifest, encoder, root / "out", evaluate(manifest, encoder, str(root / "out"), SETTINGS, OPTIONS))


def text_and_pictures(path: Path) -> tuple[str, list[Image.Image]]:
    """What is not script: plotly's own has pictures, too."""
    page = re.sub(r"<script.*?</script>", "", path.read_text(), flags=re.DOTALL)
    found = re.findall(r"data:image/webp;base64,([^\"]+)", page)
    return page, [Image.open(io.BytesIO(base64.b64decode(content))) for content in found]


def results(done: Done) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((done.output / "results.json").read_text())
    return found


@pytest.mark.ray
def test_the_files_say_what_the_probes_say_of_the_features(done: Done) -> None:
    """From the embeddings on disk, with the probes alone."""
    features = {name: read_features(str(done.output / "features" / name)) for name in ("encoder", "random", "pixels")}
    known = features["encoder"]
    assert len(known.clip_ids) == 24
    videos = Videos(known.clip_ids, known.patient_ids, known.splits)
    questions = pose_questions(videos, known.labels, SETTINGS)
    inputs = {name: found.cls for name, found in features.items()}
    inputs["pixels"] = pixel_features(inputs["pixels"], questions.rows.train, 0)
    assert not np.allclose(inputs["encoder"], inputs["random"]), "the floor has other weights"
    for name, x in inputs.items():
        found = results(done)["results"][name]
        for probe, about, run in (("knn", "class", run_knn), ("ridge", "number", run_ridge)):
            expected = to_plain(run(problem_of(questions, about, x), SETTINGS))
            assert found[probe]["metrics"] == json.loads(json.dumps(expected["metrics"])), (name, probe)
            answers = json.loads((done.output / "answers" / name / f"{probe}.json").read_text())
            assert answers["result"]["predicted"] == expected["predicted"]


@pytest.mark.ray
def test_results_say_what_they_are_about(done: Done) -> None:
    found = results(done)
    assert found["subject"]["step"] == 7
    assert found["subject"]["model_sha256"] == read_features(str(done.output / "features/encoder")).model_sha256
    assert found["subject"]["preprocessing"]["clips_per_video"] == 2
    assert found["settings"]["classes"]["label"] == "abnormal"
    assert found["videos"]["class"] == {"train": 12, "val": 6, "test": 6, "left_out": {}}
    assert found["skipped"] == {}


@pytest.mark.ray
def test_the_page_has_floors_paper_and_moving_cases(done: Done) -> None:
    text, pictures = text_and_pictures(done.output / "report.html")
    for part in ("random weights", "pixels, PCA", "61.45", "Ejection fraction from frozen features"):
        assert part in text
    assert len(pictures) == 2 * 6, "three worst and three best of 6 test videos, of two probes"
    assert all(picture.n_frames > 1 for picture in pictures)
    patients = set(read_manifest(done.manifest)["patient_id"].to_pylist())
    assert not any(patient in text for patient in patients)


@pytest.mark.ray
def test_the_same_command_computes_nothing_twice(done: Done, caplog: pytest.LogCaptureFixture) -> None:
    before = results(done)
    with caplog.at_level(logging.INFO):
        evaluate(done.manifest, done.encoder, str(done.output), SETTINGS, OPTIONS)
    asked = [record.getMessage() for record in caplog.records if record.getMessage().startswith("probe ")]
    assert len(asked) == 3 * 7 + 1
    assert all(line.endswith(", kept") for line in asked)
    assert "24 videos, 24 of them already embedded" in caplog.text
    assert results(done) == before


@pytest.mark.ray
def test_whatever_else_is_evaluated_stands_in_both_files(done: Done) -> None:
    def run(prepared: Prepared) -> tuple[dict[str, Any], list[Section]]:
        assert prepared.clips.num_rows == 24
        return {"dice": Estimate(0.8, 0.7, float("nan"))}, [Section("masks", "Masks & borders", ["As drawn."])]

    carry_out(prepare(done.manifest, done.encoder, str(done.output), SETTINGS, OPTIONS), [Further("segmentation", run)])
    assert results(done)["further"] == {"segmentation": {"dice": {"value": 0.8, "low": 0.7, "high": None}}}
    assert "Masks &amp; borders" in text_and_pictures(done.output / "report.html")[0]
    evaluate(done.manifest, done.encoder, str(done.output), SETTINGS, OPTIONS)
    assert results(done)["further"] == {}


@pytest.mark.ray
def test_other_settings_ask_only_what_depends_on_them(done: Done, caplog: pytest.LogCaptureFixture) -> None:
    other = ProbeSettings(ClassRule("abnormal"), k=3, resamples=100, few_label_seeds=2)
    with caplog.at_level(logging.INFO):
        evaluate(done.manifest, done.encoder, str(done.output), other, OPTIONS)
    asked = [record.getMessage() for record in caplog.records if record.getMessage().startswith("probe ")]
    assert {line.split()[4] for line in asked if not line.endswith(", kept")} == {"knn"}
    evaluate(done.manifest, done.encoder, str(done.output), SETTINGS, OPTIONS)  # as the other tests know it


@pytest.mark.ray
def test_a_folder_of_another_encoder_or_other_clips_is_refused(done: Done, tmp_path: Path) -> None:
    other = export(tmp_path / "other", seed=2)
    before = results(done)
    with pytest.raises(FeaturesError, match=r"holds features of encoder .* model_sha256 .* choose another folder"):
        prepare(done.manifest, other, str(done.output), SETTINGS, OPTIONS)
    fewer = str(tmp_path / "fewer.parquet")
    write_manifest(read_manifest(done.manifest).slice(1), fewer)
    with pytest.raises(EvaluationError, match=r"holds another evaluation: clips_sha256 .* choose another folder"):
        prepare(fewer, done.encoder, str(done.output), SETTINGS, OPTIONS)
    assert results(done) == before


@pytest.mark.ray
def test_an_attempt_that_fails_leaves_no_old_results(done: Done, tmp_path: Path) -> None:
    """The same folder; now a video has gone, which the features of a second model cannot be made without."""
    copy = tmp_path / "out"
    shutil.copytree(done.output, copy)
    shutil.rmtree(copy / "features" / "random")
    manifest = read_manifest(done.manifest)
    gone = manifest.set_column(
        manifest.schema.get_field_index("uri"), "uri", pa.array(["/absent.avi"] * manifest.num_rows, pa.string())
    )
    path = str(tmp_path / "gone.parquet")
    write_manifest(gone, path)
    assert run_job(path, done.encoder, copy, "--clips-per-video", "2", "--workers", "1") == 1
    assert not (copy / "results.json").exists()
    assert not (copy / "report.html").exists()
    assert (copy / "answers" / "encoder" / "knn.json").exists()


def run_job(manifest: str, encoder: str, output: Path, *more: str) -> int:
    """jobs/evaluate.py in this process."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("evaluate_job", Path(__file__).parents[2] / "jobs/evaluate.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    words = [manifest, "--encoder", encoder, "--output", str(output), "--k", "5", "--resamples", "100", *more]
    if not {"--label", "--threshold"} & set(more):
        words += ["--label", "abnormal"]
    before, sys.argv = sys.argv, ["evaluate.py", *words]
    try:
        return int(module.main())
    finally:
        sys.argv = before


def with_column(name: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[pa.Table], pa.Table]:
    def changed(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        return table.set_column(place, name, pa.array(change(table[name].to_pylist()), table.schema.field(name).type))

    return changed


@pytest.mark.ray
@pytest.mark.parametrize(
    ("change", "more", "reason"),
    [
        (with_column("labels", lambda cells: ['{"abnormal": 0}'] * len(cells)), (), "of class '0'; two are needed"),
        (with_column("patient_id", lambda cells: ["one"] * len(cells)), (), "patient(s) are in more than one split"),
        (with_column("split", lambda cells: ["TRAIN" if c == "TEST" else c for c in cells]), (), "split TEST is empty"),
        (None, ("--label", "sex"), "label 'sex': no video has it"),
        (None, ("--threshold", "ef=5"), "'ef below 5': all videos that have it are of class '0'"),
        (None, ("--normal", "healthy"), "normal class 'healthy'"),
        (None, ("--k", "50"), "k = 50: must be at most the 12 videos"),
        (None, ("--temperature", "0"), "temperature = 0.0: must be above 0"),
        (None, ("--encoder", "/absent"), "/absent/encoder.json: cannot be read"),
        (None, ("--clips-per-video", "0"), "clips_per_video = 0: must be above 0"),
    ],
)
def test_refusals_come_before_a_video_is_opened(
    change: Callable[[pa.Table], pa.Table] | None,
    more: tuple[str, ...],
    reason: str,
    done: Done,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = done.manifest
    if change is not None:
        path = str(tmp_path / "manifest.parquet")
        write_manifest(change(read_manifest(done.manifest)), path)
    assert run_job(path, done.encoder, tmp_path / "out", *more) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.ray
@pytest.mark.s3
def test_on_object_storage(done: Done, s3_server: Any) -> None:
    """Encoder, output and page in a bucket, with a threshold and the quick suite; the same numbers as on disk."""
    for name in ("encoder.json", "encoder.safetensors"):
        storage.put_file(str(Path(done.encoder) / name), f"{s3_server.uri}/evaluated/{name}")
    settings = ProbeSettings(ClassRule("abnormal"), k=5, resamples=100, suite="quick")
    summary = evaluate(done.manifest, f"{s3_server.uri}/evaluated", f"{s3_server.uri}/evaluation", settings, OPTIONS)
    assert summary.report_uri == f"{s3_server.uri}/evaluation/report.html"
    assert (s3_server.folder / "evaluation" / "report.html").stat().st_size > 10**6
    found = json.loads((s3_server.folder / "evaluation" / "results.json").read_text())["results"]["encoder"]
    assert found["knn"]["metrics"] == results(done)["results"]["encoder"]["knn"]["metrics"]
    assert set(found) == {"knn", "anomaly", "linear", "ridge"}
