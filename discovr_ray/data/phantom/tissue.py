"""The tissue at end diastole as a scanner sees it: echo strength of each structure under speckle."""

from __future__ import annotations

import numpy as np

from discovr_ray.data.phantom.heart import LATERAL, SEPTAL
from discovr_ray.data.phantom.motion import U_FIRST, U_LAST, Borders, Floats, borders, level_index
from discovr_ray.data.phantom.patient import Patient

FINE = 3  # samples per pixel: the place of tissue is rounded to a sixth of a pixel
V_FIRST, V_LAST = -84.0, 76.0  # pixels
BLOOD_DB, LUNG_DB, MUSCLE_DB, BRIGHT_DB = -47.0, -36.0, -13.0, -6.0
AXIAL_BLUR = (0.5, 0.6)  # standard deviation of the point spread along the beam, pixels, at the top and the bottom
LATERAL_BLUR = (0.7, 1.6)  # across the beam: beams spread with depth


def draw_tissue(patient: Patient, rng: np.random.Generator) -> Floats:
    """Log-compressed echo, 0 dB = white: rows along u from U_FIRST, columns along v from V_FIRST, FINE per pixel."""
    u = np.arange(U_FIRST, U_LAST, 1 / FINE)
    v = np.arange(V_FIRST, V_LAST, 1 / FINE)
    echo_db = _echo(patient, borders(patient, np.zeros(1)), u, v)
    echo_db += 3.0 * _clouds(echo_db.shape, 36, rng) + 1.5 * _clouds(echo_db.shape, 12, rng)
    return _speckle(echo_db, rng)


def _echo(patient: Patient, rest: Borders, u: np.ndarray, v: np.ndarray) -> Floats:
    """Mean echo strength of each structure, dB."""
    septal_side, row = v[None] < 0, level_index(u)
    inner, outer, far = (
        np.where(septal_side, item[0, SEPTAL, row][:, None], item[0, LATERAL, row][:, None])
        for item in (rest.inner, rest.outer, rest.far)
    )
    across, u = np.abs(v)[None], u[:, None]
    right_heart = septal_side & (far > outer + 4.5)
    edge = np.where(right_heart, far, outer)
    echo = LUNG_DB + 17 * np.exp(-np.maximum(across - edge, 0) / 9)  # fat and pericardium fade into the lung
    echo = np.where(right_heart & (across < far + 3), MUSCLE_DB - 1, echo)
    echo = np.where(right_heart & (across < far), BLOOD_DB, echo)
    echo = np.where(~septal_side & (np.abs(across - outer) < 1.2) & (u > 0), BRIGHT_DB, echo)  # lateral pericardium
    echo = np.where(across < outer, MUSCLE_DB, echo)
    echo = np.where((across < inner + 0.9) & (u > 0), MUSCLE_DB + 4, echo)  # inner lining reflects more
    echo = np.where((across < inner) & (inner > 0.31), BLOOD_DB, echo)
    ring = (np.abs(u - patient.length) < 2) & (across > inner - 0.5) & (across < inner + 4)
    return np.asarray(np.where(ring, BRIGHT_DB, echo), np.float32)


def _clouds(shape: tuple[int, ...], cell: int, rng: np.random.Generator) -> Floats:
    """Smooth unit noise: random values every `cell` samples, linear in between."""
    knots: Floats = rng.standard_normal((shape[0] // cell + 2, shape[1] // cell + 2), np.float32)
    for axis, size in enumerate(shape):
        place = np.arange(size, dtype=np.float32) / cell
        low = place.astype(np.intp)
        weight = (place - low).astype(np.float32).reshape((-1, 1) if axis == 0 else (1, -1))
        knots = np.take(knots, low, axis) * (1 - weight) + np.take(knots, low + 1, axis) * weight
    return knots


def _speckle(echo_db: Floats, rng: np.random.Generator) -> Floats:
    """Random scatterers of the given strength, seen through a point spread that widens with depth; in dB."""
    field = rng.standard_normal((*echo_db.shape, 2), np.float32).view(np.complex64)[..., 0]
    spectrum = np.fft.fft2(field * np.power(np.float32(10), echo_db / 20))
    top, bottom = (_blurred(spectrum, axial, lateral) for axial, lateral in zip(AXIAL_BLUR, LATERAL_BLUR, strict=True))
    depth = np.linspace(0, 1, len(echo_db), dtype=np.float32)[:, None]
    return np.asarray(20 * np.log10(np.maximum((1 - depth) * top + depth * bottom, 1e-4)), np.float32)


def _blurred(spectrum: np.ndarray, axial: float, lateral: float) -> Floats:
    """Amplitude behind a Gaussian point spread that keeps the mean power."""
    rows, columns = (np.fft.fftfreq(size).astype(np.float32) * FINE for size in spectrum.shape)
    response = np.exp(-2 * np.pi**2 * (((axial * rows) ** 2)[:, None] + (lateral * columns) ** 2))
    unit_power = np.float32(np.sqrt(2 * np.pi * axial * lateral) * FINE)
    return np.asarray(np.abs(np.fft.ifft2(spectrum * response)) * unit_power, np.float32)
