"""Masks and crops: the hash, the shapes, what they depend on, and pixels by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tiny_model import larger_config, random_frames
from torch import Tensor
from torch.nn import functional

from discovr_ray import randomness
from discovr_ray.config import Config
from discovr_ray.model import masks
from discovr_ray.randomness import Purpose

CPU = torch.device("cpu")
KEYS = torch.tensor([randomness.clip_key(name) for name in ("a", "b", "c", "d")])


def test_the_hash_is_that_of_numpy() -> None:
    keys = torch.cat([KEYS, torch.tensor([0, 1, 2**63 - 1])])
    ours = masks.hash_words(7, 3, Purpose.CROP, keys[:, None], torch.arange(50), device=CPU)
    theirs = randomness.hash_words(7, 3, Purpose.CROP, keys.numpy().astype(np.uint64)[:, None], np.arange(50))
    assert (ours.numpy().view(np.uint64) == theirs).all()
    numbers = masks.uniform(7, 3, keys, device=CPU)
    assert (numbers.numpy() == randomness.uniform(7, 3, keys.numpy().astype(np.uint64))).all()


def test_tube_masks_show_the_same_patches_in_every_slice() -> None:
    config = larger_config()
    visible = masks.video_visible(KEYS, 0, config)
    assert visible.shape == (4, 4, 3 * 5)  # V + 1 views; 49 - int(0.9 * 49) = 5 patches in 3 slices
    slices = visible.unflatten(-1, (3, 5))
    assert (slices // 49 == torch.arange(3)[:, None]).all()
    assert (slices % 49 == slices[..., :1, :] % 49).all()
    assert (visible.diff(dim=-1) > 0).all()


def test_frame_masks_are_independent() -> None:
    config = larger_config()
    visible = masks.image_visible(KEYS, 0, config)
    assert visible.shape == (2, 4 * 6, 5)
    assert (visible.diff(dim=-1) > 0).all()
    assert visible.min() >= 0
    assert visible.max() < 49
    assert len({tuple(row) for row in visible.flatten(0, 1).tolist()}) == 2 * 4 * 6


@pytest.mark.parametrize("draw", [masks.video_visible, masks.image_visible])
def test_a_mask_depends_on_seed_epoch_and_clip_alone(draw: Callable[[Tensor, int, Config], Tensor]) -> None:
    config = larger_config()
    clips = len(KEYS)
    whole = draw(KEYS, 2, config)
    rows = whole.unflatten(1, (clips, -1))
    for clip in range(clips):  # whatever other clips share the batch
        assert torch.equal(draw(KEYS[clip : clip + 1], 2, config), rows[:, clip])
    other_seed = dataclasses.replace(config, run=dataclasses.replace(config.run, seed=1))
    for other in (draw(KEYS, 3, config), draw(KEYS, 2, other_seed), draw(KEYS.flip(0), 2, config)):
        assert not torch.equal(other, whole)


def test_every_patch_is_shown_equally_often() -> None:
    config = larger_config()
    shown = masks.image_visible(torch.arange(400), 0, config).flatten().bincount(minlength=49)
    expected = 2 * 400 * 6 * 5 / 49  # 490, standard deviation about 21
    assert (shown - expected).abs().max() < 5 * 21


def crops(config: Config, keys: Tensor, frames: Tensor, *scales: float) -> Tensor:
    """Crops as grey values 0-255 again: [B, T, S, S]."""
    data = dataclasses.replace(config.data, crop_scales=scales, mean=(0.0, 0.1, 0.2), std=(1.0, 0.5, 0.25))
    clips = masks.crop_clips(frames, keys, 0, dataclasses.replace(config, data=data))
    for channel, (mean, std) in enumerate(zip(data.mean, data.std, strict=True)):
        torch.testing.assert_close(clips[:, channel] * std + mean, clips[:, 0])  # grey in all three channels
    return clips[:, 0] * 255


def test_a_full_crop_is_the_frame() -> None:
    config = larger_config()
    frames = random_frames(config, 4)
    torch.testing.assert_close(crops(config, KEYS, frames, 1.0), frames.float(), rtol=0, atol=5e-3)


def test_a_crop_is_one_window_resized() -> None:
    """Its place is found by trying all; every frame of the clip has the same one. To 0.01 of 255 levels."""
    config = larger_config()
    frames = random_frames(config, 4)
    cropped = crops(config, KEYS, frames, 0.875)
    side, size = round(0.875 * 56), 56
    places = set()
    for clip, ours in zip(frames, cropped, strict=True):
        matches = [
            (top, left)
            for top in range(size - side + 1)
            for left in range(size - side + 1)
            if torch.allclose(resized(clip[:, top : top + side, left : left + side], size), ours, atol=0.01)
        ]
        assert len(matches) == 1
        places.update(matches)
    assert len(places) > 1


def resized(window: Tensor, size: int) -> Tensor:
    """[T, s, s] -> [T, size, size]."""
    return functional.interpolate(window[:, None].float(), (size, size), mode="bilinear", align_corners=False)[:, 0]


def test_crops_do_not_depend_on_the_batch() -> None:
    config = larger_config()
    frames = random_frames(config, 4)
    together = masks.crop_clips(frames, KEYS, 0, config)
    alone = [masks.crop_clips(frames[i : i + 1], KEYS[i : i + 1], 0, config) for i in range(4)]
    assert torch.equal(torch.cat(alone), together)
    assert not torch.equal(masks.crop_clips(frames, KEYS, 1, config), together)


def test_normalise_by_hand() -> None:
    config = larger_config()
    clips = masks.normalise(torch.full((1, 1, 2, 2), 51, dtype=torch.uint8), config.data)
    expected = [(0.2 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    assert clips.shape == (1, 3, 1, 2, 2)
    assert clips[0, :, 0, 1, 1].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_draws_the_same() -> None:
    config = larger_config()
    keys = KEYS.cuda()
    assert torch.equal(masks.video_visible(keys, 0, config).cpu(), masks.video_visible(KEYS, 0, config))
    assert torch.equal(masks.image_visible(keys, 0, config).cpu(), masks.image_visible(KEYS, 0, config))
    frames = random_frames(config, 4)
    on_gpu = masks.crop_clips(frames.cuda(), keys, 0, config).cpu()
    torch.testing.assert_close(on_gpu, masks.crop_clips(frames, KEYS, 0, config), rtol=0, atol=1e-4)
