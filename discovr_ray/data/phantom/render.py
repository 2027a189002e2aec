"""Frames of a synthetic patient: one speckled picture of the tissue, carried along by the motion of the heart.

Every pixel asks where its tissue was at end diastole and takes that value, so speckle moves exactly with the tissue.
What belongs to the scanner (gain, attenuation, noise) stays with the pixel.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from discovr_ray.data.phantom.heart import LATERAL, SEPTAL, Beat, beat, long_axis
from discovr_ray.data.phantom.motion import U_FIRST, Floats, Sector, borders, level_index, material_coordinates, sector
from discovr_ray.data.phantom.patient import SIZE, Patient
from discovr_ray.data.phantom.tissue import FINE, V_FIRST, draw_tissue

CHUNK = 8  # frames drawn together; their arrays stay in the cache
VALVE_LEVEL = 160.0  # grey level of a leaflet in blood


def render(patient: Patient) -> npt.NDArray[np.uint8]:
    """All frames of a patient's clip [T, H, W]."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([patient.seed, patient.index, 1])))
    curve, fan = beat(patient), sector(patient)
    tissue_db = draw_tissue(patient, rng)
    levels_per_db = np.float32(255 / patient.dynamic_range_db)
    tissue = ((tissue_db + patient.dynamic_range_db) * levels_per_db).ravel()
    shade = _shade_db(patient, fan) * levels_per_db
    floor = 6 + 26 * fan.depth**2  # noise comes up with the depth gain
    frames = np.zeros((patient.num_frames, SIZE * SIZE), np.uint8)
    for start in range(0, patient.num_frames, CHUNK):
        part = slice(start, start + CHUNK)
        u, v = material_coordinates(patient, fan, curve.contraction[part])
        place = ((u - U_FIRST) * FINE + 0.5).astype(np.int32) * tissue_db.shape[1]
        place += ((v - V_FIRST) * FINE + 0.5).astype(np.int32)
        seen = np.take(tissue, place, mode="clip") + shade
        _draw_valves(patient, fan, curve, part, seen)
        noise = rng.standard_normal(seen.shape, np.float32) * np.float32(patient.noise)
        seen = np.maximum(seen + 0.35 * noise, floor + noise)
        frames[part, fan.pixel] = np.clip(seen, 0, 255).astype(np.uint8)
    return frames.reshape(-1, SIZE, SIZE)


def _shade_db(patient: Patient, fan: Sector) -> Floats:
    """Gain of the scanner at each pixel: attenuation, a badly coupled side, weak edges, haze under the probe."""
    loss = patient.attenuation_db * fan.depth
    loss += patient.dropout_db * np.exp(-(((fan.angle - patient.dropout_angle) / 0.22) ** 2))
    loss += 8 * np.clip((np.abs(fan.angle) - patient.half_angle + 0.12) / 0.12, 0, 1)
    haze = 9 * np.exp(-((fan.depth / 0.10) ** 2))
    return np.asarray(patient.gain_db - loss + haze, np.float32)


def _draw_valves(patient: Patient, fan: Sector, curve: Beat, part: slice, seen: Floats) -> None:
    """Four leaflets, hinged where ventricle and atrium meet, that open into the ventricles. Changes `seen` [F, P]."""
    lowest = patient.radius + 4
    near = np.flatnonzero((fan.u > 0.3 * patient.length) & (fan.u < patient.length + 3) & (fan.v < lowest))
    u, v = fan.u[near], fan.v[near]
    length = long_axis(patient, curve.contraction[part])
    now = borders(patient, curve.contraction[part])
    frame, row = np.arange(len(length)), level_index(length - 1)
    inner, outer, far = (item[frame, SEPTAL, row] for item in (now.inner, now.outer, now.far))
    mitral, tricuspid = (-inner, now.inner[frame, LATERAL, row]), (-far, -outer)
    angle = 0.12 + 1.15 * curve.valve[part]
    distance = np.full((len(length), len(near)), 99, np.float32)
    for hinge_u, hinges in ((length, mitral), (length - 2, tricuspid)):
        size = (hinges[1] - hinges[0]) / 2 * 1.03  # leaflets overlap a little when shut
        for hinge_v, sign in zip(hinges, (1, -1), strict=True):
            ends = np.stack([hinge_u, hinge_v, -size * np.sin(angle), sign * size * np.cos(angle)])
            np.minimum(distance, _distance(u, v, ends.astype(np.float32)), out=distance)
    before = seen[:, near]
    seen[:, near] = before + np.clip(1.5 - distance, 0, 1) * np.maximum(VALVE_LEVEL - 0.7 * before, 0)


def _distance(u: Floats, v: Floats, segment: Floats) -> Floats:
    """From points [P] to one segment per frame, [4, F] = start (u, v) and direction (u, v): [F, P]."""
    start_u, start_v, along_u, along_v = segment[:, :, None]
    du, dv = u - start_u, v - start_v
    share = np.clip((du * along_u + dv * along_v) / (along_u**2 + along_v**2), 0, 1)
    return np.asarray(np.hypot(du - share * along_u, dv - share * along_v))
