"""Fine-tuning learns from real videos, in a copy of the encoder of which only the last blocks move."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from discovr_ray.config import load_config
from discovr_ray.data.decode import probe
from discovr_ray.errors import ConfigError
from discovr_ray.evaluate import fine_tuning
from discovr_ray.evaluate.fine_tuning import TuneSettings, fine_tune
from discovr_ray.evaluate.metrics import ClassPredictions, NumberPredictions
from discovr_ray.evaluate.splits import Problem, Side
from discovr_ray.model.vit import video_spec
from discovr_ray.model.weights import PretrainedEncoder, make_card, random_encoder

SETTINGS = TuneSettings(blocks=1, feature="cls", batch_size=3, precision="fp32", seed=0)
COUNT = 6


@pytest.fixture(scope="module")
def encoder() -> PretrainedEncoder:
    config = load_config("demo", ["model.width=24", "model.depth=2", "data.image_size=64"])
    return random_encoder(make_card(video_spec(config), config.data, b""), 0)


@pytest.fixture(scope="module")
def rows(echo_folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(echo_folder.glob("Videos/*.avi"))[:COUNT]:
        content = path.read_bytes()
        facts = {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        found[path.stem] = {"clip_id": path.stem, "uri": str(path), **probe(content)._asdict(), **facts}
    return found


def problem(rows: dict[str, Any], y: Any, classes: tuple[str, ...] = ()) -> Problem:
    """The same videos in all three splits: what is asked is whether anything is learnt."""
    ids = list(rows)
    side = Side(ids, np.array(ids, np.str_), np.zeros((COUNT, 1), np.float32), np.array(y))
    return Problem(side, side, side, classes)


def test_numbers_are_learnt_and_the_encoder_stays(
    encoder: PretrainedEncoder, rows: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tuning, "BLOCK_RATES", (3e-3,))  # a tiny encoder learns six videos by heart fast
    monkeypatch.setattr(fine_tuning, "HEAD_RATE", 1e-2)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    y = [20.0, 30.0, 40.0, 50.0, 60.0, 70.0]
    found = fine_tune(encoder, problem(rows, y), rows, SETTINGS)
    assert isinstance(found.answers, NumberPredictions)
    assert found.answers.truth.tolist() == y
    error = np.abs(found.answers.predicted - y).mean()
    assert error < 13, "guessing the mean is wrong by 15"
    assert found.validation["rate=0.003"] == pytest.approx(error)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_classes_are_answered_by_the_blocks_that_may_move(
    encoder: PretrainedEncoder, rows: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tuning, "EPOCHS", 1)
    monkeypatch.setattr(fine_tuning, "BLOCK_RATES", (1e-3,))
    asked = problem(rows, [0, 1, 0, 1, 0, 1], ("normal", "abnormal"))
    moved = {}
    for name, value in fine_tuning._Model(encoder, asked, SETTINGS).encoder.named_parameters():
        moved[name] = value.requires_grad
    assert {name for name, there in moved.items() if there} == {
        name for name in moved if name.startswith(("encoder.blocks.1.", "encoder.norm."))
    }
    found = fine_tune(encoder, asked, rows, SETTINGS._replace(feature="patches"))
    assert isinstance(found.answers, ClassPredictions)
    assert np.allclose(found.answers.scores.sum(axis=1), 1)


def test_more_blocks_than_there_are_is_refused(encoder: PretrainedEncoder, rows: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="finetune_blocks = 3: must be at most the 2 blocks"):
        fine_tune(encoder, problem(rows, [1.0] * COUNT), rows, SETTINGS._replace(blocks=3))
