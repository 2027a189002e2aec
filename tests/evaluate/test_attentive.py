"""The attentive probe finds what one token among many says, and chooses nothing on the test split."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from problems import classification, regression
from safetensors.torch import load, save

from discovr_ray.errors import EvaluationError
from discovr_ray.evaluate import attentive
from discovr_ray.evaluate.attentive import AttentiveProbe, attentive_probe, fitted_from
from discovr_ray.evaluate.linear import linear_probe
from discovr_ray.evaluate.metrics import class_metrics, number_metrics
from discovr_ray.evaluate.splits import Problem


def with_rows(problem: Problem) -> tuple[Problem, Any]:
    """The problem about row numbers, and tokens: one of 16, marked by its last value, has the features."""
    generator = np.random.default_rng(0)
    sides, parts, start = {}, [], 0
    for name in ("train", "val", "test"):
        side = getattr(problem, name)
        count, width = side.x.shape
        tokens = generator.normal(scale=1.5, size=(count, 16, width + 1))
        tokens[:, :, -1] = 0
        places = generator.integers(16, size=count)
        tokens[np.arange(count), places] = np.concatenate([side.x, np.full((count, 1), 4.0)], axis=1)
        parts.append(tokens)
        sides[name] = side._replace(x=np.arange(start, start + count, dtype=np.float32)[:, None])
        start += count
    return problem._replace(**sides), np.concatenate(parts).astype(np.float16)


def chosen_one(found: AttentiveProbe) -> float:
    """What the chosen fit reached on the validation split."""
    places = ", places" * bool(found.chosen["places"])
    return found.validation[f"weight_decay={found.chosen['weight_decay']:g}{places}"]


def test_tokens_without_positions_are_not_worse_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the floor of plain pixels has them: the answer is what lies at place 5, and no token says where it is from."""
    monkeypatch.setattr(attentive, "WEIGHT_DECAYS", (0.01,))
    problem = regression(num_patients=100)
    tokens, start = np.random.default_rng(0).normal(size=(400, 16, 3)).astype(np.float16), 0
    sides = {}
    for name in ("train", "val", "test"):
        side = getattr(problem, name)
        rows = np.arange(start, start + len(side.y))
        sides[name] = side._replace(x=rows.astype(np.float32)[:, None], y=50 + 10 * tokens[rows, 5, 0].astype(float))
        start += len(rows)
    found = attentive_probe(problem._replace(**sides), tokens, seed=0)
    assert found.chosen["places"] == 1
    assert number_metrics(found.answers)["r2"](None) > 0.3, "without places it is 0"


def test_it_looks_where_the_answer_is() -> None:
    """The mean over tokens drowns the one that knows among fifteen that do not."""
    problem, tokens = with_rows(classification(num_patients=100, noise=0.5))
    found = attentive_probe(problem, tokens, seed=0)
    means = {
        name: getattr(problem, name)._replace(x=tokens[getattr(problem, name).x[:, 0].astype(int)].mean(axis=1))
        for name in ("train", "val", "test")
    }
    of_means = linear_probe(problem._replace(**means)).answers
    assert class_metrics(found.answers)["macro_f1"](None) > class_metrics(of_means)["macro_f1"](None) + 0.1
    assert chosen_one(found) == max(found.validation.values())
    rows = problem.test.x[:, 0].astype(int)
    again = fitted_from(load(save(found.fitted.to_tensors()))).outputs(tokens[rows])
    assert np.array_equal(again, found.answers.scores), "what is kept answers as before"


def test_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, tokens = with_rows(regression(num_patients=100, noise=1.0))
    found = attentive_probe(problem, tokens, seed=0)
    assert number_metrics(found.answers)["r2"](None) > 0.5
    assert chosen_one(found) == min(found.validation.values())
    # other answers on the test split, same predictions: nothing is chosen there
    monkeypatch.setattr(attentive, "WEIGHT_DECAYS", (1.0,))  # one fit is enough to see it
    one = attentive_probe(problem, tokens, seed=0).answers.predicted
    other = problem._replace(test=problem.test._replace(y=problem.test.y[::-1].copy()))
    assert np.array_equal(attentive_probe(other, tokens, seed=0).answers.predicted, one)


def test_tokens_that_cannot_be_used_are_refused() -> None:
    problem, tokens = with_rows(classification(num_patients=20))
    with pytest.raises(EvaluationError, match="videos, tokens and width are expected"):
        attentive_probe(problem, tokens[:, 0], seed=0)
    tokens[0, 0, 0] = np.nan
    with pytest.raises(EvaluationError, match="not finite"):
        attentive_probe(problem, tokens, seed=0)
