"""Segmentation with a linear head on frozen patch tokens (section 4 of the paper: frozen encoder, linear head).

Each token gives one score for each structure, the grid of scores is enlarged to the frame (bilinear), and the highest
score of a pixel wins. The head knows where a token lies (one bias for each place), so that features without positions,
such as plain pixels, are not worse for that alone.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from discovr_ray.errors import EvaluationError
from discovr_ray.evaluate.outlines import Mask

logger = logging.getLogger(__name__)

TokenArray = npt.NDArray[np.float16] | npt.NDArray[np.float32]

WEIGHT_DECAYS = (0.1, 3.0, 30.0)  # of AdamW, times its learning rate
LEARNING_RATE = 3e-3
BATCH = 32  # frames of a step
MIN_STEPS, EPOCHS = 400, 5  # a fit is as long as the longer of the two
PIXEL_STEP = 2  # a step of a fit sees every second row and column, others in each step: a quarter of the work
TRIES = 10  # evenly spread steps at which a fit is asked on the validation split
PATIENCE = 3  # tries without a better one, after which a fit ends
PREDICT_BATCH = 256  # frames


class Drawn(NamedTuple):
    """Labelled frames of one split."""

    tokens: TokenArray  # [n, N, D], along rows, then columns
    masks: Mask  # [n, S, S], 0 is no structure


class Head(NamedTuple):
    """A fitted head; scores = (token - mean) / deviation @ weight + bias."""

    mean: Tensor  # [D], of the training tokens
    deviation: Tensor  # [D]
    weight: Tensor  # [D, C], C counts the background
    bias: Tensor  # [N, C]


class Fitted(NamedTuple):
    head: Head
    weight_decay: float  # chosen on the validation split, as is the step
    step: int
    validation: dict[str, float]  # weight decay -> best mean Dice there


def fit_head(train: Drawn, val: Drawn, num_structures: int, seed: int) -> Fitted:
    """Cross-entropy over pixels, AdamW; weight decay and step have the best mean Dice on the validation split.

    Of equal ones the larger decay wins. Deterministic for a seed, and torch's own generator is left as it was.

    Errors:
        EvaluationError: no frame, tokens that are no square grid or of another size than the validation split's, or
            masks of other frames.
    """
    for name, drawn in (("training", train), ("validation", val)):
        check_drawn(drawn, name, num_structures)
    if train.tokens.shape[1:] != val.tokens.shape[1:]:
        raise EvaluationError(
            f"segmentation: tokens {train.tokens.shape[1:]} of the training split and {val.tokens.shape[1:]} of the "
            "validation split are of encoders of different size"
        )
    values = torch.from_numpy(np.asarray(train.tokens, np.float32)).flatten(0, 1)
    mean, deviation = values.mean(dim=0), values.std(dim=0, correction=0).clamp(min=1e-6)
    fits = [_fit(train, val, (mean, deviation), (num_structures, decay, seed)) for decay in WEIGHT_DECAYS]
    best = max(fits, key=lambda fit: (fit.score, fit.decay))
    return Fitted(best.head, best.decay, best.step, {f"weight_decay={fit.decay:g}": fit.score for fit in fits})


def predict(head: Head, tokens: TokenArray, size: int) -> Mask:
    """Tokens [n, N, D] -> masks [n, size, size].

    Errors:
        EvaluationError: tokens of another encoder than the head was fitted on.
    """
    expected = (len(head.bias), len(head.weight))
    if tokens.shape[1:] != expected:
        raise EvaluationError(f"segmentation: tokens {tokens.shape[1:]}, the head was fitted on {expected}")
    parts = [np.zeros((0, size, size), np.uint8)]
    with torch.inference_mode():
        for start in range(0, len(tokens), PREDICT_BATCH):
            values = torch.from_numpy(np.asarray(tokens[start : start + PREDICT_BATCH], np.float32))
            scores = _scores((values - head.mean) / head.deviation, head.weight, head.bias, size)
            parts.append(scores.argmax(dim=1).to(torch.uint8).numpy())
    return np.concatenate(parts)


def dice(predicted: Mask, truth: Mask, num_structures: int) -> npt.NDArray[np.float64]:
    """Of each frame and structure, [n, structures]; 1 is equal, 0 is apart. Truth must have every structure."""
    found = np.zeros((len(truth), num_structures))
    for structure in range(num_structures):
        ours, theirs = predicted == structure + 1, truth == structure + 1
        both = (ours & theirs).sum(axis=(1, 2))
        found[:, structure] = 2 * both / np.maximum(ours.sum(axis=(1, 2)) + theirs.sum(axis=(1, 2)), 1)
    return found


def mean_mask(train: Drawn, num_structures: int) -> Mask:
    """What most training frames have at each pixel, [S, S]: the floor of whoever does not look."""
    counts = np.stack([(train.masks == value).sum(axis=0) for value in range(num_structures + 1)])
    return np.asarray(counts.argmax(axis=0), np.uint8)


def check_drawn(drawn: Drawn, name: str, num_structures: int) -> None:
    """Errors: EvaluationError: as of fit_head."""
    tokens, masks = drawn
    if not len(tokens):
        raise EvaluationError(f"segmentation: no outlined frame in the {name} split")
    if tokens.ndim != 3 or round(tokens.shape[1] ** 0.5) ** 2 != tokens.shape[1]:
        raise EvaluationError(f"segmentation: tokens {tokens.shape} of the {name} split: a square grid is expected")
    if masks.ndim != 3 or len(masks) != len(tokens) or masks.shape[1] != masks.shape[2]:
        raise EvaluationError(
            f"segmentation: masks {masks.shape} of the {name} split do not fit {len(tokens)} frames of tokens"
        )
    for value in range(1, num_structures + 1):
        empty = np.flatnonzero(~(masks == value).any(axis=(1, 2)))
        if len(empty):
            raise EvaluationError(
                f"segmentation: structure {value} has no pixel in {len(empty)} frame(s) of the {name} split, such as "
                f"number {empty[0]}"
            )
    if masks.max() > num_structures:
        raise EvaluationError(f"segmentation: value {masks.max()} in masks of {num_structures} structure(s)")


class _Fit(NamedTuple):
    score: float
    decay: float
    step: int
    head: Head


def _fit(train: Drawn, val: Drawn, scale: tuple[Tensor, Tensor], choice: tuple[int, float, int]) -> _Fit:
    """One weight decay at its best step. `choice`: structures, weight decay, seed."""
    (mean, deviation), (num_structures, decay, seed) = scale, choice
    count, num_tokens, width = train.tokens.shape
    generator = torch.Generator().manual_seed(seed)
    weight = torch.zeros(width, num_structures + 1, requires_grad=True)
    bias = torch.zeros(num_tokens, num_structures + 1, requires_grad=True)
    groups = [{"params": [weight], "weight_decay": decay}, {"params": [bias], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=LEARNING_RATE)
    batch = min(BATCH, count)
    num_steps = max(MIN_STEPS, EPOCHS * count // batch)
    every = max(1, num_steps // TRIES)
    best = _Fit(-1.0, decay, 0, Head(mean, deviation, weight.detach().clone(), bias.detach().clone()))
    order = torch.zeros(0, dtype=torch.int64)
    tries = 0
    for step in range(1, num_steps + 1):
        if len(order) < batch:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        rows, order = order[:batch].numpy(), order[batch:]
        values = torch.from_numpy(np.asarray(train.tokens[rows], np.float32))
        first = divmod(int(torch.randint(PIXEL_STEP**2, (), generator=generator)), PIXEL_STEP)
        scores = _scores((values - mean) / deviation, weight, bias, train.masks.shape[1], first)
        truth = train.masks[rows, first[0] :: PIXEL_STEP, first[1] :: PIXEL_STEP]
        loss = functional.cross_entropy(scores, torch.from_numpy(truth.astype(np.int64)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % every == 0:
            head = Head(mean, deviation, weight.detach().clone(), bias.detach().clone())
            score = float(dice(predict(head, val.tokens, val.masks.shape[1]), val.masks, num_structures).mean())
            tries = 0 if score > best.score else tries + 1
            best = _Fit(score, decay, step, head) if score > best.score else best
            if tries >= PATIENCE:
                break
    return best


def _scores(values: Tensor, weight: Tensor, bias: Tensor, size: int, first: tuple[int, int] = (0, 0)) -> Tensor:
    """Standardised tokens [n, N, D] -> scores [n, C, size, size].

    Args:
        first: in a fit, the first row and column of those whose scores are computed, every PIXEL_STEP-th.
    """
    side = round(values.shape[1] ** 0.5)
    grid: Tensor = (values @ weight + bias).unflatten(1, (side, side)).permute(0, 3, 1, 2)
    if not weight.requires_grad:
        return functional.interpolate(grid, size=(size, size), mode="bilinear", align_corners=False)
    line: Tensor = functional.interpolate(torch.eye(side)[None], size=size, mode="linear", align_corners=False)[
        0
    ]  # [side, S]
    rows, columns = (line[:, start::PIXEL_STEP] for start in first)
    return torch.einsum("hr,bkhw,wc->bkrc", rows, grid, columns)
