"""The synthetic patient: a four-chamber heart whose left ventricle follows a known volume curve.

Geometry lives in the heart's own frame: u runs along the long axis of the left ventricle from its apex (u = 0) towards
the atria, v across it, negative on the side of the septum. Lengths are pixels unless a name ends in `_mm`. One number
per frame, the contraction c (0 at end diastole), moves everything; c is solved so that the volume follows the curve.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

SIZE = 112  # H = W, pixels
SECTOR_TOP = (56.0, 5.0)  # x, y of the point where the beams start
SECTOR_RADIUS = 104.0
NUM_CHORDS = 20
WIDEST = 0.6  # where along the long axis the ventricle is widest
LEFT, RIGHT = 0, 1  # septal, lateral side
DIAGNOSES = ("normal", "low_ef", "dilated", "thick_wall", "regional")
SEGMENTS = ("septal_mid", "septal_apical", "lateral_mid", "lateral_apical")  # that can stop moving
_LEVELS = (np.arange(128) + 0.5) / 128  # of the volume integral


@dataclass(frozen=True)
class Patient:
    """Everything that differs between clips; drawn from (seed, index) alone."""

    seed: int
    index: int
    diagnosis: str
    segment: str  # the wall segment that does not move, "" for none
    fps: int
    num_frames: int
    heart_rate_bpm: float
    first_phase: float  # of the cycle at frame 0; 0 is end diastole
    systole: float  # share of the cycle
    edv_ml: float
    target_ef: float  # share
    length_mm: float  # long axis at end diastole
    wall_mm: float  # at the widest level, end diastole
    rv_mm: float  # width of the right ventricle at its base
    atrium_mm: float  # half width of the left atrium
    mm_per_pixel: float
    apex_x: float
    apex_y: float
    tilt: float  # radians; positive: the base lies to the right of the apex
    half_angle: float  # radians, of the scan sector
    gain_db: float
    attenuation_db: float  # lost from the top to the bottom of the sector
    dropout_db: float  # lost on one side of the sector
    dropout_angle: float
    noise: float  # grey levels
    dynamic_range_db: float

    @property
    def abnormal(self) -> bool:
        return self.diagnosis != "normal"

    @property
    def length(self) -> float:
        return self.length_mm / self.mm_per_pixel

    @property
    def wall(self) -> float:
        return self.wall_mm / self.mm_per_pixel

    @cached_property
    def radius(self) -> float:
        """Half width at the widest level, end diastole, from the volume of the rotated outline."""
        shape = float(np.mean(profile(_LEVELS) ** 2))
        return math.sqrt(self.edv_ml * 1000 / (math.pi * self.length_mm * shape)) / self.mm_per_pixel


def sample_patient(seed: int, index: int) -> Patient:
    """Draw patient `index` of a data set: half of them normal, the four diseases in turn."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
    draw = rng.uniform
    diagnosis = diagnosis_of(index)
    edv_ml, target_ef, wall_mm = draw(85, 145), draw(0.56, 0.70), draw(7.0, 10.0)
    if diagnosis == "low_ef":
        edv_ml, target_ef = draw(110, 170), draw(0.15, 0.37)
    elif diagnosis == "dilated":
        edv_ml, target_ef = draw(200, 290), draw(0.40, 0.52)
    elif diagnosis == "thick_wall":
        edv_ml, target_ef, wall_mm = draw(75, 115), draw(0.56, 0.72), draw(14.0, 19.0)
    elif diagnosis == "regional":
        target_ef = draw(0.42, 0.52)
    length_mm = 84 * (edv_ml / 115) ** 0.30 * draw(0.95, 1.05)
    depth_mm = max(draw(148, 182), 1.72 * length_mm, 1.05 * length_mm + 5 * wall_mm)
    return Patient(
        seed=seed,
        index=index,
        diagnosis=diagnosis,
        segment=SEGMENTS[int(rng.integers(4))] if diagnosis == "regional" else "",
        fps=int(rng.choice([30, 33, 40, 50, 50, 50])),
        num_frames=int(rng.integers(100, 251)),
        heart_rate_bpm=draw(52, 98),
        first_phase=draw(0, 1),
        systole=draw(0.33, 0.42),
        edv_ml=edv_ml,
        target_ef=target_ef,
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
        attenuation_db=draw(0, 12),
        dropout_db=draw(0, 14),
        dropout_angle=draw(-0.7, 0.7),
        noise=draw(3, 11),
        dynamic_range_db=draw(50, 62),
    )


def diagnosis_of(index: int) -> str:
    """Every block of 8 indices holds 4 normal clips and each disease once, rotated so that all splits see all."""
    if (index + index // 8) % 2 == 0:
        return "normal"
    return DIAGNOSES[1 + (index // 2 + index // 16) % 4]


def profile(level: Doubles) -> Doubles:
    """Half width of the ventricle relative to its widest, at `level` 0 (apex) to 1 (base): a cut ellipse."""
    return np.sqrt(np.clip(1 - ((level - WIDEST) / WIDEST) ** 2, 0, None))


def mobility(patient: Patient, side: int, level: Doubles) -> Doubles:
    """1 where the wall moves with the rest, 0 in the middle of a dead segment."""
    dead_side = LEFT if patient.segment.startswith("septal") else RIGHT
    if not patient.segment or side != dead_side:
        return np.ones_like(level)
    middle = 0.32 if patient.segment.endswith("apical") else 0.62
    return 1 - np.exp(-(((level - middle) / 0.22) ** 4))


def half_width(patient: Patient, side: int, level: Doubles, contraction: Doubles) -> Doubles:
    """Distance from the long axis to the endocardium; `level` and `contraction` broadcast."""
    return patient.radius * profile(level) * (1 - contraction * mobility(patient, side, level))


def long_axis(patient: Patient, contraction: Doubles) -> Doubles:
    """Length of the ventricle; the base comes towards the apex, which stands still."""
    return patient.length * (1 - 0.38 * contraction)


def volume_ml(patient: Patient, contraction: Doubles) -> Doubles:
    """Volume at each contraction [T]: every slice across the long axis is a disc with the outline's width.

    This is the single-plane disc rule, integrated over 128 slices.
    """
    c = np.asarray(contraction, np.float64)[:, None]
    diameter = half_width(patient, LEFT, _LEVELS, c) + half_width(patient, RIGHT, _LEVELS, c)
    area_mm2 = math.pi / 4 * np.mean(diameter**2, axis=1) * patient.mm_per_pixel**2
    return np.asarray(area_mm2 * long_axis(patient, c[:, 0]) * patient.mm_per_pixel / 1000)


@dataclass(frozen=True)
class Beat:
    """Exact ground truth of a clip, one value per frame [T]."""

    phase: Doubles  # of the cycle, 0 to 1
    contraction: Doubles
    volume_ml: Doubles
    valve: Doubles  # opening of the valves between atria and ventricles, 0 to 1
    ed_frame: int  # largest volume
    es_frame: int  # smallest volume

    @property
    def edv_ml(self) -> float:
        return float(self.volume_ml[self.ed_frame])

    @property
    def esv_ml(self) -> float:
        return float(self.volume_ml[self.es_frame])

    @property
    def ef_percent(self) -> float:
        return 100 * (self.edv_ml - self.esv_ml) / self.edv_ml


def beat(patient: Patient) -> Beat:
    """Volume curve: ejection, early filling, rest, atrial kick; then the contraction that has these volumes."""
    time_s = np.arange(patient.num_frames) / patient.fps
    phase = (patient.first_phase + time_s * patient.heart_rate_bpm / 60) % 1
    filling = patient.systole + 0.06
    ejected = (
        _step(phase, 0, patient.systole) - 0.75 * _step(phase, filling, filling + 0.22) - 0.25 * _step(phase, 0.84, 1)
    )
    wanted_ml = patient.edv_ml * (1 - patient.target_ef * ejected)
    levels = np.linspace(0, 0.8, 257)
    contraction = np.interp(-wanted_ml, -volume_ml(patient, levels), levels)
    volume = volume_ml(patient, contraction)
    early, kick = _bump(phase, filling - 0.02, filling + 0.26), _bump(phase, 0.82, 1)
    resting = 0.35 * _step(phase, filling, filling + 0.1) * (1 - _step(phase, 0.93, 1))
    valve = np.maximum(np.maximum(early, 0.75 * kick), resting)
    return Beat(phase, contraction, volume, valve, int(volume.argmax()), int(volume.argmin()))


def to_image(patient: Patient, u: Doubles, v: Doubles) -> Doubles:
    """Heart frame -> pixel coordinates (x, y), last axis."""
    sine, cosine = math.sin(patient.tilt), math.cos(patient.tilt)
    return np.stack([patient.apex_x + u * sine + v * cosine, patient.apex_y + u * cosine - v * sine], axis=-1)


def chords(patient: Patient, contraction: float) -> Doubles:
    """The expert's trace: [1 + 20, 2 ends, (x, y)], long axis (apex, base), then chords from apex to base.

    The chords stand in the middle of 20 slices of equal height, so that their discs sum to the volume.
    """
    c, length = np.float64(contraction), long_axis(patient, np.float64(contraction))
    level = (np.arange(NUM_CHORDS) + 0.5) / NUM_CHORDS
    axis = to_image(patient, np.array([0.0, float(length)]), np.zeros(2))
    septal = to_image(patient, level * length, -half_width(patient, LEFT, level, c))
    lateral = to_image(patient, level * length, half_width(patient, RIGHT, level, c))
    return np.concatenate([axis[None], np.stack([septal, lateral], axis=1)])


def outline(patient: Patient, contraction: float, num_points: int = 64) -> Doubles:
    """Closed endocardial border [2 * num_points, (x, y)]: septal side from base to apex, lateral side back."""
    c = np.float64(contraction)
    level = 1 - np.cos(np.linspace(0, math.pi / 2, num_points))  # dense at the apex, where the border turns
    u = level * long_axis(patient, c)
    septal = to_image(patient, u, -half_width(patient, LEFT, level, c))
    lateral = to_image(patient, u, half_width(patient, RIGHT, level, c))
    return np.concatenate([septal[::-1], lateral])


def cavity_mask(patient: Patient, contraction: float) -> npt.NDArray[np.bool_]:
    """Pixels [H, W] whose centre lies inside the left ventricle."""
    u, v = heart_coordinates(patient)
    level = u / long_axis(patient, np.float64(contraction))
    c = np.float64(contraction)
    width = np.where(v < 0, half_width(patient, LEFT, level, c), half_width(patient, RIGHT, level, c))
    return (level >= 0) & (level <= 1) & (np.abs(v) <= width)


def heart_coordinates(patient: Patient) -> tuple[Doubles, Doubles]:
    """u and v of every pixel centre, each [H, W]."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float64)
    x, y = x - patient.apex_x, y - patient.apex_y
    sine, cosine = math.sin(patient.tilt), math.cos(patient.tilt)
    return x * sine + y * cosine, x * cosine - y * sine


def _step(phase: Doubles, start: float, end: float) -> Doubles:
    """Smooth rise from 0 to 1 between two phases."""
    x = np.clip((phase - start) / (end - start), 0, 1)
    return x * x * (3 - 2 * x)


def _bump(phase: Doubles, start: float, end: float) -> Doubles:
    """Smooth hill that is 0 outside two phases and 1 in the middle."""
    x = np.clip((phase - start) / (end - start), 0, 1)
    return np.asarray(np.sin(math.pi * x) ** 2)
