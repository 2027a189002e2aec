"""Who the synthetic patient is: everything that differs between clips, drawn from (seed, index) alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Placement = Literal["steady", "free"]

SIZE = 112  # H = W, pixels
SECTOR_TOP = (56.0, 5.0)  # x, y where the beams start
SECTOR_RADIUS = 104.0  # pixels
WIDEST = 0.6  # where along the long axis the ventricle is widest
DIAGNOSES = ("normal", "low_ef", "dilated", "thick_wall", "regional")
SEGMENTS = ("septal_mid", "septal_apical", "lateral_mid", "lateral_apical")  # one of them stands still in "regional"


@dataclass(frozen=True)
class Patient:
    """Lengths are pixels unless a name ends in `_mm`; angles are radians."""

    seed: int
    index: int
    diagnosis: str
    segment: str  # the wall segment that does not move, "" for none
    fps: int
    num_frames: int
    heart_rate_bpm: float
    first_phase: float  # of the cycle at frame 0; 0 is end diastole
    systole: float  # share of the cycle
    edv_ml: float  # of the volume curve; the label is the largest volume among the frames
    ejected_share: float  # EF / 100 of the volume curve
    length_mm: float  # long axis at end diastole
    wall_mm: float  # at the widest level, end diastole
    rv_mm: float  # width of the right ventricle at its base
    atrium_mm: float  # half width of the left atrium
    mm_per_pixel: float
    apex_x: float
    apex_y: float
    tilt: float  # positive: the base lies to the right of the apex
    half_angle: float  # of the scan sector
    gain_db: float
    dynamic_range_db: float  # from black to white
    attenuation_db: float  # lost from the top to the bottom of the sector
    dropout_db: float  # lost under a badly coupled part of the probe
    dropout_angle: float
    noise: float  # standard deviation, grey levels

    @property
    def abnormal(self) -> bool:
        return self.diagnosis != "normal"

    @property
    def length(self) -> float:
        return self.length_mm / self.mm_per_pixel

    @property
    def wall(self) -> float:
        return self.wall_mm / self.mm_per_pixel

    @property
    def atrium(self) -> float:
        return self.atrium_mm / self.mm_per_pixel

    @cached_property
    def radius(self) -> float:
        """Half width at the widest level, end diastole, for which the rotated outline holds `edv_ml`."""
        level = (np.arange(128) + 0.5) / 128
        shape = float(np.mean(profile(level) ** 2))
        return math.sqrt(self.edv_ml * 1000 / (math.pi * self.length_mm * shape)) / self.mm_per_pixel


def profile(level: Doubles) -> Doubles:
    """Half width of the ventricle relative to its widest, at `level` 0 (apex) to 1 (base): a cut ellipse."""
    return np.sqrt(np.clip(1 - ((level - WIDEST) / WIDEST) ** 2, 0, None))


def diagnosis_of(index: int) -> str:
    """Every block of 8 indices holds 4 normal clips and each disease once, rotated so that all splits see all."""
    if (index + index // 8) % 2 == 0:
        return "normal"
    return DIAGNOSES[1 + (index // 2 + index // 16) % 4]


def sample_patient(seed: int, index: int, placement: Placement = "steady") -> Patient:
    """Draw patient `index` of the data set `seed`.

    Args:
        placement: steady: the heart always lies in nearly the same place. free: the same patient, and the probe stood
            elsewhere.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
    draw = rng.uniform
    diagnosis = diagnosis_of(index)
    edv_ml, ejected_share, wall_mm = _disease(diagnosis, rng)
    length_mm = 84 * (edv_ml / 115) ** 0.30 * draw(0.95, 1.05)
    # deep enough for the whole heart: ventricle, atria, and the wall above the apex
    depth_mm = max(draw(148, 182), 1.72 * length_mm, 1.05 * length_mm + 5 * wall_mm)
    patient = Patient(
        seed=seed,
        index=index,
        diagnosis=diagnosis,
        segment=SEGMENTS[int(rng.integers(len(SEGMENTS)))] if diagnosis == "regional" else "",
        fps=int(rng.choice([30, 33, 40, 50, 50, 50])),
        num_frames=int(rng.integers(100, 251)),
        heart_rate_bpm=draw(52, 98),
        first_phase=draw(0, 1),
        systole=draw(0.33, 0.42),
        edv_ml=edv_ml,
        ejected_share=ejected_share,
        length_mm=length_mm,
        wall_mm=wall_mm,
        rv_mm=draw(24, 34),
        atrium_mm=draw(17, 23),
        mm_per_pixel=depth_mm / SECTOR_RADIUS,
        apex_x=draw(60, 65),
        apex_y=SECTOR_TOP[1] + wall_mm / depth_mm * SECTOR_RADIUS + draw(6, 11),
        tilt=draw(0.02, 0.17),
        half_angle=draw(0.66, 0.80),
        gain_db=draw(-5, 6),
        dynamic_range_db=draw(50, 62),
        attenuation_db=draw(0, 12),
        dropout_db=draw(0, 14),
        dropout_angle=draw(-0.7, 0.7),
        noise=draw(3, 11),
    )
    return patient if placement == "steady" else _moved(patient)


def _moved(patient: Patient) -> Patient:
    """Another depth, and the ventricle shifted and turned about its middle. All else stays as it is."""
    draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence([patient.seed, patient.index, 2]))).uniform
    nearer = draw(0.95, 1.12)
    half = patient.length / 2
    middle_x = patient.apex_x + half * math.sin(patient.tilt) + draw(-8, 8)
    middle_y = patient.apex_y + half * math.cos(patient.tilt) + draw(0, 8)
    tilt, half = draw(-0.10, 0.26), half / nearer
    return replace(
        patient,
        mm_per_pixel=patient.mm_per_pixel * nearer,
        apex_x=middle_x - half * math.sin(tilt),
        apex_y=middle_y - half * math.cos(tilt),
        tilt=tilt,
    )


def _disease(diagnosis: str, rng: np.random.Generator) -> tuple[float, float, float]:
    """End-diastolic volume (mL), ejected share and wall thickness (mm): what the diagnosis means here."""
    draw = rng.uniform
    edv_ml, ejected_share, wall_mm = draw(85, 145), draw(0.56, 0.70), draw(7.0, 10.0)
    if diagnosis == "low_ef":
        edv_ml, ejected_share = draw(110, 170), draw(0.15, 0.37)
    elif diagnosis == "dilated":
        edv_ml, ejected_share = draw(200, 290), draw(0.40, 0.52)
    elif diagnosis == "thick_wall":
        edv_ml, ejected_share, wall_mm = draw(75, 115), draw(0.56, 0.72), draw(14.0, 19.0)
    elif diagnosis == "regional":
        ejected_share = draw(0.42, 0.52)
    return edv_ml, ejected_share, wall_mm
