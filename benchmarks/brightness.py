"""Students that see a clip brighter or darker than their teacher does, for one row of the table of causes alone.

The method's only augmentations are crops and masks. `change_brightness` changes the process that it runs in.
"""

from __future__ import annotations

import torch
from torch import Tensor

from discovr_ray.model.discovr import Student, StudentOutput

CONTRAST, OFFSET = 0.4, 0.8  # at most, of normalised pixels: about 1 in deviation

plain_forward = Student.forward


def brightened(clips: Tensor) -> Tensor:
    """Normalised clips [B, C, T, H, W], each with a contrast and an offset of its own."""
    contrast, offset = 2 * torch.rand(2, len(clips), 1, 1, 1, 1, dtype=clips.dtype, device=clips.device) - 1
    return clips * (1 + CONTRAST * contrast) + OFFSET * offset


def brightened_forward(student: Student, clips: Tensor, *others: Tensor) -> StudentOutput:
    return plain_forward(student, brightened(clips), *others)


def change_brightness() -> None:
    """In this process; Ray calls it in each of its workers."""
    Student.forward = brightened_forward  # type: ignore[method-assign]
