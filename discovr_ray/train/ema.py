"""The teachers' exponential moving average, on whole parameters or on ZeRO-3 shards alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn


class Pair(NamedTuple):
    """A teacher parameter and the student parameter that it follows."""

    name: str
    teacher: nn.Parameter
    student: nn.Parameter


def pair_parameters(teacher: nn.Module, student: nn.Module) -> list[Pair]:
    """Every teacher parameter with the student parameter of the same name.

    Errors:
        ValueError: a teacher parameter has no counterpart, another shape, or is not fp32.
    """
    students = dict(student.named_parameters())
    pairs = []
    for name, parameter in teacher.named_parameters():
        other = students.get(name)
        if other is None:
            raise ValueError(f"teacher parameter {name}: the student has no parameter of this name")
        if other.shape != parameter.shape:
            raise ValueError(f"teacher parameter {name}: shape {tuple(parameter.shape)}, student {tuple(other.shape)}")
        if parameter.dtype != torch.float32 or other.dtype != torch.float32:
            # a step of (1 - m) of the difference is below the resolution of bf16 (method: trap 8)
            raise ValueError(f"teacher parameter {name}: {parameter.dtype} and {other.dtype}; both must be fp32")
        pairs.append(Pair(name, parameter, other))
    return pairs


@torch.no_grad()
def update(tensors: Iterable[tuple[torch.Tensor, torch.Tensor]], momentum: float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, in place, element by element, fp32.

    `tensors` are (teacher, student) pairs of equal shape; since every element stands alone, a shard gets the same
    bits as the whole would.
    """
    pairs = list(tensors)
    if pairs:  # one call for all: on a GPU a few kernels instead of one per parameter
        torch._foreach_lerp_([teacher for teacher, _ in pairs], [student for _, student in pairs], 1.0 - momentum)


@torch.no_grad()
def copy(tensors: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """teacher <- student, as at the start of a run."""
    for teacher, student in tensors:
        teacher.copy_(student)
