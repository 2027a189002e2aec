"""Small copies of CAMUS and CardiacNet; their frames carry bar codes, their masks have known sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from barcode import barcode_frames
from nifti_files import nifti, zipped

NUM_FRAMES = 12
INFO = {"ED": 1, "ES": NUM_FRAMES, "NbFrame": NUM_FRAMES, "Sex": "F", "Age": 56, "ImageQuality": "Good", "EF": 51.5}
FRAMES = barcode_frames(NUM_FRAMES)


def mask(row: int) -> np.ndarray:
    """A ventricle of 10 x 8 pixels from `row` on, muscle to its right, atrium below."""
    values = np.zeros(FRAMES.shape[1:], np.uint8)
    values[row : row + 10, 20:28], values[row : row + 10, 28:30], values[row + 10 : row + 14, 20:28] = 1, 2, 3
    return values


def write_info(root: Path, patient: str, view: str, **changes: object) -> None:
    lines = {**INFO, "FrameRate": 49.5, **changes}
    text = "".join(f"{key}: {value}\n" for key, value in lines.items() if value is not None)
    (root / "database_nifti" / patient / f"Info_{view}.cfg").write_text(text)


def write_patient(root: Path, patient: str) -> None:
    folder = root / "database_nifti" / patient
    folder.mkdir(parents=True)
    for view in ("2CH", "4CH"):
        write_info(root, patient, view)
        pictures = {"half_sequence": FRAMES, "ED": FRAMES[0], "ES": FRAMES[-1], "ED_gt": mask(30), "ES_gt": mask(35)}
        pictures["half_sequence_gt"] = np.stack([mask(30)] * NUM_FRAMES)
        for name, picture in pictures.items():
            (folder / f"{patient}_{view}_{name}.nii.gz").write_bytes(zipped(nifti(picture)))


def write_lists(root: Path, **patients: str) -> None:
    (root / "database_split").mkdir(exist_ok=True)
    for subgroup, names in patients.items():
        (root / "database_split" / f"subgroup_{subgroup}.txt").write_text("\n".join(names.split()) + "\n")


def write_camus(root: Path) -> Path:
    """Three patients in two views, each in a list of its own."""
    for number in (1, 2, 3):
        write_patient(root, f"patient000{number}")
    write_lists(root, training="patient0001", validation="patient0002", testing="patient0003")
    return root


def write_cardiacnet(root: Path) -> Path:
    """Two clips with masks in each of the four folders."""
    for path in ("CardiacNet-PAH/PAH", "CardiacNet-PAH/Non-PAH", "CardiacNet-ASD/ASD", "CardiacNet-ASD/Non-ASD"):
        (root / path).mkdir(parents=True)
        for number in ("001", "002"):
            (root / path / f"{number}_image.nii.gz").write_bytes(zipped(nifti(FRAMES)))
            (root / path / f"{number}_label.nii.gz").write_bytes(zipped(nifti(np.stack([mask(30)] * NUM_FRAMES))))
    return root
