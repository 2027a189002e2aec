"""The left ventricle: its volume curve and its exact outline in every frame.

Geometry lives in the heart's own frame: u runs along the long axis of the left ventricle from its apex (u = 0) towards
the atria, v across it, negative on the side of the septum; both in pixels. One number per frame, the contraction c (0
at end diastole), moves everything; c is solved so that the volume follows the wanted curve.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from discovr_ray.data.phantom.patient import SIZE, Doubles, Patient, profile

NUM_CHORDS = 20
SEPTAL, LATERAL = 0, 1  # sides of the long axis: v < 0, v >= 0
_LEVELS = (np.arange(128) + 0.5) / 128  # of the volume integral


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
    filling = patient.systole + 0.06  # the ventricle relaxes before the valve opens
    early, kick = _step(phase, filling, filling + 0.22), _step(phase, 0.84, 1)
    wanted_ml = patient.edv_ml * (
        1 - patient.ejected_share * (_step(phase, 0, patient.systole) - 0.75 * early - 0.25 * kick)
    )
    levels = np.linspace(0, 0.8, 257)
    contraction = np.interp(-wanted_ml, -volume_ml(patient, levels), levels)
    volume = volume_ml(patient, contraction)
    resting = 0.35 * _step(phase, filling, filling + 0.1) * (1 - _step(phase, 0.93, 1))
    valve = np.maximum.reduce([_bump(phase, filling - 0.02, filling + 0.26), 0.75 * _bump(phase, 0.82, 1), resting])
    return Beat(phase, contraction, volume, valve, int(volume.argmax()), int(volume.argmin()))


def mobility(patient: Patient, side: int, level: Doubles) -> Doubles:
    """1 where the wall moves with the rest, 0 in the middle of a dead segment."""
    dead_side = SEPTAL if patient.segment.startswith("septal") else LATERAL
    if not patient.segment or side != dead_side:
        return np.ones_like(level)
    middle = 0.32 if patient.segment.endswith("apical") else 0.62
    return 1 - np.exp(-(((level - middle) / 0.22) ** 4))


def half_width(patient: Patient, side: int, level: Doubles, contraction: Doubles | float) -> Doubles:
    """Distance from the long axis to the endocardium; `level` and `contraction` broadcast."""
    return patient.radius * profile(level) * (1 - contraction * mobility(patient, side, level))


def long_axis(patient: Patient, contraction: Doubles | float) -> Doubles:
    """Length of the ventricle; its base comes towards its apex, which stands still."""
    return np.asarray(patient.length * (1 - 0.38 * contraction))


def volume_ml(patient: Patient, contraction: Doubles) -> Doubles:
    """Volume at each contraction [T]: every slice across the long axis is a disc with the outline's width.

    This is the single-plane disc rule, integrated over 128 slices.
    """
    c = contraction[:, None]
    diameter = half_width(patient, SEPTAL, _LEVELS, c) + half_width(patient, LATERAL, _LEVELS, c)
    area_mm2 = math.pi / 4 * np.mean(diameter**2, axis=1) * patient.mm_per_pixel**2
    return np.asarray(area_mm2 * long_axis(patient, contraction) * patient.mm_per_pixel / 1000)


def chords(patient: Patient, contraction: float) -> Doubles:
    """The expert's trace: [1 + 20, 2 ends, (x, y)], long axis (apex, base), then chords from apex to base.

    The chords stand in the middle of 20 slices of equal height, so that their discs sum to the volume.
    """
    length = float(long_axis(patient, contraction))
    level = (np.arange(NUM_CHORDS) + 0.5) / NUM_CHORDS
    axis = to_image(patient, np.array([0.0, length]), np.zeros(2))
    septal, lateral = _border(patient, level, contraction)
    return np.concatenate([axis[None], np.stack([septal, lateral], axis=1)])


def outline(patient: Patient, contraction: float, num_points: int = 64) -> Doubles:
    """Closed inner border [2 * num_points, (x, y)]: septal side from base to apex, lateral side back."""
    level = 1 - np.cos(np.linspace(0, math.pi / 2, num_points))  # dense at the apex, where the border turns
    septal, lateral = _border(patient, level, contraction)
    return np.concatenate([septal[::-1], lateral])


def cavity_mask(patient: Patient, contraction: float) -> npt.NDArray[np.bool_]:
    """Pixels [H, W] whose centre lies inside the left ventricle."""
    u, v = heart_coordinates(patient)
    level = u / float(long_axis(patient, contraction))
    septal, lateral = (half_width(patient, side, level, contraction) for side in (SEPTAL, LATERAL))
    return np.asarray((level >= 0) & (level <= 1) & (-septal <= v) & (v <= lateral))


def to_image(patient: Patient, u: Doubles, v: Doubles) -> Doubles:
    """Heart frame -> pixel coordinates (x, y) in the last axis; pixel centres are whole numbers."""
    sine, cosine = math.sin(patient.tilt), math.cos(patient.tilt)
    return np.stack([patient.apex_x + u * sine + v * cosine, patient.apex_y + u * cosine - v * sine], axis=-1)


def heart_coordinates(patient: Patient) -> tuple[Doubles, Doubles]:
    """u and v of every pixel centre, each [H, W]."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float64)
    x, y = x - patient.apex_x, y - patient.apex_y
    sine, cosine = math.sin(patient.tilt), math.cos(patient.tilt)
    return x * sine + y * cosine, x * cosine - y * sine


def _border(patient: Patient, level: Doubles, contraction: float) -> tuple[Doubles, Doubles]:
    """Points of the septal and the lateral border at each level, [n, (x, y)]."""
    u = level * float(long_axis(patient, contraction))
    septal = to_image(patient, u, -half_width(patient, SEPTAL, level, contraction))
    return septal, to_image(patient, u, half_width(patient, LATERAL, level, contraction))


def _step(phase: Doubles, start: float, end: float) -> Doubles:
    """Smooth rise from 0 to 1 between two phases."""
    x = np.clip((phase - start) / (end - start), 0, 1)
    return x * x * (3 - 2 * x)


def _bump(phase: Doubles, start: float, end: float) -> Doubles:
    """Smooth hill: 0 outside two phases, 1 in the middle."""
    x = np.clip((phase - start) / (end - start), 0, 1)
    return np.asarray(np.sin(math.pi * x) ** 2)
