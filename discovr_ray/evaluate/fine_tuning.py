"""Fine-tuning: the last blocks of the encoder learn with a linear layer on its features (section 4 of the paper)."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from discovr_ray.data.clip import load_frames
from discovr_ray.data.formats.reader import Frames
from discovr_ray.errors import ConfigError
from discovr_ray.evaluate.dense import WHOLE, moment_of
from discovr_ray.evaluate.embedding import preprocessing_of
from discovr_ray.evaluate.metrics import ClassPredictions, NumberPredictions, class_metrics, number_metrics
from discovr_ray.evaluate.splits import Problem, Side
from discovr_ray.model.weights import PretrainedEncoder

logger = logging.getLogger(__name__)

BLOCK_RATES = (3e-5, 1e-4)  # learning rates of the blocks; what such encoders need lies around them
HEAD_RATE = 1e-3
WEIGHT_DECAY = 0.05
EPOCHS = 12  # at most; the best epoch on the validation split counts
PATIENCE = 3  # epochs without a better one, after which a fit ends
READ_THREADS, READ_AHEAD = 8, 16  # clips that are decoded beside the training


class TuneSettings(NamedTuple):
    blocks: int  # last ones that learn
    feature: str  # "cls" or "patches", their mean
    batch_size: int
    precision: str  # "bf16" or "fp32"
    seed: int


class Tuned(NamedTuple):
    answers: ClassPredictions | NumberPredictions  # of the test split
    chosen: dict[str, float]  # on the validation split
    validation: dict[str, float]  # learning rate -> macro F1, or MAE, there


class _Best(NamedTuple):
    score: float  # on the validation split, higher is better
    rate: float
    epoch: int
    answers: ClassPredictions | NumberPredictions  # of the test split


def fine_tune(
    encoder: PretrainedEncoder, problem: Problem, rows: Mapping[str, Mapping[str, Any]], settings: TuneSettings
) -> Tuned:
    """Tune on the training split; learning rate and epoch are those with the best macro F1, or MAE, on validation.

    The clip in the middle of each video is what is seen. The encoder that is handed in stays as it is.

    Args:
        encoder: on the device that computes.
        problem: of any features, which are not looked at.
        rows: clip_id -> row of the manifest.
    Errors:
        ConfigError: more blocks than the encoder has. ClipError, StorageError: a video that cannot be read.
    """
    check_blocks(encoder, settings.blocks)
    found = [_fit(encoder, problem, rows, (settings, rate)) for rate in BLOCK_RATES]
    best = max(found, key=lambda item: (item.score, -item.rate))
    sign = 1 if problem.classes else -1
    return Tuned(
        best.answers,
        {"rate": best.rate, "epoch": float(best.epoch)},
        {f"rate={item.rate:g}": sign * item.score for item in found},
    )


def check_blocks(encoder: PretrainedEncoder, blocks: int) -> None:
    """Errors: ConfigError: the encoder has fewer."""
    depth = encoder.card.encoder.depth
    if blocks > depth:
        raise ConfigError([f"finetune_blocks = {blocks}: must be at most the {depth} blocks of the encoder"])


def _fit(
    encoder: PretrainedEncoder,
    problem: Problem,
    rows: Mapping[str, Mapping[str, Any]],
    choice: tuple[TuneSettings, float],
) -> _Best:
    """One learning rate at its best epoch."""
    settings, rate = choice
    model = _Model(encoder, problem, settings)
    groups = [
        {"params": model.tuned, "lr": rate, "weight_decay": WEIGHT_DECAY},
        {"params": list(model.head.parameters()), "lr": HEAD_RATE, "weight_decay": WEIGHT_DECAY},
    ]
    optimiser = torch.optim.AdamW(groups)
    generator = np.random.default_rng(settings.seed)
    best, tries = _Best(-np.inf, rate, 0, model.answers(problem.test, rows)), 0
    for epoch in range(1, EPOCHS + 1):
        order = problem.train.take(generator.permutation(len(problem.train.y)))
        for frames, y in _batches(order, rows, model):
            optimiser.zero_grad()
            model.loss(model(frames), y).backward()
            optimiser.step()
        score = model.score(model.answers(problem.val, rows))
        logger.info("fine-tuning at %g, epoch %d: %.4f on the validation split", rate, epoch, abs(score))
        tries = 0 if score > best.score else tries + 1
        if not tries:
            best = _Best(score, rate, epoch, model.answers(problem.test, rows))
        if tries >= PATIENCE:
            break
    return best


class _Model(nn.Module):
    """A copy of the encoder whose last blocks learn, and a linear layer that knows the scale of numbers."""

    def __init__(self, encoder: PretrainedEncoder, problem: Problem, settings: TuneSettings) -> None:
        super().__init__()
        self.settings = settings
        self.classes = problem.classes
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        inner = self.encoder.encoder
        last = [inner.norm, *list(inner.blocks)[len(inner.blocks) - settings.blocks :]]
        self.tuned = [parameter for module in last for parameter in module.requires_grad_().parameters()]
        self.head = nn.Linear(encoder.card.encoder.width, max(1, len(problem.classes)), device=encoder.mean.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        y = problem.train.y
        self.centre, self.scale = (0.0, 1.0) if self.classes else (float(y.mean()), float(y.std()))
        counts = np.bincount(y, minlength=len(self.classes)).clip(1) if self.classes else np.ones(1)
        self.weights = torch.from_numpy(counts.sum() / (len(counts) * counts)).float().to(encoder.mean.device)

    def forward(self, frames: Tensor) -> Tensor:
        """Grey uint8 clips [b, T, S, S] -> [b, C]."""
        device = self.encoder.mean.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            tokens = self.encoder(frames.to(device))
        features = tokens.cls if self.settings.feature == "cls" else tokens.patches.mean(dim=1)
        return functional.linear(features.float(), self.head.weight, self.head.bias)

    def loss(self, found: Tensor, y: npt.NDArray[Any]) -> Tensor:
        if self.classes:
            return functional.cross_entropy(found, torch.from_numpy(y).long().to(found.device), self.weights)
        wanted = torch.from_numpy((y - self.centre) / self.scale).float().to(found.device)
        return functional.mse_loss(found[:, 0], wanted)

    def answers(self, side: Side, rows: Mapping[str, Mapping[str, Any]]) -> ClassPredictions | NumberPredictions:
        with torch.inference_mode():
            found = torch.cat([self(frames).double().cpu() for frames, _ in _batches(side, rows, self)])
        if self.classes:
            scores: npt.NDArray[np.float64] = found.softmax(dim=1).numpy()
            return ClassPredictions(side.y, scores.argmax(axis=1), scores)
        return NumberPredictions(side.y, found[:, 0].numpy() * self.scale + self.centre)

    @staticmethod
    def score(answers: ClassPredictions | NumberPredictions) -> float:
        if isinstance(answers, ClassPredictions):
            return class_metrics(answers)["macro_f1"](None)
        return -number_metrics(answers)["mae"](None)


def _batches(
    side: Side, rows: Mapping[str, Mapping[str, Any]], model: _Model
) -> Iterator[tuple[Tensor, npt.NDArray[Any]]]:
    """Clips and answers in the side's order; the next ones are decoded meanwhile."""
    preprocessing = preprocessing_of(model.encoder.card, 1)
    size = model.settings.batch_size

    def load(clip_id: str) -> Frames:
        row = rows[clip_id]
        return load_frames(row, preprocessing.data, moment_of(row, WHOLE, preprocessing).indices)

    with ThreadPoolExecutor(READ_THREADS) as pool:
        ids = iter(side.clip_ids)
        waiting = [pool.submit(load, clip_id) for clip_id in islice(ids, READ_AHEAD + size)]
        for start in range(0, len(side.y), size):
            some, waiting = waiting[:size], waiting[size:]
            frames = torch.from_numpy(np.stack([item.result() for item in some]))
            waiting += [pool.submit(load, clip_id) for clip_id in islice(ids, size)]
            yield frames, side.y[start : start + size]
