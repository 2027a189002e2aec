"""The moving average on its own: the formula, its resolution, and the pairing of names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from discovr_ray.train import ema


def test_formula() -> None:
    teacher, student = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 2.0])
    ema.update([(teacher, student)], 0.75)
    assert teacher.tolist() == [1.5, -1.0]
    assert student.tolist() == [3.0, 2.0]


@pytest.mark.parametrize(("momentum", "expected"), [(1.0, 1.0), (0.0, 3.0)])
def test_ends_are_exact(momentum: float, expected: float) -> None:
    teacher = torch.ones(5)
    ema.update([(teacher, torch.full((5,), 3.0))], momentum)
    assert teacher.tolist() == [expected] * 5


def test_small_steps_are_not_lost() -> None:
    """(1 - 0.9999) * 0.01 is 1e-6 of the value: thousands of times below bf16's resolution, within fp32's."""
    teacher = torch.ones(1)
    for _ in range(1000):
        ema.update([(teacher, torch.full((1,), 1.01))], 0.9999)
    assert float(teacher) == pytest.approx(1.01 - 0.01 * 0.9999**1000, rel=1e-5)
    assert float(teacher) > 1.0009


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_shards_get_the_bits_of_the_whole(parts: int) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 10_007, generator=generator)
    shards = [(t.clone(), s.clone()) for t, s in zip(teacher.chunk(parts), student.chunk(parts), strict=True)]
    ema.update([(teacher, student)], 0.996)
    ema.update(shards, 0.996)
    assert torch.equal(torch.cat([shard for shard, _ in shards]), teacher)


def test_many_tensors_get_the_bits_of_one_at_a_time() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1003,), (17, 9), (0,), (1,), (5, 3, 2)]
    pairs = [(torch.randn(s, generator=generator), torch.randn(s, generator=generator)) for s in shapes]
    expected = [teacher.clone().lerp_(student, 1.0 - 0.996) for teacher, student in pairs]
    ema.update(iter(pairs), 0.996)
    for (teacher, _), tensor in zip(pairs, expected, strict=True):
        assert torch.equal(teacher, tensor)
    ema.update([], 0.996)


def test_copy() -> None:
    teacher, student = torch.zeros(3), torch.randn(3)
    ema.copy([(teacher, student)])
    assert torch.equal(teacher, student)


def module(**parameters: torch.Tensor) -> nn.Module:
    built = nn.Module()
    for name, tensor in parameters.items():
        built.register_parameter(name, nn.Parameter(tensor))
    return built


def test_pairs_are_the_teachers_names() -> None:
    student = module(a=torch.zeros(2), b=torch.ones(3), c=torch.zeros(1))
    teacher = module(b=torch.zeros(3), a=torch.zeros(2))
    pairs = ema.pair_parameters(teacher, student)
    assert [pair.name for pair in pairs] == ["b", "a"]
    assert pairs[0].student is student.b
    assert pairs[0].teacher is teacher.b


@pytest.mark.parametrize(
    ("teacher", "reason"),
    [
        (module(z=torch.zeros(2)), "teacher parameter z: the student has no parameter of this name"),
        (module(a=torch.zeros(3)), r"teacher parameter a: shape \(3,\), student \(2,\)"),
        (module(a=torch.zeros(2, dtype=torch.bfloat16)), "teacher parameter a: torch.bfloat16 and torch.float32"),
    ],
)
def test_misfits_are_refused(teacher: nn.Module, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ema.pair_parameters(teacher, module(a=torch.zeros(2)))
