"""Self-distillation by hand, its shares, and the centre."""

from __future__ import annotations

import math

import pytest
import torch
from gloo_objective import run_on_two_ranks
from torch import Tensor
from torch.nn import functional

from discovr_ray.objective.distillation import distillation_loss, logit_sum, teacher_probabilities, update_centre

TEMPERATURES = (0.04, 0.1)


def logits(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_one_item_by_hand() -> None:
    """Teacher logits 0 and ln 3 at temperature 1 give 1/4 and 3/4; a student without opinion costs ln 2."""
    teacher = torch.tensor([[0.0, math.log(3.0)]])
    args = (torch.zeros(2), 1.0, 1.0, torch.ones(1), 1.0)
    assert distillation_loss(teacher, torch.zeros(1, 1, 2), *args).item() == pytest.approx(math.log(2))
    student = torch.tensor([[[0.0, math.log(4.0)]]])  # 1/5 and 4/5
    expected = -0.25 * math.log(0.2) - 0.75 * math.log(0.8)
    assert distillation_loss(teacher, student, *args).item() == pytest.approx(expected, rel=1e-6)


def test_the_centre_is_taken_off_the_teacher() -> None:
    teacher, centre = logits(0, 3, 8), logits(1, 8)
    assert torch.equal(teacher_probabilities(teacher, centre, 0.07), ((teacher - centre) / 0.07).softmax(-1))


def test_mean_over_views_and_items() -> None:
    teacher, student, centre = logits(0, 5, 16), logits(1, 3, 5, 16), logits(2, 16)
    terms = [
        functional.cross_entropy(view / 0.1, ((teacher - centre) / 0.04).softmax(-1), reduction="none")
        for view in student
    ]
    loss = distillation_loss(teacher, student, centre, *TEMPERATURES, torch.ones(5), 5)
    torch.testing.assert_close(loss, torch.stack(terms).mean())


def test_items_of_weight_zero_count_neither_as_loss_nor_as_items() -> None:
    teacher, student, centre = logits(0, 4, 16), logits(1, 2, 4, 16), logits(2, 16)
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0])
    kept = weights > 0
    expected = distillation_loss(teacher[kept], student[:, kept], centre, *TEMPERATURES, torch.ones(3), 3)
    student.requires_grad_()
    loss = distillation_loss(teacher, student, centre, *TEMPERATURES, weights, 3)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert student.grad is not None
    assert not student.grad[:, 1].any()
    assert student.grad[:, 0].any()


def test_gradient_is_the_difference_of_probabilities() -> None:
    teacher, student, centre = logits(0, 3, 6), logits(1, 2, 3, 6).requires_grad_(), torch.zeros(6)
    distillation_loss(teacher, student, centre, *TEMPERATURES, torch.ones(3), 3).backward()
    expected = ((student / 0.1).softmax(-1) - (teacher / 0.04).softmax(-1)) / 0.1 / 6
    assert student.grad is not None
    torch.testing.assert_close(student.grad, expected.detach(), rtol=1e-4, atol=1e-7)


def test_fp32_inside_autocast_and_for_bf16_logits() -> None:
    teacher, student = logits(0, 3, 64).bfloat16(), logits(1, 2, 3, 64).bfloat16()
    args = (torch.zeros(64), *TEMPERATURES, torch.ones(3), 3)
    with torch.autocast("cpu", torch.bfloat16):
        loss = distillation_loss(teacher, student, *args)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, distillation_loss(teacher.float(), student.float(), *args))


def test_accumulated_shares_equal_one_pass() -> None:
    teacher, student, centre = logits(0, 8, 16), logits(1, 2, 8, 16), logits(2, 16)
    weights = torch.tensor([1.0, 1, 0, 1, 1, 1, 1, 1])
    whole = distillation_loss(teacher, student, centre, *TEMPERATURES, weights, 7)
    shares = [
        distillation_loss(teacher[part], student[:, part], centre, *TEMPERATURES, weights[part], 7)
        for part in (slice(0, 4), slice(4, 8))
    ]
    torch.testing.assert_close(sum(shares), whole, rtol=1e-6, atol=0)


def test_centre_moves_towards_the_mean_logit() -> None:
    centre, teacher = torch.tensor([1.0, 0.0]), torch.tensor([[3.0, 1.0], [5.0, -1.0], [100.0, 100.0]])
    update_centre(centre, logit_sum(teacher, torch.tensor([1.0, 1.0, 0.0])), 2, momentum=0.75)
    torch.testing.assert_close(centre, torch.tensor([0.75 * 1 + 0.25 * 4, 0.0]))


def test_centre_stays_when_every_clip_failed() -> None:
    centre = torch.tensor([1.0, -2.0])
    update_centre(centre, torch.zeros(2), 0, momentum=0.9)
    assert centre.tolist() == [1.0, -2.0]


def loss_and_centre_on_rank(rank: int, group: torch.distributed.ProcessGroup) -> Tensor:
    """This rank's share of the loss, then the centre after its update."""
    mine = slice(rank * 4, rank * 4 + 4)
    teacher, student, centre = logits(0, 8, 16)[mine], logits(1, 2, 8, 16)[:, mine], logits(2, 16)
    weights = torch.tensor([1.0, 1, 0, 1, 1, 1, 1, 1])[mine]
    share = distillation_loss(teacher, student, centre, *TEMPERATURES, weights, 7)
    update_centre(centre, logit_sum(teacher, weights), 7, 0.9, group)
    return torch.cat([share[None], centre])


@pytest.mark.dist
def test_two_processes_equal_one() -> None:
    """To 1e-6: sums are added in another order."""
    teacher, student, centre = logits(0, 8, 16), logits(1, 2, 8, 16), logits(2, 16)
    weights = torch.tensor([1.0, 1, 0, 1, 1, 1, 1, 1])
    loss = distillation_loss(teacher, student, centre, *TEMPERATURES, weights, 7)
    update_centre(centre, logit_sum(teacher, weights), 7, 0.9)
    first, second = run_on_two_ranks(loss_and_centre_on_rank)
    torch.testing.assert_close(first[0] + second[0], loss, rtol=1e-6, atol=0)
    assert torch.equal(first[1:], second[1:])
    torch.testing.assert_close(first[1:], centre, rtol=1e-6, atol=1e-7)
