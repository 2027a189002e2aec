"""The synthetic data set: repeatable bytes, exact ground truth, labels that mean what they say."""

from __future__ import annotations

import csv
import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import get_args

import av
import decord
import numpy as np
import pytest

from discovr_ray.data.phantom.heart import beat, half_width
from discovr_ray.data.phantom.motion import material_coordinates, sector
from discovr_ray.data.phantom.patient import SEGMENTS, Placement, sample_patient
from discovr_ray.data.phantom.render import render
from discovr_ray.data.synthetic import clip_id, describe, ground_truth, write_dataset
from discovr_ray.errors import StorageError

ROOT = Path(__file__).parents[2]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def first_of(diagnosis: str, seed: int = 7, segment: str = "") -> int:
    patients = (sample_patient(seed, index) for index in range(400))
    return next(p.index for p in patients if p.diagnosis == diagnosis and (not segment or p.segment == segment))


def test_same_seed_gives_the_same_bytes_for_any_number_of_processes(tmp_path: Path) -> None:
    write_dataset(tmp_path / "one", num_clips=4, seed=3, workers=1)
    write_dataset(tmp_path / "two", num_clips=4, seed=3, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_larger_data_set_begins_with_the_same_clips(tmp_path: Path, echo_folder: Path) -> None:
    write_dataset(tmp_path / "small", num_clips=2, seed=7)
    small, large = contents(tmp_path / "small"), contents(echo_folder)
    videos = [name for name in small if name.endswith(".avi")]
    assert len(videos) == 2
    assert all(small[name] == large[name] for name in videos)
    assert large["FileList.csv"].startswith(small["FileList.csv"])
    assert clip_id(8, 0) not in small["FileList.csv"].decode()


def test_a_complete_data_set_is_not_written_again_and_a_half_one_is(tmp_path: Path) -> None:
    folder = tmp_path / "echo"
    write_dataset(folder, num_clips=2, seed=1)
    before = contents(folder)
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_dataset(folder, num_clips=2, seed=1)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == stamps

    next((folder / "Videos").iterdir()).write_bytes(b"cut")
    (folder / "FileList.csv").unlink()
    marker = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**marker, "complete": False}))
    write_dataset(folder, num_clips=2, seed=1)
    assert contents(folder) == before


def test_a_folder_with_other_contents_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "FileList.csv").write_text("somebody's real data")
    with pytest.raises(StorageError, match="not empty"):
        write_dataset(tmp_path, num_clips=1, seed=0)
    assert contents(tmp_path) == {"FileList.csv": b"somebody's real data"}


def test_another_data_set_is_refused_by_name(tmp_path: Path) -> None:
    write_dataset(tmp_path / "echo", num_clips=1, seed=0)
    with pytest.raises(StorageError, match=r"'seed': 0.*not.*'seed': 1"):
        write_dataset(tmp_path / "echo", num_clips=1, seed=1)


def test_a_folder_made_before_placement_could_be_chosen_is_steady(tmp_path: Path) -> None:
    write_dataset(tmp_path, num_clips=1, seed=0)
    marker = json.loads((tmp_path / "dataset.json").read_text())
    assert marker.pop("placement") == "steady"
    (tmp_path / "dataset.json").write_text(json.dumps(marker))
    before = contents(tmp_path)
    write_dataset(tmp_path, num_clips=1, seed=0)
    assert contents(tmp_path) == before
    with pytest.raises(StorageError, match=r"'placement': 'steady'.*not.*'placement': 'free'"):
        write_dataset(tmp_path, num_clips=1, seed=0, placement="free")


def test_a_free_placement_moves_the_picture_and_nothing_else(tmp_path: Path) -> None:
    write_dataset(tmp_path / "steady", num_clips=2, seed=5)
    write_dataset(tmp_path / "free", num_clips=2, seed=5, placement="free")
    assert contents(tmp_path / "steady")["FileList.csv"] == contents(tmp_path / "free")["FileList.csv"]
    for old, new in zip(
        table(tmp_path / "steady" / "Labels.csv"), table(tmp_path / "free" / "Labels.csv"), strict=True
    ):
        assert {name for name in old if old[name] != new[name]} == {"mm_per_pixel"}

    middles: dict[Placement, list[np.ndarray]] = {"steady": [], "free": []}
    for placement, found in middles.items():
        for index in range(40):
            mask = ground_truth(5, index, placement).mask[0]
            found.append(np.argwhere(mask).mean(axis=0))
            fan = np.zeros(mask.size, bool)
            fan[sector(sample_patient(5, index, placement)).pixel] = True
            assert mask.ravel()[fan].sum() > 0.85 * mask.sum(), "the ventricle is in the picture"
    assert np.std(middles["free"], axis=0)[1] > 2 * np.std(middles["steady"], axis=0)[1]


def test_an_unwritable_place_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        write_dataset(tmp_path / "file" / "echo", num_clips=1, seed=0)


def test_the_tables_have_the_public_columns(echo_folder: Path) -> None:
    rows = table(echo_folder / "FileList.csv")
    assert list(rows[0]) == [
        "FileName",
        "EF",
        "ESV",
        "EDV",
        "FrameHeight",
        "FrameWidth",
        "FPS",
        "NumberOfFrames",
        "Split",
    ]
    assert list(table(echo_folder / "VolumeTracings.csv")[0]) == ["FileName", "X1", "Y1", "X2", "Y2", "Frame"]
    assert len(rows) == len({row["FileName"] for row in rows}) == 24
    assert {row["FileName"] for row in rows} == {path.stem for path in (echo_folder / "Videos").iterdir()}
    assert all(100 <= int(row["NumberOfFrames"]) <= 250 and 30 <= int(row["FPS"]) <= 50 for row in rows)
    for row in rows:
        ef = 100 * (float(row["EDV"]) - float(row["ESV"])) / float(row["EDV"])
        assert float(row["EF"]) == pytest.approx(ef, abs=1e-5)  # six decimals in the file


def test_the_disc_rule_over_the_tracings_gives_the_volumes(echo_folder: Path) -> None:
    traces: dict[str, list[dict[str, str]]] = {}
    for line in table(echo_folder / "VolumeTracings.csv"):
        traces.setdefault(line["FileName"], []).append(line)
    labels = {row["FileName"]: row for row in table(echo_folder / "Labels.csv")}
    for row in table(echo_folder / "FileList.csv"):
        lines = traces.pop(row["FileName"] + ".avi")
        frames = list(dict.fromkeys(int(line["Frame"]) for line in lines))
        label = labels[row["FileName"]]
        assert frames == [int(label["es_frame"]), int(label["ed_frame"])]
        for frame, volume in zip(frames, (row["ESV"], row["EDV"]), strict=True):
            ends = np.array(
                [
                    [float(line[key]) for key in ("X1", "Y1", "X2", "Y2")]
                    for line in lines
                    if int(line["Frame"]) == frame
                ]
            )
            lengths_mm = np.hypot(ends[:, 2] - ends[:, 0], ends[:, 3] - ends[:, 1]) * float(label["mm_per_pixel"])
            assert len(lengths_mm) == 21
            assert ends[0, 1] < ends[0, 3], "the long axis starts at the apex"
            discs_ml = (np.pi / 4 * lengths_mm[1:] ** 2).mean() * lengths_mm[0] / 1000
            # 20 slices instead of 128: the midpoint rule is off by less than 0.3 %, more over a dead segment's dent
            assert discs_ml == pytest.approx(float(volume), rel=0.003)
    assert not traces


def test_the_truth_is_the_same_in_volume_outline_and_mask() -> None:
    for index, placement in itertools.product((0, 1, first_of("regional")), get_args(Placement)):
        truth, patient = ground_truth(7, index, placement), sample_patient(7, index, placement)
        x, y = np.moveaxis(truth.outline, -1, 0)
        area = 0.5 * np.abs((x * np.roll(y, -1, 1) - y * np.roll(x, -1, 1)).sum(axis=1))  # shoelace
        pixels = truth.mask.sum(axis=(1, 2))
        assert len(truth.volume_ml) == len(pixels) == patient.num_frames
        np.testing.assert_allclose(pixels, area, rtol=0.06)  # whole pixels: about half the border's length
        assert truth.volume_ml.argmax() == truth.ed_frame
        assert truth.volume_ml.argmin() == truth.es_frame
        # the volume of a body of revolution grows with area^2 / length
        length = np.hypot(*(truth.outline[:, 63] - (truth.outline[:, 0] + truth.outline[:, 127]) / 2).T)
        ratio = truth.volume_ml / (area**2 / length)
        assert ratio.std() / ratio.mean() < 0.04


def test_labels_mean_what_they_say() -> None:
    patients = [sample_patient(11, index) for index in range(160)]
    assert Counter(patient.abnormal for patient in patients) == {True: 80, False: 80}
    assert set(Counter(patient.diagnosis for patient in patients if patient.abnormal).values()) == {20}
    ef = {
        name: [beat(p).ef_percent for p in patients if p.diagnosis == name] for name in ("normal", "low_ef", "regional")
    }
    assert max(ef["low_ef"]) < 40 < 53 < min(ef["normal"])
    assert max(ef["regional"]) < 53
    edv = {name: [beat(p).edv_ml for p in patients if (p.diagnosis == "dilated") == name] for name in (True, False)}
    assert min(edv[True]) > 190 > 175 > max(edv[False])
    wall = {name: [p.wall_mm for p in patients if (p.diagnosis == "thick_wall") == name] for name in (True, False)}
    assert min(wall[True]) >= 14 > 10 >= max(wall[False])
    assert {p.segment for p in patients if p.diagnosis == "regional"} == set(SEGMENTS)
    assert not any(p.segment for p in patients if p.diagnosis != "regional")


def test_splits_are_three_quarters_and_two_eighths_with_both_classes() -> None:
    splits: dict[str, list[str]] = {}
    for index in range(128):
        patient = sample_patient(0, index)
        splits.setdefault(describe("x", patient, beat(patient)).file["Split"], []).append(patient.diagnosis)
    assert {name: len(found) for name, found in splits.items()} == {"TRAIN": 96, "VAL": 16, "TEST": 16}
    for found in splits.values():
        assert found.count("normal") == len(found) / 2
        assert len(set(found)) == 5, "every disease is in every split"


@pytest.mark.parametrize("segment", SEGMENTS)
def test_the_dead_segment_stands_still_and_the_rest_moves(segment: str) -> None:
    patient = sample_patient(7, first_of("regional", segment=segment))
    curve = beat(patient)
    level = np.array([0.32, 0.62])
    widths = np.array(
        [
            [half_width(patient, side, level, float(curve.contraction[f])) for side in (0, 1)]
            for f in (curve.ed_frame, curve.es_frame)
        ]
    )
    moved = 1 - widths[1] / widths[0]  # [side, level]
    dead = (SEGMENTS.index(segment) // 2, 0 if segment.endswith("apical") else 1)
    assert moved[dead] < 0.01
    assert moved[1 - dead[0]].min() > 0.2, "the other wall"


def test_the_picture_shows_the_truth() -> None:
    """The cavity is dark and its border is where the truth says, in both traced frames."""
    clips = (0, first_of("low_ef"), first_of("thick_wall"), first_of("dilated"))
    for index, placement in itertools.product(clips, get_args(Placement)):
        truth, frames = ground_truth(7, index, placement), render(sample_patient(7, index, placement)).astype(float)
        for frame in (truth.ed_frame, truth.es_frame):
            inside = truth.mask[frame]
            ring = np.zeros_like(inside)
            for dy, dx in ((0, 3), (0, -3), (-3, 0)):
                ring |= np.roll(inside, (dy, dx), (0, 1))
            ring &= ~inside
            assert frames[frame][ring].mean() > 1.7 * frames[frame][inside].mean()
        if index == first_of("low_ef"):
            continue  # its border moves by little more than the blur of the picture
        squeezed_out = truth.mask[truth.ed_frame] & ~truth.mask[truth.es_frame]
        ed_level, es_level = (frames[frame][squeezed_out].mean() for frame in (truth.ed_frame, truth.es_frame))
        assert es_level > 1.3 * ed_level, "where the cavity was at end diastole there is wall at end systole"


def test_speckle_moves_with_the_tissue() -> None:
    patient = sample_patient(7, 0)
    frames, fan, curve = render(patient).astype(float), sector(patient), beat(patient)
    u, v = material_coordinates(patient, fan, curve.contraction[[curve.es_frame]])
    sine, cosine = np.sin(patient.tilt), np.cos(patient.tilt)
    x = patient.apex_x + u[0] * sine + v[0] * cosine
    y = patient.apex_y + u[0] * cosine - v[0] * sine
    rows, columns = np.divmod(fan.pixel, 112)
    end_systole = frames[curve.es_frame, rows, columns]
    followed = frames[curve.ed_frame, np.clip(np.rint(y), 0, 111).astype(int), np.clip(np.rint(x), 0, 111).astype(int)]
    stayed = frames[curve.ed_frame, rows, columns]
    # wall of the left ventricle, at end systole and, followed back, at end diastole
    moved = np.hypot(x - columns, y - rows)
    wall = (np.abs(v[0]) > patient.radius * 0.8) & (np.abs(v[0]) < patient.radius + patient.wall) & (moved > 2)
    wall &= (u[0] > 0.3 * patient.length) & (u[0] < 0.9 * patient.length)
    assert wall.sum() > 100
    with_motion = np.corrcoef(end_systole[wall], followed[wall])[0, 1]
    without_motion = np.corrcoef(end_systole[wall], stayed[wall])[0, 1]
    assert with_motion > 0.5
    assert with_motion > without_motion + 0.3


def test_clips_differ_between_frames_and_between_patients() -> None:
    first, second = (render(sample_patient(7, index)) for index in (0, 2))
    assert np.abs(first[0].astype(int) - first[5]).mean() > 1
    assert np.abs(first[0].astype(int) - second[0]).mean() > 5


def test_decoders_agree_on_every_clip(echo_folder: Path) -> None:
    for row in table(echo_folder / "FileList.csv")[:6]:
        path, num_frames = str(echo_folder / "Videos" / f"{row['FileName']}.avi"), int(row["NumberOfFrames"])
        with av.open(path) as container:
            stream = container.streams.video[0]
            luma = np.stack([frame.to_ndarray()[:112] for frame in container.decode(stream)])  # yuvj420p: Y on top
            assert (stream.frames, len(luma), stream.average_rate) == (num_frames, num_frames, int(row["FPS"]))
        reader = decord.VideoReader(path, num_threads=1)
        colour = reader.get_batch(range(num_frames)).asnumpy()
        assert colour.shape == (num_frames, 112, 112, 3)
        assert (colour[..., :1] == colour).all(), "three equal channels"
        assert np.abs(colour[..., 0].astype(int) - luma).max() <= 1  # decord goes through RGB


def test_the_job_writes_and_explains_itself(tmp_path: Path) -> None:
    job = [sys.executable, str(ROOT / "jobs" / "synthesize.py"), str(tmp_path / "echo")]
    done = subprocess.run([*job, "--clips", "2", "--seed", "5", "--workers", "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 of 2" in done.stderr
    assert len(table(tmp_path / "echo" / "FileList.csv")) == 2
    other = subprocess.run([*job, "--clips", "3", "--seed", "5"], capture_output=True, text=True)
    assert other.returncode == 1
    assert other.stderr.startswith("error: ")
    assert "choose another folder" in other.stderr
    none = subprocess.run([*job, "--clips", "0"], capture_output=True, text=True)
    assert none.returncode == 2
    assert "at least 1" in none.stderr
