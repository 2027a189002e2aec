"""How tissue moves: where the tissue borders are at each contraction, and where each pixel's tissue comes from.

Tables have one entry per level of u (U_LEVELS); the right heart lies on the septal side, beyond the wall.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from discovr_ray.data.phantom.heart import LATERAL, SEPTAL, half_width, heart_coordinates, long_axis
from discovr_ray.data.phantom.patient import SECTOR_RADIUS, SECTOR_TOP, SIZE, Doubles, Patient, profile

Floats = npt.NDArray[np.float32]

STEPS = 4  # table entries per pixel
U_FIRST, U_LAST = -30.0, 118.0  # pixels
U_LEVELS = np.arange(U_FIRST, U_LAST, 1 / STEPS)
ATRIAL_WALL = 2.2  # pixels
SURROUNDINGS = 14.0  # pixels beyond the lateral wall that still move with it


class Borders(NamedTuple):
    """Distances from the long axis [F, 2 sides, levels] at which tissues meet, and the material u [F, levels].

    inner: the cavities of the left heart end. outer: their walls end. far: the cavities of the right heart end (septal
    side), or everything stands still (lateral side).
    """

    inner: Floats
    outer: Floats
    far: Floats
    material_u: Floats


class Sector(NamedTuple):
    """The pixels inside the fan [P]: index in the frame, beam angle, depth (0 to 1), place in the heart's frame."""

    pixel: npt.NDArray[np.intp]
    angle: Floats
    depth: Floats
    u: Floats
    v: Floats


def level_index(u: npt.NDArray[np.floating]) -> npt.NDArray[np.intp]:
    """Table entry of each u."""
    return np.asarray(np.clip((u - U_FIRST) * STEPS, 0, len(U_LEVELS) - 1), np.intp)


def borders(patient: Patient, contraction: Doubles) -> Borders:
    """Where the tissues are at each contraction [F]."""
    c = contraction[:, None]
    length = long_axis(patient, c)
    bottom = 1.02 * patient.length + 2.1 * patient.atrium  # back wall of the atria; it stands still
    level = np.clip(U_LEVELS / length, 0, 1)
    depth = np.clip((U_LEVELS - length) / (bottom - length), 0, 1)  # in the atria; 0 at the valves
    material_u = np.where(level < 1, level * patient.length, patient.length + depth * (bottom - patient.length))
    material_u = np.where((U_LEVELS < 0) | (bottom < U_LEVELS), U_LEVELS, material_u)
    sides = []
    for side in (SEPTAL, LATERAL):
        inner, outer = _left_heart(patient, side, c, level, depth, material_u)
        beyond = _right_heart(patient, c, level, depth) if side == SEPTAL else np.float64(SURROUNDINGS)
        inner = np.maximum(inner, 0.3)  # the map divides by these distances
        outer = np.maximum(outer, inner + 0.5)
        sides.append((inner, outer, outer + np.maximum(beyond, 4)))
    tables = [np.stack(item, axis=1).astype(np.float32) for item in zip(*sides, strict=True)]
    return Borders(tables[0], tables[1], tables[2], material_u.astype(np.float32))


def _left_heart(
    patient: Patient, side: int, c: Doubles, level: Doubles, depth: Doubles, material_u: Doubles
) -> tuple[Doubles, Doubles]:
    """Inner and outer border of ventricle and atrium on one side; the ventricle's wall keeps its volume."""
    rest, now = (half_width(patient, side, level, contraction) for contraction in (0.0, c))
    outer_level = np.clip((material_u + patient.wall) / (patient.length + patient.wall), 0, 1)
    wall_area = np.maximum(((patient.radius + patient.wall) * profile(outer_level)) ** 2 - rest**2, 0)
    ventricle = np.sqrt(now**2 + wall_area * patient.length / long_axis(patient, c))
    base = now[:, -1:]
    round_end = np.sqrt(1 - depth**4)
    atrium = (base + (patient.atrium * (1 + 0.25 * c) - base) * np.sin(np.pi * depth**0.8)) * round_end
    thickness = ATRIAL_WALL + (ventricle - now - ATRIAL_WALL) * np.exp(-depth / 0.05)
    in_atrium = depth > 0
    return np.where(in_atrium, atrium, now), np.where(in_atrium, atrium + thickness, ventricle)


def _right_heart(patient: Patient, c: Doubles, level: Doubles, depth: Doubles) -> Doubles:
    """Width of the right ventricle and atrium, measured from the septum."""
    width = patient.rv_mm / patient.mm_per_pixel
    base = 1 - 0.32 * c
    ventricle = np.clip((level - 0.16) / 0.84, 0, 1) ** 0.65 * base
    atrium = (base + (1.12 + 0.1 * c - base) * np.sin(np.pi / 2 * np.clip(depth / 0.5, 0, 1))) * np.sqrt(1 - depth**4)
    return np.asarray(width * np.where(depth > 0, atrium, ventricle))


def sector(patient: Patient) -> Sector:
    """The fan of a patient's clip."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    x, y = x - SECTOR_TOP[0], y - SECTOR_TOP[1]
    radius, angle = np.hypot(x, y), np.arctan2(x, y)
    inside = np.flatnonzero((radius <= SECTOR_RADIUS) & (np.abs(angle) <= patient.half_angle))
    u, v = (item.ravel()[inside].astype(np.float32) for item in heart_coordinates(patient))
    return Sector(inside, angle.ravel()[inside], radius.ravel()[inside] / SECTOR_RADIUS, u, v)


def material_coordinates(patient: Patient, fan: Sector, contraction: Doubles) -> tuple[Floats, Floats]:
    """Where the tissue under each pixel of the fan was at end diastole: (u, v), each [F, P].

    Across the long axis the map is linear between the borders, so that every tissue stays within its own.
    """
    now, rest = borders(patient, contraction), borders(patient, np.zeros(1))
    row = level_index(now.material_u)
    inner, outer, far = (np.moveaxis(item[0][:, row], 0, 1) for item in (rest.inner, rest.outer, rest.far))
    slope_in = inner / now.inner
    slope_wall = (outer - inner) / (now.outer - now.inner)
    slope_far = (far - outer) / (now.far - now.outer)
    level = level_index(fan.u)
    place = np.where(fan.v < 0, SEPTAL, LATERAL) * len(U_LEVELS) + level

    def at(table: Floats) -> Floats:
        return np.take(table.reshape(len(contraction), -1), place, axis=1)

    across = np.abs(fan.v)
    moved = at(slope_in) * across
    moved += at(slope_wall - slope_in) * np.maximum(across - at(now.inner), 0)
    moved += at(slope_far - slope_wall) * np.maximum(across - at(now.outer), 0)
    moved += at(1 - slope_far) * np.maximum(across - at(now.far), 0)
    return np.take(now.material_u, level, axis=1), np.copysign(moved, fan.v)
