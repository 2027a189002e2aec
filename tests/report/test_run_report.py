"""The page of a run, made from real files: what it shows, that it needs nothing else, and what is missing is said."""

from __future__ import annotations

import base64
import io
import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import plotly.graph_objects
import pytest
import yaml
from page_reader import CHROMIUM, Page, drawn_page, screenshot
from PIL import Image

from discovr_ray.config import load_config
from discovr_ray.report.clips import GAP, colour_of
from discovr_ray.report.run_files import read_run
from discovr_ray.report.run_report import write_report
from discovr_ray.train import checkpoint

STEPS = list(range(5, 55, 5))


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run of 50 of 90 steps with a checkpoint, samples and one clip left out."""
    root = tmp_path / "demo"
    root.mkdir()
    config = load_config("demo", ["schedule.epochs=10"]).to_dict()  # 9 steps each
    (root / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(config))))
    records = [
        {"step": step, "epoch": step / 9, "loss": 10 - 0.01 * step, "loss_vid": 4.0, "loss_img": 4.0, "loss_scd": 2.0}
        | {"lr": 1e-3, "ema_momentum": 0.99, "teacher_temperature": 0.05, "grad_norm": 1.5, "clips_per_s": 12.5}
        | {"data_wait_share": 0.01, "video_teacher_entropy": 5.0, "image_teacher_entropy": None, "bad_clips": 1}
        | {"prototype_perplexity": 40.0, "feature_std": 0.5, "rank_me": 12.0, "padded_share": 0.0}
        for step in STEPS
    ]
    (root / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    rejected = {"clip_id": "0X<b>1", "reason": "size is 3 bytes & not 9", "step": 7, "epoch": 0}
    (root / "quarantine.jsonl").write_text(json.dumps(rejected) + "\n")
    add_checkpoint(root, 25, samples=False)
    add_checkpoint(root, 50, samples=True)
    (root / "step_00000060").mkdir()
    return root


def add_checkpoint(root: Path, step: int, samples: bool) -> None:
    folder = root / checkpoint.folder_name(step)
    folder.mkdir()
    (folder / "encoder.safetensors").write_bytes(bytes(2**20))
    if samples:
        np.savez_compressed(folder / "samples.npz", **sample_arrays())
    state = checkpoint.TrainState(step, step * 8, 72, 2, 2, {})
    checkpoint.seal(str(folder), checkpoint.describe(folder), state)


def sample_arrays() -> dict[str, np.ndarray]:
    """4 frames of a bright square that moves; attention and prototype 5 in one corner, prototype 9 elsewhere."""
    frames = np.full((1, 4, 32, 32), 20, np.uint8)
    for place in range(4):
        frames[0, place, 8:16, 4 * place : 4 * place + 8] = 220
    attention, prototypes = np.zeros((1, 2, 2, 2), np.float32), np.full((1, 2, 2, 2), 9, np.int32)
    attention[:, :, 0, 0], prototypes[:, :, 0, 0] = 0.5, 5
    return {"frames": frames, "attention": attention, "prototypes": prototypes, "clip_ids": np.array(["clip-a"])}


def test_the_page_tells_the_run(run_folder: Path) -> None:
    uri = write_report(str(run_folder))
    assert uri == str(run_folder / "report.html")
    page = Page(uri)
    for text in ("demo", "50 of 90 optimiser steps", "in progress or stopped", "12.5", "9.500"):
        assert text in page.text
    assert "size is 3 bytes & not 9" in page.text
    assert "0X<b>1" in page.text, "text from files is escaped"
    assert "incomplete, not used for resuming" in page.text
    assert "model.num_prototypes" in page.text
    assert not any(tag == "b" for tag, _ in page.tags)


def test_the_figures_hold_the_records(run_folder: Path) -> None:
    page = Page(write_report(str(run_folder)))
    assert len(page.figures) == 12
    for figure in page.figures.values():
        plotly.graph_objects.Figure(figure)  # refuses unknown properties and values
    loss = page.figures["loss"]["data"][0]
    assert loss["x"] == STEPS
    assert loss["y"] == pytest.approx([10 - 0.01 * step for step in STEPS])
    assert [trace["name"] for trace in page.figures["loss-terms"]["data"]] == ["video", "image", "clusters"]
    assert page.figures["entropy"]["data"][1]["y"] == [None] * len(STEPS), "what was no number leaves a gap"
    assert page.figures["prototypes"]["data"][1]["y"] == [64, 64]


def test_a_run_with_the_knn_probe_has_its_curve(run_folder: Path) -> None:
    assert "What it has learnt so far" not in Page(write_report(str(run_folder))).text
    lines = (run_folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records[1::2]:
        record["knn_balanced_accuracy"] = record["step"] / 100
    (run_folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    page = Page(write_report(str(run_folder)))
    assert "What it has learnt so far" in page.text
    (curve,) = page.figures["knn"]["data"]
    assert curve["x"] == STEPS[1::2], "records without a probe leave no gap"
    assert curve["y"] == [step / 100 for step in STEPS[1::2]]


def test_the_page_needs_nothing_else(run_folder: Path) -> None:
    page = Page(write_report(str(run_folder)))
    for tag, values in page.tags:
        assert tag != "link" or values["href"] == "data:,"
        for name in ("src", "href"):
            target = values.get(name)
            assert not target or target.startswith(("data:", "#")), (tag, target)
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_sample_clips_show_frame_attention_and_prototypes_side_by_side(run_folder: Path) -> None:
    page = Page(write_report(str(run_folder)))
    (picture,) = [values for tag, values in page.tags if tag == "img"]
    assert "clip-a" in page.text
    assert "9: 75%" in page.text
    movie = Image.open(io.BytesIO(base64.b64decode(str(picture["src"]).split(",")[1])))
    assert (movie.n_frames, movie.size) == (4, (3 * 32 + 2 * GAP, 32))
    frames = sample_arrays()["frames"][0]
    for place in range(4):
        movie.seek(place)
        shown = np.asarray(movie.convert("RGB"), float)
        plain, warm, mapped = (shown[:, start : start + 32] for start in (0, 32 + GAP, 2 * (32 + GAP)))
        # lossy, and blurred at the square's rim; a wrong frame would be off by 200 in half of the square
        assert np.abs(plain.mean(axis=-1) - frames[place]).mean() < 12
        assert warm[:8, :8].mean() > 2 * warm[-8:, -8:].mean(), "attention is drawn where it is"
        dark_corner = 0.55 * 20 + 0.45 * np.array(colour_of(9))
        assert np.abs(mapped[24:, 24:].mean(axis=(0, 1)) - dark_corner).max() < 12


def test_a_prototype_keeps_its_colour_and_neighbours_differ() -> None:
    colours = [colour_of(number) for number in range(64)]
    assert len(set(colours)) == 64
    assert min(np.abs(np.subtract(*pair)).max() for pair in pairwise(colours)) > 40


def test_an_empty_run_folder_gets_a_page_that_says_so(tmp_path: Path) -> None:
    page = Page(write_report(str(tmp_path / "young")))
    assert "no step recorded yet" in page.text
    for text in ("Nothing was logged yet", "No sample clips yet", "No checkpoint yet", "no config.yaml"):
        assert text in page.text
    assert page.figures == {}


def test_the_length_of_a_run_is_known_before_its_first_checkpoint(run_folder: Path) -> None:
    shutil.rmtree(run_folder / "step_00000025")
    shutil.rmtree(run_folder / "step_00000050")
    run = read_run(str(run_folder))
    assert (run.steps_done, run.total_steps, run.num_clips) == (50, 90, None)


def test_a_finished_run_is_called_finished(run_folder: Path) -> None:
    add_checkpoint(run_folder, 90, samples=False)
    page = Page(write_report(str(run_folder)))
    assert "finished" in page.text
    assert "90 of 90" in page.text
    assert "clip-a" in page.text, "samples of an older checkpoint are better than none"


@pytest.mark.parametrize("place", [0.5, 1.0], ids=["contents", "directory"])
def test_a_cut_line_and_damaged_samples_do_not_stop_the_page(
    run_folder: Path, caplog: pytest.LogCaptureFixture, place: float
) -> None:
    with (run_folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 55, "lo')
    samples = run_folder / "step_00000050" / "samples.npz"
    damaged = bytearray(samples.read_bytes())
    end = round(len(damaged) * place)
    damaged[end - 40 : end] = bytes(40)  # same size, so the checkpoint still counts
    samples.write_bytes(damaged)
    page = Page(write_report(str(run_folder)))
    assert page.figures["loss"]["data"][0]["x"] == STEPS
    assert "No sample clips yet" in page.text
    assert "line 11" in caplog.text
    assert "samples.npz" in caplog.text


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on PATH")
def test_a_browser_draws_every_figure(run_folder: Path, tmp_path: Path) -> None:
    uri = write_report(str(run_folder))
    assert drawn_page(uri, tmp_path).count('class="scatterlayer') == 12
    pixels = screenshot(uri, tmp_path, 3000)
    blue_lines = (np.abs(pixels - (31, 95, 168)).max(axis=-1) < 30).sum()
    assert pixels.shape == (3000, 1280, 3)
    assert blue_lines > 1000, "curves are visible"
