"""Semantic cluster distillation by formula, and its shares over passes and processes."""

from __future__ import annotations

import pytest
import torch
from gloo_objective import run_on_two_ranks
from torch import Tensor
from torch.nn import functional

from discovr_ray.config import LossConfig
from discovr_ray.objective.scd import scd_loss
from discovr_ray.objective.sinkhorn import assign, sinkhorn_scaling

LOSS = LossConfig()
WEIGHTS = torch.tensor([1.0, 1, 0, 1, 1, 1, 1, 1])


def cosines(seed: int, clips: int = 8) -> Tensor:
    return torch.rand(clips, 6, 10, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def scaling(chunks: list[Tensor], weights: list[Tensor], group: torch.distributed.ProcessGroup | None = None) -> Tensor:
    """Over clips [B, N, K] with weights [B]."""
    tokens = [weight.repeat_interleave(chunk.shape[1]) for weight, chunk in zip(weights, chunks, strict=True)]
    return sinkhorn_scaling([chunk.detach().flatten(0, 1) for chunk in chunks], tokens, 0.05, 10, group)


def whole_batch(video: Tensor, image: Tensor) -> Tensor:
    scalings = (scaling([video], [WEIGHTS]), scaling([image], [WEIGHTS]))
    return scd_loss(video, image, *scalings, WEIGHTS, WEIGHTS.sum(), LOSS)


def test_each_side_learns_the_others_soft_codes() -> None:
    video, image, ones = cosines(0), cosines(1), torch.ones(8)
    video_v, image_v = scaling([video], [ones]), scaling([image], [ones])
    loss = scd_loss(video, image, video_v, image_v, ones, 8, LOSS)
    one = functional.cross_entropy((video / 0.1).flatten(0, 1), assign(image, image_v, 0.05).flatten(0, 1))
    two = functional.cross_entropy((image / 0.1).flatten(0, 1), assign(video, video_v, 0.05).flatten(0, 1))
    torch.testing.assert_close(loss, one + two)


def test_both_terms_have_a_gradient_and_codes_have_none() -> None:
    video, image, ones = cosines(0).requires_grad_(), cosines(1).requires_grad_(), torch.ones(8)
    scalings = (scaling([video], [ones]), scaling([image], [ones]))
    scd_loss(video, image, *scalings, ones, 8, LOSS).backward()
    for scores, codes in ((video, assign(image, scalings[1], 0.05)), (image, assign(video, scalings[0], 0.05))):
        assert scores.grad is not None
        expected = ((scores / 0.1).softmax(-1) - codes) / 0.1 / 48
        torch.testing.assert_close(scores.grad, expected.detach(), rtol=1e-4, atol=1e-7)


def test_token_i_is_compared_with_token_i() -> None:
    """Moving one side's tokens by a place must change the loss; moving both must not."""
    video = cosines(0)
    image = video + 0.05 * cosines(1)
    aligned, shifted = whole_batch(video, image), whole_batch(video, image.roll(1, dims=1))
    assert shifted > aligned + 1
    torch.testing.assert_close(whole_batch(video.roll(1, dims=1), image.roll(1, dims=1)), aligned)


def test_failed_clips_take_no_part() -> None:
    video, image = cosines(0).requires_grad_(), cosines(1)
    kept, ones = WEIGHTS > 0, torch.ones(7)
    scalings = (scaling([video[kept]], [ones]), scaling([image[kept]], [ones]))
    loss = whole_batch(video, image)
    torch.testing.assert_close(loss, scd_loss(video[kept], image[kept], *scalings, ones, 7, LOSS))
    loss.backward()
    assert video.grad is not None
    assert not video.grad[2].any()


def test_two_passes_of_four_equal_one_of_eight() -> None:
    video, image = cosines(0), cosines(1)
    parts, weights = (slice(0, 4), slice(4, 8)), list(WEIGHTS.split(4))
    video_v, image_v = scaling(list(video.split(4)), weights), scaling(list(image.split(4)), weights)
    shares = [scd_loss(video[p], image[p], video_v, image_v, WEIGHTS[p], WEIGHTS.sum(), LOSS) for p in parts]
    torch.testing.assert_close(sum(shares), whole_batch(video, image), rtol=1e-5, atol=0)


def share_on_rank(rank: int, group: torch.distributed.ProcessGroup) -> Tensor:
    part = slice(rank * 4, rank * 4 + 4)
    video, image, weights = cosines(0)[part], cosines(1)[part], WEIGHTS[part]
    scalings = (scaling([video], [weights], group), scaling([image], [weights], group))
    return scd_loss(video, image, *scalings, weights, WEIGHTS.sum(), LOSS)


@pytest.mark.dist
def test_two_processes_equal_one() -> None:
    """To 1e-5: Sinkhorn's sums are added in another order."""
    first, second = run_on_two_ranks(share_on_rank)
    torch.testing.assert_close(first + second, whole_batch(cosines(0), cosines(1)), rtol=1e-5, atol=0)
