"""Writes a synthetic data set in the EchoNet-Dynamic layout: the embedded default of every job.

FileList.csv, VolumeTracings.csv and Videos/*.avi are as in the public set; Labels.csv adds what the phantom knows
besides (docs/synthetic.md). Clip i of a seed is always the same bytes, whatever the number of clips or processes.
"""

from __future__ import annotations

import csv
import json
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg

from discovr_ray.data.formats.avi_writer import write_avi
from discovr_ray.data.phantom.heart import Beat, beat, cavity_mask, chords, outline
from discovr_ray.data.phantom.patient import SIZE, Doubles, Patient, Placement, sample_patient
from discovr_ray.data.phantom.render import render
from discovr_ray.errors import StorageError
from discovr_ray.randomness import hash_words

VERSION = 1  # of the generator: another version means other bytes
MARKER = "dataset.json"
JPEG_QUALITY = 85
SPLITS = ("TRAIN",) * 6 + ("VAL", "TEST")
_LOG = logging.getLogger(__name__)


class Rows(NamedTuple):
    """One clip's lines in the three tables."""

    file: dict[str, Any]
    tracings: list[dict[str, Any]]
    labels: dict[str, Any]


class GroundTruth(NamedTuple):
    """The left ventricle, exactly."""

    volume_ml: Doubles  # [T]
    outline: Doubles  # [T, 128, (x, y)], closed inner border in pixels; pixel centres are whole numbers
    mask: npt.NDArray[np.bool_]  # [T, H, W]
    ed_frame: int
    es_frame: int


def write_dataset(folder: Path, num_clips: int, seed: int, workers: int = 1, placement: Placement = "steady") -> None:
    """Make `num_clips` clips in `folder`; a complete data set with the same parameters is left as it is.

    A half-written one is written again. With `workers` above 1 the calling script needs `if __name__ == "__main__"`,
    because the processes are spawned. Clips of a seed are a prefix of the clips of a larger data set of that seed.

    Errors:
        StorageError: the folder holds something else, or cannot be written.
    """
    folder = Path(folder)
    wanted = {"generator_version": VERSION, "num_clips": num_clips, "seed": seed, "placement": placement}
    try:
        if _is_complete(folder, wanted):
            _LOG.info("synthetic data set in %s is complete", folder)
            return
        (folder / "Videos").mkdir(parents=True, exist_ok=True)
        _write_marker(folder, wanted, complete=False)
        rows = list(_make_clips(partial(write_clip, folder, seed, placement=placement), num_clips, workers))
        _write_table(folder / "VolumeTracings.csv", [line for row in rows for line in row.tracings])
        _write_table(folder / "Labels.csv", [row.labels for row in rows])
        _write_table(folder / "FileList.csv", [row.file for row in rows])
        _write_marker(folder, wanted, complete=True)
    except OSError as error:
        raise StorageError(f"{folder}: the synthetic data set cannot be written: {error}") from error


def ground_truth(seed: int, index: int, placement: Placement = "steady") -> GroundTruth:
    """What is known of every frame of clip `index`, whose patient_id in Labels.csv is S<seed>-<index>."""
    patient = sample_patient(seed, index, placement)
    curve = beat(patient)
    return GroundTruth(
        curve.volume_ml,
        np.stack([outline(patient, float(c)) for c in curve.contraction]),
        np.stack([cavity_mask(patient, float(c)) for c in curve.contraction]),
        curve.ed_frame,
        curve.es_frame,
    )


def labels_of(seed: int, index: int) -> Rows:
    """A clip's lines in the tables, without drawing it."""
    patient = sample_patient(seed, index)
    return describe(clip_id(seed, index), patient, beat(patient))


def clip_id(seed: int, index: int) -> str:
    """File name without extension, in the public set's form; says nothing about the diagnosis."""
    return f"0X{int(hash_words(seed, index)):016X}"


def write_clip(folder: Path, seed: int, index: int, placement: Placement = "steady") -> Rows:
    """Draw and store one clip."""
    patient = sample_patient(seed, index, placement)
    chroma = np.full((SIZE // 2, SIZE // 2), 128, np.uint8)
    images = [
        simplejpeg.encode_jpeg_yuv_planes(frame, chroma, chroma, quality=JPEG_QUALITY) for frame in render(patient)
    ]
    name = clip_id(seed, index)
    _write_bytes(folder / "Videos" / f"{name}.avi", write_avi(images, patient.fps, SIZE, SIZE))
    return describe(name, patient, beat(patient))


def describe(name: str, patient: Patient, curve: Beat) -> Rows:
    """The exact labels of a clip."""
    file = {
        "FileName": name,
        "EF": f"{curve.ef_percent:.6f}",
        "ESV": f"{curve.esv_ml:.6f}",
        "EDV": f"{curve.edv_ml:.6f}",
        "FrameHeight": SIZE,
        "FrameWidth": SIZE,
        "FPS": patient.fps,
        "NumberOfFrames": patient.num_frames,
        "Split": SPLITS[patient.index % len(SPLITS)],
    }
    tracings = [
        dict(zip(("FileName", "X1", "Y1", "X2", "Y2", "Frame"), (f"{name}.avi", *line, frame), strict=True))
        for frame in (curve.es_frame, curve.ed_frame)
        for line in chords(patient, float(curve.contraction[frame])).reshape(-1, 4).round(5).tolist()
    ]
    labels = {
        "FileName": name,
        "patient_id": f"S{patient.seed}-{patient.index:06d}",
        "diagnosis": patient.diagnosis,
        "abnormal": int(patient.abnormal),
        "segment": patient.segment,
        "heart_rate_bpm": round(patient.heart_rate_bpm, 3),
        "wall_thickness_mm": round(patient.wall_mm, 3),
        "ed_frame": curve.ed_frame,
        "es_frame": curve.es_frame,
        "mm_per_pixel": round(patient.mm_per_pixel, 6),
        "gain_db": round(patient.gain_db, 3),
        "attenuation_db": round(patient.attenuation_db, 3),
        "noise": round(patient.noise, 3),
    }
    return Rows(file, tracings, labels)


def _make_clips(make: Callable[[int], Rows], num_clips: int, workers: int) -> Iterator[Rows]:
    if workers == 1:
        yield from _with_progress(map(make, range(num_clips)), num_clips)
        return
    # spawn: forking a process that already runs threads (Ray, torch) can hang
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from _with_progress(pool.map(make, range(num_clips), chunksize=4), num_clips)


def _with_progress(rows: Iterable[Rows], total: int) -> Iterator[Rows]:
    every = max(total // 10, 1)
    for count, row in enumerate(rows, start=1):
        if count % every == 0 or count == total:
            _LOG.info("synthetic clips: %d of %d", count, total)
        yield row


def _is_complete(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether the wanted data set is already there; refuses a folder that holds anything else."""
    marker = folder / MARKER
    if not marker.exists():
        if folder.exists() and any(folder.iterdir()):
            raise StorageError(f"{folder}: is not empty and holds no synthetic data set; choose another folder")
        return False
    try:
        found = json.loads(marker.read_text())
    except json.JSONDecodeError as error:
        raise StorageError(f"{marker}: is not valid JSON ({error}); choose another folder") from error
    found = {"placement": "steady", **found}  # the only one there was at first
    if {key: found.get(key) for key in wanted} != wanted:
        raise StorageError(f"{folder}: holds the synthetic data set {found}, not {wanted}; choose another folder")
    return bool(found["complete"])


def _write_marker(folder: Path, wanted: dict[str, Any], complete: bool) -> None:
    _write_bytes(folder / MARKER, json.dumps({**wanted, "complete": complete}, indent=1).encode())


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def _write_bytes(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
