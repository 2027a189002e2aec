"""Attentive probe: one learned query attends to a clip's frozen patch tokens, and a linear layer answers.

Cross-attention with a single query needs no matrices for keys and values: what they would do to the score is a vector
in the tokens' own space, and what they would do to the pooled token the linear layer does. So the probe is two vectors
of the tokens' width for each answer, and is as fast as its data. The score may have a bias for each place (chosen on
the validation split), so that tokens without positions, such as plain pixels, are not worse for that alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from discovr_ray.errors import EvaluationError
from discovr_ray.evaluate.metrics import ClassPredictions, Doubles, NumberPredictions, class_metrics, number_metrics
from discovr_ray.evaluate.segmentation import TokenArray
from discovr_ray.evaluate.splits import Problem, Side

WEIGHT_DECAYS = (0.01, 1.0, 10.0)  # of AdamW, times its learning rate
LEARNING_RATE = 3e-3
BATCH = 64  # clips of a step
MIN_STEPS, EPOCHS = 400, 10  # a fit is as long as the longer of the two
TRIES, PATIENCE = 20, 5  # steps at which a fit is asked on the validation split, and how many may be no better
PREDICT_BATCH = 256  # clips


class AttentiveProbe(NamedTuple):
    answers: ClassPredictions | NumberPredictions  # of the test split
    chosen: dict[str, float]  # on the validation split
    validation: dict[str, float]  # weight decay, with or without places -> macro F1, or MAE, there
    fitted: Fitted


class _Model(NamedTuple):
    query: Tensor  # [D]
    place: Tensor  # [N], zeros where places are not to be told apart
    weight: Tensor  # [D, C], C = 1 for a number
    bias: Tensor  # [C]

    def __call__(self, tokens: Tensor) -> Tensor:
        """Standardised tokens [n, N, D] -> [n, C]."""
        attention = (tokens @ self.query / tokens.shape[-1] ** 0.5 + self.place).softmax(dim=1)
        pooled = torch.einsum("bn,bnd->bd", attention, tokens)
        return pooled @ self.weight + self.bias


class _Scale(NamedTuple):
    """Standardises tokens and numbers, by the training split."""

    mean: Tensor  # [D]
    deviation: Tensor
    y_mean: float
    y_deviation: float


class Fitted(NamedTuple):
    """A fitted probe, for other tokens than those it was fitted on."""

    scale: _Scale
    model: _Model

    def outputs(self, tokens: TokenArray) -> Doubles:
        """Tokens [n, N, D] -> scores of the classes [n, C], or the number [n, 1] in the label's unit."""
        parts = []
        with torch.inference_mode():
            for start in range(0, len(tokens), PREDICT_BATCH):
                values = torch.from_numpy(np.asarray(tokens[start : start + PREDICT_BATCH], np.float32))
                parts.append(self.model((values - self.scale.mean) / self.scale.deviation))
        found = torch.cat(parts).double()
        if found.shape[1] > 1:
            return np.asarray(found.softmax(dim=1).numpy())
        return np.asarray(found.numpy() * self.scale.y_deviation + self.scale.y_mean)

    def to_tensors(self) -> dict[str, Tensor]:
        moments = torch.tensor([self.scale.y_mean, self.scale.y_deviation], dtype=torch.float64)
        return {"mean": self.scale.mean, "deviation": self.scale.deviation, "y": moments, **self.model._asdict()}


def fitted_from(tensors: Mapping[str, Tensor]) -> Fitted:
    """Of Fitted.to_tensors. Errors: KeyError: one of them is missing."""
    y_mean, y_deviation = tensors["y"].tolist()
    scale = _Scale(tensors["mean"], tensors["deviation"], y_mean, y_deviation)
    return Fitted(scale, _Model(*(tensors[name] for name in _Model._fields)))


def predictions(y: npt.NDArray[Any], outputs: Doubles) -> ClassPredictions | NumberPredictions:
    """Answers of Fitted.outputs [n, C]; C above 1 are classes."""
    if outputs.shape[1] > 1:
        return ClassPredictions(y, outputs.argmax(axis=1), outputs)
    return NumberPredictions(y, outputs[:, 0])


class _Fit(NamedTuple):
    score: float  # on the validation split, higher is better
    decay: float
    places: bool
    step: int
    model: _Model


def attentive_probe(problem: Problem, tokens: TokenArray, seed: int) -> AttentiveProbe:
    """Fit on the training split; weight decay, places and step have the best macro F1, or MAE, on the validation split.

    Classes weigh alike whatever their size. Of equal choices the one without places and the larger decay wins.
    Deterministic for a seed.

    Args:
        problem: its `x` [n, 1] are row numbers of `tokens`.
        tokens: [videos, N, D].
    Errors:
        EvaluationError: tokens of another number of axes, or that are not finite.
    """
    if tokens.ndim != 3:
        raise EvaluationError(f"attentive probe: tokens of shape {tokens.shape}: videos, tokens and width are expected")
    y = problem.train.y.astype(np.float64)
    scale = _Scale(
        *_moments(problem.train, tokens),
        0.0 if problem.classes else float(y.mean()),
        1.0 if problem.classes else float(y.std()),
    )
    fits = [_fit(problem, tokens, scale, (decay, places, seed)) for places in (False, True) for decay in WEIGHT_DECAYS]
    best = max(fits, key=lambda fit: (fit.score, not fit.places, fit.decay))
    sign = 1 if problem.classes else -1
    return AttentiveProbe(
        _answers(problem.test, tokens, Fitted(scale, best.model)),
        {"weight_decay": best.decay, "places": float(best.places), "step": float(best.step)},
        {f"weight_decay={fit.decay:g}{', places' * fit.places}": sign * fit.score for fit in fits},
        Fitted(scale, best.model),
    )


def _moments(side: Side, tokens: TokenArray) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each of a token's D values; a part of the videos at a time, since all may be gigabytes.

    Errors:
        EvaluationError: tokens that are not finite.
    """
    total = torch.zeros(2, tokens.shape[2], dtype=torch.float64)
    for start in range(0, len(side.y), PREDICT_BATCH):
        rows = np.arange(start, min(start + PREDICT_BATCH, len(side.y)))
        values = _tokens(side.take(rows), tokens).flatten(0, 1).double()
        total += torch.stack([values.sum(dim=0), values.square().sum(dim=0)])
    if not torch.isfinite(total).all():
        raise EvaluationError("attentive probe: patch tokens that are not finite")
    mean, square = total / (len(side.y) * tokens.shape[1])
    return mean.float(), (square - mean.square()).clamp(min=0).sqrt().clamp(min=1e-6).float()


def _fit(problem: Problem, tokens: TokenArray, scale: _Scale, choice: tuple[float, bool, int]) -> _Fit:
    """One weight decay at its best step. `choice`: weight decay, whether places are told apart, seed."""
    decay, places, seed = choice
    side, width = problem.train, tokens.shape[2]
    generator = torch.Generator().manual_seed(seed)
    outputs = max(1, len(problem.classes))
    # a query of zeros attends to all tokens alike; the linear layer starts small, so that the query gets a gradient
    model = _Model(
        torch.zeros(width, requires_grad=True),
        torch.zeros(tokens.shape[1], requires_grad=places),
        (0.01 * torch.randn(width, outputs, generator=generator)).requires_grad_(),
        torch.zeros(outputs, requires_grad=True),
    )
    decayed = [part for part in model[:3] if part.requires_grad]
    groups = [{"params": decayed, "weight_decay": decay}, {"params": model[3:], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=LEARNING_RATE)
    y = torch.from_numpy((side.y - scale.y_mean) / scale.y_deviation).float()
    weights = None
    if problem.classes:
        counts = np.bincount(side.y, minlength=outputs)
        weights = torch.from_numpy(len(side.y) / (outputs * counts.clip(1))).float()
    batch = min(BATCH, len(side.y))
    num_steps = max(MIN_STEPS, EPOCHS * len(side.y) // batch)
    every = max(1, num_steps // TRIES)
    best, tries = _Fit(-np.inf, decay, places, 0, model), 0
    order = torch.zeros(0, dtype=torch.int64)
    for step in range(1, num_steps + 1):
        if len(order) < batch:
            order = torch.cat([order, torch.randperm(len(side.y), generator=generator)])
        rows, order = order[:batch], order[batch:]
        found = model(_standard(side.take(rows.numpy()), tokens, scale))
        if problem.classes:
            loss = functional.cross_entropy(found, y[rows].long(), weights)
        else:
            loss = functional.mse_loss(found[:, 0], y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % every == 0:
            now = _Model(*(part.detach().clone() for part in model))
            score = _score(problem.val, tokens, Fitted(scale, now))
            tries = 0 if score > best.score else tries + 1
            best = _Fit(score, decay, places, step, now) if score > best.score else best
            if tries >= PATIENCE:
                break
    return best


def _score(side: Side, tokens: TokenArray, fitted: Fitted) -> float:
    answers = _answers(side, tokens, fitted)
    if isinstance(answers, ClassPredictions):
        return class_metrics(answers)["macro_f1"](None)
    return -number_metrics(answers)["mae"](None)


def _answers(side: Side, tokens: TokenArray, fitted: Fitted) -> ClassPredictions | NumberPredictions:
    rows = side.x[:, 0].astype(np.intp)
    starts = range(0, len(rows), PREDICT_BATCH)
    return predictions(side.y, np.concatenate([fitted.outputs(tokens[rows[at : at + PREDICT_BATCH]]) for at in starts]))


def _standard(side: Side, tokens: TokenArray, scale: _Scale) -> Tensor:
    return (_tokens(side, tokens) - scale.mean) / scale.deviation


def _tokens(side: Side, tokens: TokenArray) -> Tensor:
    return torch.from_numpy(np.asarray(tokens[side.x[:, 0].astype(np.intp)], np.float32))
