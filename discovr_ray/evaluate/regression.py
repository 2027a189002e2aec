"""Ejection fraction, or any other number, from frozen features: ridge regression and a small MLP head."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from discovr_ray.evaluate.metrics import Doubles, NumberPredictions
from discovr_ray.evaluate.splits import Problem, Side

ALPHAS = tuple(float(10.0**power) for power in range(-2, 7))  # of ridge, for standardised features
MLP_WIDTH = 64  # hidden units
MLP_DECAYS = (1e-4, 1e-2, 1.0)  # L2 of its weights
MLP_EPOCHS = 200  # at most; the best epoch on the validation split counts
MLP_PATIENCE = 20  # epochs without a better one, after which a fit ends
EF_EDGES = (30.0, 40.0, 50.0, 60.0)  # percent; where ranges of ejection fraction begin and end
SIDES = ("train", "val", "test")
AGREEMENT = 1.96  # standard deviations to either limit of agreement


class NumberProbe(NamedTuple):
    answers: NumberPredictions  # of the test split
    chosen: dict[str, float]  # on the validation split
    validation: dict[str, float]  # choice -> MAE there


class RangeBias(NamedTuple):
    """Errors of the test videos whose true value is in [low, high)."""

    low: float  # -inf for the first range
    high: float  # inf for the last one
    num_videos: int
    bias: float  # mean of predicted - true; NaN without a video
    mae: float


class Agreement(NamedTuple):
    """Bland and Altman, "Statistical methods for assessing agreement" (Lancet 1986); difference = predicted - true."""

    bias: float
    deviation: float  # standard deviation of the differences, n - 1
    low: float  # limits of agreement
    high: float
    slope: float  # of the difference over the mean of both: below 0 the predictions shrink towards the middle


def ridge_probe(problem: Problem) -> NumberProbe:
    """Fit on the training split with every alpha, keep the one with the lowest MAE on the validation split.

    Of equal alphas the largest, that is the simplest, wins.
    """
    fitted = {alpha: _ridge(problem.train, alpha) for alpha in ALPHAS}
    found = {alpha: _mae(model.predict(_doubles(problem.val)), problem.val) for alpha, model in fitted.items()}
    best = min(ALPHAS, key=lambda alpha: (found[alpha], -alpha))
    answers = NumberPredictions(problem.test.y, fitted[best].predict(_doubles(problem.test)))
    return NumberProbe(answers, {"alpha": best}, {f"alpha={alpha:g}": mae for alpha, mae in found.items()})


def mlp_probe(problem: Problem, seed: int) -> NumberProbe:
    """One hidden layer, Adam; weight decay and epochs are those with the lowest MAE on the validation split."""
    scaler = StandardScaler().fit(_doubles(problem.train))
    scaled = problem._replace(
        **{
            name: getattr(problem, name)._replace(x=scaler.transform(_doubles(getattr(problem, name))))
            for name in SIDES
        }
    )
    fitted = [_fit_mlp(scaled, decay, seed) for decay in MLP_DECAYS]
    best = min(fitted, key=lambda fit: fit.mae)
    return NumberProbe(
        NumberPredictions(problem.test.y, best.predicted),
        {"decay": best.decay, "epoch": best.epoch},
        {f"decay={fit.decay:g}": fit.mae for fit in fitted},
    )


class _Fit(NamedTuple):
    mae: float  # on the validation split
    decay: float
    epoch: int
    predicted: Doubles  # of the test split


def _fit_mlp(problem: Problem, decay: float, seed: int) -> _Fit:
    """One weight decay at its best epoch, for standardised features."""
    train, mean, deviation = problem.train, problem.train.y.mean(), problem.train.y.std()
    model = MLPRegressor(
        hidden_layer_sizes=(MLP_WIDTH,), alpha=decay, random_state=seed, batch_size=min(200, len(train.x))
    )
    best = _Fit(np.inf, decay, 0, np.zeros(0))
    for epoch in range(1, MLP_EPOCHS + 1):
        model.partial_fit(train.x, (train.y - mean) / deviation)
        mae = _mae(model.predict(problem.val.x) * deviation + mean, problem.val)
        if mae < best.mae:
            best = _Fit(mae, decay, epoch, model.predict(problem.test.x) * deviation + mean)
        elif epoch - best.epoch >= MLP_PATIENCE:
            break
    return best


def mean_floor(problem: Problem) -> NumberPredictions:
    """The mean of the training split for everybody: what is known without looking."""
    return NumberPredictions(problem.test.y, np.full(len(problem.test.y), problem.train.y.mean()))


def bias_by_range(answers: NumberPredictions, edges: tuple[float, ...] = EF_EDGES) -> list[RangeBias]:
    """Whether high values are guessed too low and low ones too high, as of a probe that has learnt little."""
    differences = answers.predicted - answers.truth
    bounds = (-np.inf, *edges, np.inf)
    ranges = []
    for low, high in pairwise(bounds):
        inside = differences[(answers.truth >= low) & (answers.truth < high)]
        bias, mae = (float(inside.mean()), float(np.abs(inside).mean())) if len(inside) else (np.nan, np.nan)
        ranges.append(RangeBias(low, high, len(inside), bias, mae))
    return ranges


def bland_altman(answers: NumberPredictions) -> Agreement:
    """Bias and 95 % limits of agreement; each video counts once, also where a patient has several."""
    differences = answers.predicted - answers.truth
    bias = float(differences.mean())
    deviation = float(differences.std(ddof=1)) if len(differences) > 1 else np.nan
    middle = (answers.predicted + answers.truth) / 2
    spread = float(((middle - middle.mean()) ** 2).sum())
    slope = float(((middle - middle.mean()) * (differences - bias)).sum() / spread) if spread else np.nan
    return Agreement(bias, deviation, bias - AGREEMENT * deviation, bias + AGREEMENT * deviation, slope)


def _ridge(side: Side, alpha: float) -> Pipeline:
    return make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(_doubles(side), side.y)


def _mae(predicted: Doubles, side: Side) -> float:
    return float(mean_absolute_error(side.y, predicted))


def _doubles(side: Side) -> npt.NDArray[np.float64]:
    return side.x.astype(np.float64)
