"""Draws a synthetic patient: one speckled picture of the tissue, carried along by the motion of the heart.

The picture is made once, in material coordinates (the heart at end diastole). For each frame every pixel asks where its
tissue was at end diastole and takes that value, so speckle moves exactly with the tissue. What belongs to the scanner
(gain, attenuation, noise) stays with the pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from discovr_ray.data.phantom.heart import (
    LEFT,
    RIGHT,
    SECTOR_RADIUS,
    SECTOR_TOP,
    SIZE,
    Beat,
    Doubles,
    Floats,
    Patient,
    beat,
    half_width,
    heart_coordinates,
    long_axis,
    profile,
)

FINE = 3  # picture samples per pixel: tissue positions are rounded to a sixth of a pixel
STEPS = 4  # levels along the long axis per pixel
U_RANGE = (-30.0, 118.0)  # covered by the tables and the picture, pixels
V_RANGE = (-84.0, 76.0)
CHUNK = 8  # frames drawn together; their arrays stay in the cache
BLOOD_DB, MUSCLE_DB, AROUND_DB, BRIGHT_DB = -46.0, -13.0, -25.0, -4.0
VALVE_LEVEL = 175.0
_U = np.arange(round((U_RANGE[1] - U_RANGE[0]) * STEPS)) / STEPS + U_RANGE[0]


class Borders(NamedTuple):
    """Distances from the long axis [F, 2 sides, levels] at which tissues meet, and the material level [F, levels].

    Inner: cavities of the left heart end. Outer: its walls end. Far: the right heart's cavities end (left side), or
    the surroundings stand still (right side).
    """

    inner: Floats
    outer: Floats
    far: Floats
    material_u: Floats


def borders(patient: Patient, contraction: Doubles) -> Borders:
    """Where the tissues are at each contraction [F]."""
    c = contraction[:, None]
    length = long_axis(patient, c)
    bottom = patient.length * 1.02 + 2.1 * patient.atrium_mm / patient.mm_per_pixel  # back wall of the atria, stands
    level = np.clip(_U / length, 0, 1)
    depth = np.clip((_U - length) / (bottom - length), 0, 1)  # in the atria, 0 at the valves
    material_u = np.where(level < 1, level * patient.length, patient.length + depth * (bottom - patient.length))
    material_u = np.where(_U < 0, _U, np.where(bottom < _U, _U, material_u))
    outer_level = np.clip((material_u + patient.wall) / (patient.length + patient.wall), 0, 1)
    inner, outer, far = [], [], []
    atrium = patient.atrium_mm / patient.mm_per_pixel * (1 + 0.25 * c)
    for side in (LEFT, RIGHT):
        rest = half_width(patient, side, level, np.float64(0))
        now = half_width(patient, side, level, c)
        wall_area = ((patient.radius + patient.wall) * profile(outer_level)) ** 2 - rest**2
        ventricle = np.sqrt(now**2 + np.maximum(wall_area, 0) * patient.length / length)  # the wall keeps its volume
        wall = np.maximum(ventricle - now, 0)
        base = now[:, -1:]
        cavity = (base + (atrium - base) * np.sin(np.pi * depth**0.8)) * np.sqrt(1 - depth**4)
        inner.append(np.where(length < _U, cavity, now))
        atrial_wall = 2.2 + (wall - 2.2) * np.exp(-depth / 0.05)
        outer.append(np.where(length < _U, cavity + atrial_wall, ventricle))
        far.append(outer[side] + (_right_heart(patient, c, _U / length, depth) if side == LEFT else 14))
    inner_, outer_, far_ = (np.stack(item, axis=1).astype(np.float32) for item in (inner, outer, far))
    inner_ = np.maximum(inner_, 0.3)
    outer_ = np.maximum(outer_, inner_ + 0.5)
    return Borders(inner_, outer_, np.maximum(far_, outer_ + 4), material_u.astype(np.float32))


def _right_heart(patient: Patient, c: Doubles, level: Doubles, depth: Doubles) -> Doubles:
    """Width of the right ventricle and atrium, beside the septum."""
    width = patient.rv_mm / patient.mm_per_pixel
    ventricle = np.clip((level - 0.16) / 0.84, 0, 1) ** 0.65 * (1 - 0.45 * c)
    atrium = (1 + 0.25 * np.sin(np.pi * depth)) * np.sqrt(1 - depth**4) * (1 + 0.2 * c)
    waist = 1 - 0.45 * c * (1 - np.clip(depth / 0.3, 0, 1))
    return np.asarray(width * np.where(depth > 0, np.minimum(atrium, waist + depth), ventricle))


def draw_tissue(patient: Patient, rng: np.random.Generator) -> Floats:
    """Log-compressed echo [rows, columns] of the heart at end diastole, 0 dB = white; FINE samples per pixel."""
    u = np.arange(U_RANGE[0], U_RANGE[1], 1 / FINE)
    v = np.arange(V_RANGE[0], V_RANGE[1], 1 / FINE)[None]
    rest = borders(patient, np.zeros(1))
    row = np.minimum(((u - U_RANGE[0]) * STEPS).astype(int), len(_U) - 1)
    inner, outer, far = (
        np.where(v < 0, item[0, LEFT, row][:, None], item[0, RIGHT, row][:, None])
        for item in (rest.inner, rest.outer, rest.far)
    )
    across, left = np.abs(v), np.broadcast_to(v < 0, (len(u), v.shape[1]))
    u = u[:, None]
    echo = np.full(left.shape, AROUND_DB, np.float32)
    echo[across < outer] = MUSCLE_DB
    rim = np.abs(across - outer)
    echo[(rim < 1.4) & ~left & (u > -patient.wall)] = BRIGHT_DB - 3  # pericardium
    right_cavity = left & (across > outer) & (across < far) & (far > outer + 4.5)
    echo[left & (across >= far) & (across < far + 3.5) & (far > outer + 4.5)] = MUSCLE_DB + 1
    echo[right_cavity] = BLOOD_DB
    echo[(across < inner) & (inner > 0.31)] = BLOOD_DB
    ring = (np.abs(u - patient.length) < 2.2) & (across > inner - 0.5) & (across < inner + 4.5)
    echo[ring] = BRIGHT_DB - 2
    return _speckle(echo, rng)


def _speckle(echo_db: Floats, rng: np.random.Generator) -> Floats:
    """Random scatterers of the given strength seen through a point spread that widens with depth."""
    shape = echo_db.shape
    cloud = rng.standard_normal((2, shape[0] // 24 + 2, shape[1] // 24 + 2), np.float32)
    uneven = np.repeat(np.repeat(cloud[0], 24, 0), 24, 1)[: shape[0], : shape[1]]  # blurred below with the speckle
    strength = np.power(np.float32(10), (echo_db + 1.5 * uneven) / 20)
    field = rng.standard_normal((*shape, 2), np.float32).view(np.complex64)[..., 0] * strength
    spectrum = np.fft.fft2(field)
    fu, fv = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None]

    def seen(axial: float, lateral: float) -> Floats:
        blur = np.exp(-2 * np.pi**2 * ((axial * FINE * fu) ** 2 + (lateral * FINE * fv) ** 2)).astype(np.float32)
        unit_power = np.sqrt(4 * np.pi * axial * lateral) * FINE
        return np.asarray(np.abs(np.fft.ifft2(spectrum * blur)) * unit_power / np.sqrt(2), np.float32)

    depth = np.linspace(0, 1, shape[0], dtype=np.float32)[:, None]
    amplitude = (1 - depth) * seen(0.5, 0.7) + depth * seen(0.6, 1.6)
    return np.asarray(20 * np.log10(np.maximum(amplitude, 1e-4)), np.float32)


class Sector(NamedTuple):
    """The pixels inside the fan, flat [P]: their index, beam angle, depth (0 to 1) and place in the heart's frame."""

    pixel: np.ndarray
    angle: Floats
    depth: Floats
    u: Floats
    v: Floats


def sector(patient: Patient) -> Sector:
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    x, y = x - SECTOR_TOP[0], y - SECTOR_TOP[1]
    radius, angle = np.hypot(x, y), np.arctan2(x, y)
    inside = np.flatnonzero((radius <= SECTOR_RADIUS) & (np.abs(angle) <= patient.half_angle))
    u, v = (item.ravel()[inside].astype(np.float32) for item in heart_coordinates(patient))
    return Sector(inside, angle.ravel()[inside], radius.ravel()[inside] / SECTOR_RADIUS, u, v)


def material_coordinates(patient: Patient, fan: Sector, contraction: Doubles) -> tuple[Floats, Floats]:
    """Where the tissue under each pixel of the fan was at end diastole: (u, v), each [F, P].

    Across the long axis the map is linear between the borders, so each tissue stays within its own.
    """
    now, rest = borders(patient, contraction), borders(patient, np.zeros(1))
    row = np.clip((now.material_u - U_RANGE[0]) * STEPS, 0, len(_U) - 1).astype(np.intp)  # [F, levels]
    inner, outer, far = (np.moveaxis(item[0][:, row], 0, 1) for item in (rest.inner, rest.outer, rest.far))
    slope1 = inner / now.inner
    slope2 = (outer - inner) / (now.outer - now.inner)
    slope3 = (far - outer) / (now.far - now.outer)
    level = np.clip((fan.u - U_RANGE[0]) * STEPS, 0, len(_U) - 1).astype(np.intp)
    place = np.where(fan.v < 0, LEFT, RIGHT) * len(_U) + level

    def at(table: Floats) -> Floats:
        return np.take(table.reshape(len(contraction), -1), place, axis=1)

    across = np.abs(fan.v)
    moved = at(slope1) * across
    moved += at(slope2 - slope1) * np.maximum(across - at(now.inner), 0)
    moved += at(slope3 - slope2) * np.maximum(across - at(now.outer), 0)
    moved += at(1 - slope3) * np.maximum(across - at(now.far), 0)
    return np.take(now.material_u, level, axis=1), np.copysign(moved, fan.v)


def render(patient: Patient) -> np.ndarray:
    """All frames of a patient's clip, uint8 [T, H, W]."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([patient.seed, patient.index, 1])))
    curve, fan = beat(patient), sector(patient)
    tissue = draw_tissue(patient, rng)
    scale = np.float32(255 / patient.dynamic_range_db)
    levels = ((tissue + patient.dynamic_range_db) * scale).ravel()
    shade = _shade(patient, fan) * scale
    floor = 8 + 26 * fan.depth**2
    frames = np.zeros((patient.num_frames, SIZE * SIZE), np.uint8)
    for start in range(0, patient.num_frames, CHUNK):
        part = slice(start, start + CHUNK)
        u, v = material_coordinates(patient, fan, curve.contraction[part])
        index = ((u - U_RANGE[0]) * FINE + 0.5).astype(np.int32) * tissue.shape[1]
        index += ((v - V_RANGE[0]) * FINE + 0.5).astype(np.int32)
        seen = np.take(levels, index, mode="clip") + shade
        _draw_valves(patient, fan, curve, part, seen)
        noise = rng.standard_normal(seen.shape, np.float32) * np.float32(patient.noise)
        seen = np.maximum(seen + 0.35 * noise, floor + noise)
        block = np.zeros((len(seen), SIZE * SIZE), np.uint8)
        block[:, fan.pixel] = np.clip(seen, 0, 255).astype(np.uint8)
        frames[part] = block
    return frames.reshape(-1, SIZE, SIZE)


def _shade(patient: Patient, fan: Sector) -> Floats:
    """Gain of the scanner at each pixel, dB: attenuation with depth, a badly coupled side, haze under the probe."""
    loss = patient.attenuation_db * fan.depth
    loss += patient.dropout_db * np.exp(-(((fan.angle - patient.dropout_angle) / 0.22) ** 2))
    edge = np.clip((np.abs(fan.angle) - patient.half_angle + 0.12) / 0.12, 0, 1)
    haze = 9 * np.exp(-((fan.depth / 0.10) ** 2))
    return np.asarray(patient.gain_db - loss - 8 * edge + haze, np.float32)


def _draw_valves(patient: Patient, fan: Sector, curve: Beat, part: slice, seen: Floats) -> None:
    """Four leaflets, hinged where ventricle and atrium meet, that open into the ventricles. Changes `seen` [F, P]."""
    reach = 1.3 * patient.radius
    near = np.flatnonzero((fan.u > 0.3 * patient.length) & (fan.u < patient.length + 3) & (fan.v < reach + 3))
    u, v = fan.u[near], fan.v[near]
    c = curve.contraction[part][:, None]
    length = long_axis(patient, c)
    now = borders(patient, c[:, 0])
    row = np.clip((length[:, 0] - 1 - U_RANGE[0]) * STEPS, 0, len(_U) - 1).astype(int)
    frame = np.arange(len(row))
    mitral = [-now.inner[frame, LEFT, row], now.inner[frame, RIGHT, row]]
    tricuspid = [-now.far[frame, LEFT, row], -now.outer[frame, LEFT, row]]
    angle = 0.12 + 1.15 * curve.valve[part][:, None]
    best = np.full((len(row), len(near)), 99, np.float32)
    for hinges, offset in ((mitral, 0.0), (tricuspid, -2.0)):
        leaflet = (hinges[1] - hinges[0])[:, None] / 2 * 1.03
        for sign, hinge in zip((1, -1), hinges, strict=True):
            along = np.stack(np.broadcast_arrays(-np.sin(angle), sign * np.cos(angle)))
            du, dv = u - (length + offset), v - hinge[:, None]
            travelled = np.clip(du * along[0] + dv * along[1], 0, leaflet)
            distance = np.hypot(du - travelled * along[0], dv - travelled * along[1])
            np.minimum(best, distance, out=best)
    cover = np.clip(1.5 - best, 0, 1)
    seen[:, near] += cover * np.maximum(VALVE_LEVEL - 20 + 0.3 * seen[:, near] - seen[:, near], 0)
