"""Masked views, crops and normalisation on the training device, as pure functions of (seed, epoch, clip).

The hash is that of `discovr_ray.randomness`, written for tensors: the integers are the same on CPU and GPU, so a clip
has the same masks and crop wherever it is used.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from discovr_ray.config import Config, DataConfig
from discovr_ray.randomness import Purpose


def _signed(word: int) -> int:
    """The int64 with the same bits as an unsigned 64-bit word."""
    return word - 2**64 if word >= 2**63 else word


def _shift_right(state: Tensor, bits: int) -> Tensor:
    """Logical shift; torch's own copies the sign bit."""
    shifted: Tensor = (state >> bits) & (2 ** (64 - bits) - 1)
    return shifted


def mix(state: Tensor) -> Tensor:
    """SplitMix64's output function on int64 tensors; products wrap around as unsigned ones do."""
    state = state + _signed(0x9E3779B97F4A7C15)
    state = (state ^ _shift_right(state, 30)) * _signed(0xBF58476D1CE4E5B9)
    state = (state ^ _shift_right(state, 27)) * _signed(0x94D049BB133111EB)
    return state ^ _shift_right(state, 31)


def hash_words(*words: int | Tensor, device: torch.device) -> Tensor:
    """Chain words (scalars or int64 tensors that broadcast) into one 64-bit hash each, as int64."""
    state = torch.zeros((), dtype=torch.int64, device=device)
    for word in words:
        state = mix(state ^ word)
    return state


def uniform(*words: int | Tensor, device: torch.device) -> Tensor:
    """Numbers in [0, 1), float64."""
    return _shift_right(hash_words(*words, device=device), 11).double() * 2.0**-53


def video_visible(clip_keys: Tensor, epoch: int, config: Config) -> Tensor:
    """Tube masks: the same patches are hidden in every tubelet slice.

    Args:
        clip_keys: int64 [B] on the training device (`randomness.clip_key`).

    Returns:
        Indices of the visible video tokens, int64 [V + 1, B, n], ascending; the last view is that of the semantic
        cluster distillation.
    """
    patches = _patches_per_frame(config)
    slices = config.data.num_frames // config.model.tubelet_size
    view = _axis(config.mask.video_views + 1, clip_keys, 2)
    patch = _axis(patches, clip_keys, 0)
    order = hash_words(
        config.run.seed, epoch, Purpose.VIDEO_MASK, clip_keys[:, None], view, patch, device=clip_keys.device
    )
    kept = _lowest(order, patches - int(config.mask.video_ratio * patches))
    tubes = _axis(slices, clip_keys, 1) * patches + kept[:, :, None, :]
    return tubes.flatten(2)


def image_visible(clip_keys: Tensor, epoch: int, config: Config) -> Tensor:
    """Masks of single frames, independent of each other.

    Returns:
        Indices of the visible patches, int64 [V, B * T, m], ascending; frames run clip by clip.
    """
    patches = _patches_per_frame(config)
    view = _axis(config.mask.image_views, clip_keys, 3)
    frame = _axis(config.data.num_frames, clip_keys, 1)
    patch = _axis(patches, clip_keys, 0)
    keys = clip_keys[:, None, None]
    order = hash_words(config.run.seed, epoch, Purpose.IMAGE_MASK, keys, view, frame, patch, device=clip_keys.device)
    return _lowest(order, patches - int(config.mask.image_ratio * patches)).flatten(1, 2)


def crop_clips(frames: Tensor, clip_keys: Tensor, epoch: int, config: Config) -> Tensor:
    """Multi-scale random crop, resized back (bilinear) and normalised; one scale and place for all frames of a clip.

    Args:
        frames: uint8 grey [B, T, S, S] on the training device.

    Returns:
        Clips [B, 3, T, S, S], fp32.
    """
    data, size = config.data, frames.shape[-1]

    def draw(which: int) -> Tensor:
        return uniform(config.run.seed, epoch, Purpose.CROP, clip_keys, which, device=clip_keys.device)

    sides = torch.tensor([round(scale * size) for scale in data.crop_scales], device=clip_keys.device)
    side = sides[(draw(0) * len(sides)).long()]
    top = (draw(1) * (size - side + 1)).floor()
    left = (draw(2) * (size - side + 1)).floor()
    columns, rows = _sample_points(left, side, size)[:, None, :], _sample_points(top, side, size)[:, :, None]
    grid = torch.stack(torch.broadcast_tensors(columns, rows), dim=-1)
    pixels = functional.grid_sample(frames.float(), grid, "bilinear", "border", align_corners=False)
    return _normalised(pixels, data)


def normalise(frames: Tensor, data: DataConfig) -> Tensor:
    """Whole frames, uint8 grey [B, T, H, W] -> clips [B, 3, T, H, W], fp32: what evaluation and teachers' maps use."""
    return _normalised(frames.float(), data)


def _normalised(pixels: Tensor, data: DataConfig) -> Tensor:
    """Grey values 0-255 [B, T, H, W] -> three channels, each with its own mean and deviation."""
    mean = torch.tensor(data.mean, device=pixels.device).view(1, 3, 1, 1, 1)
    std = torch.tensor(data.std, device=pixels.device).view(1, 3, 1, 1, 1)
    return (pixels[:, None] * (1 / 255) - mean) / std


def _sample_points(start: Tensor, side: Tensor, size: int) -> Tensor:
    """Where `size` output pixels lie on an axis from `start`, `side` pixels long: [B, size], fp32, in [-1, 1].

    Clamped to the centres of the crop's outer pixels, so nothing outside the crop is ever mixed in.
    """
    centre = (torch.arange(size, device=start.device, dtype=torch.float64) + 0.5)[None]
    side = side[:, None]
    offset = (centre * side / size - 0.5).clamp(min=torch.zeros_like(side), max=side - 1)
    return ((2 * (start[:, None] + offset) + 1) / size - 1).float()


def _patches_per_frame(config: Config) -> int:
    return (config.data.image_size // config.model.patch_size) ** 2


def _axis(length: int, like: Tensor, num_behind: int) -> Tensor:
    """0 .. length-1 along an axis that has `num_behind` axes behind it."""
    return torch.arange(length, device=like.device).view(-1, *[1] * num_behind)


def _lowest(order: Tensor, count: int) -> Tensor:
    """Indices of the `count` lowest values along the last axis, ascending by index."""
    return order.argsort(dim=-1, stable=True)[..., :count].sort(dim=-1).values
