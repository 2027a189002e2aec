"""The searched values: which the configuration takes, in every combination, and how they get into it."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from discovr_ray.config import Config, load_config
from discovr_ray.errors import SweepError
from discovr_ray.sweep.space import Space, apply_values, parse_space


def space_of(raw: dict[str, Any]) -> Space:
    space, problems = parse_space(raw)
    assert problems == []
    return space


def demo() -> Config:
    return load_config("demo")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"loss.w_scdd": {"uniform": [0, 1]}}, "loss.w_scdd: unknown field; did you mean w_scd?"),
        ({"los.w_scd": {"uniform": [0, 1]}}, "los: unknown section; did you mean loss?"),
        ({"optim.lr": {"choice": ["high"]}}, "optim.lr = 'high': input should be a valid number"),
        ({"model.depth": {"choice": [2, 2.5]}}, "model.depth = 2.5: input should be"),
        ({"schedule.ema_momentum": {"uniform": [0.9, 1.1]}}, "schedule.ema_momentum = 1.1: must be from 0 to 1"),
        ({"run.workers": {"choice": [1, 2]}}, "space.run.workers: not for sweeping"),
        ({"data.manifest": {"choice": ["a"]}}, "space.data.manifest: not for sweeping"),
        ({"model.size": {"choice": ["tiny"]}}, "the configuration sets model.width"),
        # only together, at a corner
        (
            {key: {"uniform": [0, 1]} for key in ("loss.w_vid", "loss.w_img", "loss.w_scd")},
            "loss.w_vid = loss.w_img = loss.w_scd = 0",
        ),
        # extremes fit, what lies between does not
        ({"model.decoder_width": {"int": [60, 64]}}, "must divide model.decoder_width = 61"),
    ],
)
def test_an_impossible_space_is_refused(raw: dict[str, Any], expected: str) -> None:
    with pytest.raises(SweepError) as caught:
        space_of(raw).refuse_impossible(demo())
    assert any(expected in problem for problem in caught.value.problems)


def test_a_step_or_a_condition_makes_it_possible() -> None:
    space_of({"model.decoder_width": {"int": [60, 64], "step": 2}}).refuse_impossible(demo())
    space_of(
        {
            "model.decoder_heads": {"choice": [2, 4]},
            "model.decoder_width": {"choice": [64, 66], "when": {"model.decoder_heads": 2}},
        }
    ).refuse_impossible(demo())


def test_a_field_that_does_not_apply_is_neither_drawn_nor_set() -> None:
    space = space_of(
        {
            "loss.w_scd": {"choice": [0, 1]},
            "loss.sinkhorn_epsilon": {"log_uniform": [0.01, 0.1], "when": {"loss.w_scd": 1}},
        }
    )
    study = optuna.create_study()
    for w_scd, num_values in ((0, 1), (1, 2)):
        study.enqueue_trial({"loss.w_scd": w_scd})
        assert len(space.suggest(study.ask())) == num_values
    assert space.fits({"loss.w_scd": 0})
    assert not space.fits({"loss.w_scd": 0, "loss.sinkhorn_epsilon": 0.05})
    assert not space.fits({"loss.w_scd": 1, "loss.sinkhorn_epsilon": 0.5})


def test_values_reach_the_configuration_with_its_types() -> None:
    config = apply_values(demo(), {"loss.w_scd": 1, "model.num_prototypes": 33})
    assert config.model.num_prototypes == 33
    assert isinstance(config.loss.w_scd, float)
    assert apply_values(demo(), {}) == demo()


def test_a_swept_size_fills_width_and_depth() -> None:
    base = load_config("vit_small")
    config = apply_values(base, {"model.size": "base", "model.depth": 3})
    assert (config.model.width, config.model.depth, config.model.heads) == (768, 3, 12)


def test_trial_0_is_the_papers_where_the_space_has_it() -> None:
    space = space_of(
        {
            "model.num_prototypes": {"int": [16, 256]},  # 3000 in the paper, 64 in the demo
            "schedule.ema_momentum": {"uniform": [0.9, 0.999]},
            "optim.lr": {"log_uniform": [1e-5, 1e-4]},  # neither
        }
    )
    assert space.first({}, demo()) == {"model.num_prototypes": 64, "schedule.ema_momentum": 0.996}
    assert space.first({"model.num_prototypes": 16}, demo())["model.num_prototypes"] == 16
