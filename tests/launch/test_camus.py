"""A folder as CAMUS is published, from ingest to Dice of its three structures and ejection fraction of its outlines."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from discovr_ray.config import load_config
from discovr_ray.evaluate import segmentation
from discovr_ray.evaluate.settings import ProbeSettings
from discovr_ray.evaluate.targets import ClassRule
from discovr_ray.launch.encode_videos import EmbedOptions
from discovr_ray.launch.evaluate import Further, carry_out, prepare
from discovr_ray.launch.ingest import ingest
from discovr_ray.launch.segmentation_page import run_segmentation
from discovr_ray.model.discovr import Teacher
from discovr_ray.model.weights import export_encoder

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
SIDE, NUM_FRAMES = 64, 8
PATIENTS = {"training": (1, 2, 3, 4), "validation": (5, 6), "testing": (7, 8, 9)}
GREY = np.array([90, 20, 180, 50])  # of what lies in no structure, cavity, muscle, atrium
LV, MYOCARDIUM, LA = 1, 2, 3


def heart(radius: float, y: float, x: float) -> Any:
    """A round ventricle with muscle around it and the atrium below: the mask as CAMUS has it."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[(rows - y - 22) ** 2 + (columns - x) ** 2 <= 6**2] = LA
    mask[(rows - y) ** 2 + (columns - x) ** 2 <= 16**2] = MYOCARDIUM
    mask[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = LV
    return mask


def write(path: Path, picture: Any) -> None:
    path.write_bytes(gzip.compress(nib.Nifti1Image(picture.T, None, dtype=np.uint8).to_bytes()))


def write_patient(root: Path, number: int) -> None:
    """Both views; the label is the ejection fraction of a ball with the ventricle's radius."""
    folder, name = root / "database_nifti" / f"patient{number:04}", f"patient{number:04}"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(number)
    smallest = generator.uniform(7, 10)
    for view in ("2CH", "4CH"):
        y, x = generator.uniform(20, 28), generator.uniform(24, 40)
        masks = np.stack([heart(radius, y, x) for radius in np.linspace(12, smallest, NUM_FRAMES)])
        frames = (GREY[masks] + generator.normal(scale=8, size=masks.shape)).clip(1, 255).astype(np.uint8)
        write(folder / f"{name}_{view}_half_sequence.nii.gz", frames)
        for phase, frame in (("ED", 0), ("ES", NUM_FRAMES - 1)):
            write(folder / f"{name}_{view}_{phase}.nii.gz", frames[frame])
            write(folder / f"{name}_{view}_{phase}_gt.nii.gz", masks[frame])
        ef, sex = 100 * (1 - (smallest / 12) ** 3), "FM"[number % 2]
        lines = {"ED": 1, "ES": NUM_FRAMES, "NbFrame": NUM_FRAMES, "Sex": sex, "EF": f"{ef:.1f}", "FrameRate": 50.0}
        (folder / f"Info_{view}.cfg").write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))


def test_camus_ends_in_dice_of_ventricle_muscle_and_atrium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmentation, "WEIGHT_DECAYS", (3.0,))  # a third of the time
    source = tmp_path / "camus"
    (source / "database_split").mkdir(parents=True)
    for subgroup, numbers in PATIENTS.items():
        for number in numbers:
            write_patient(source, number)
        names = "\n".join(f"patient{number:04}" for number in numbers)
        (source / "database_split" / f"subgroup_{subgroup}.txt").write_text(names)
    manifest = ingest([str(source)], str(tmp_path / "manifest")).manifest_uri
    config = load_config("demo", ["model.width=24", "model.depth=1", "model.patch_size=8", "data.image_size=64"])
    torch.manual_seed(1)
    (tmp_path / "encoder").mkdir()
    export_encoder(tmp_path / "encoder", config, Teacher(config).state_dict(), step=1)
    settings = ProbeSettings(ClassRule("sex", normal="F"), k=3, anomaly_neighbours=2, suite="quick", resamples=100)
    options = EmbedOptions(clips_per_video=1, workers=1)
    prepared = prepare(manifest, str(tmp_path / "encoder"), str(tmp_path / "out"), settings, options)
    done = carry_out(prepared, [Further("segmentation", run_segmentation)])
    found = json.loads(Path(done.results_uri).read_text())["further"]["segmentation"]
    assert found["structures"] == ["lv", "la", "myocardium"]
    assert found["frames"] == {"TRAIN": 16, "VAL": 8, "TEST": 12}
    assert (found["failed"], found["left_out"]) == ({}, {})
    of = {model: result["metrics"] for model, result in found["results"].items()}
    assert set(of) == {"encoder", "random", "pixels", "none"}
    for metrics in of.values():
        assert set(metrics) == {"lv", "la", "myocardium", "mean"}
        for values in metrics.values():
            assert 0 <= values["dice"]["low"] <= values["dice"]["value"] <= values["dice"]["high"] <= 1
    for structure in ("lv", "myocardium"):  # grey levels alone tell these apart, wherever the heart lies
        assert of["pixels"][structure]["dice"]["value"] > of["none"][structure]["dice"]["value"] + 0.1
    assert found["experts_ejection_fraction"]["mae"]["value"] < 2, (
        "a ball's own outlines give its EF, up to whole pixels"
    )
    for result in found["results"].values():
        assert result["num_hearts"] + sum(map(len, result["no_ejection_fraction"].values())) == 6, "rows in, rows out"
    page = Path(done.report_uri).read_text()
    for structure in ("left ventricle", "myocardium", "left atrium"):
        assert structure in page
