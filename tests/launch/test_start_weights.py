"""`model.init_from`: what does not fit is refused on the driver; what fits is where student and teacher start."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pretrain_runs import tiny_run

from discovr_ray import load_encoder
from discovr_ray.config import Config
from discovr_ray.errors import CheckpointError, ConfigError
from discovr_ray.launch.dry_run import describe_run
from discovr_ray.launch.preflight import absolute_paths
from discovr_ray.launch.start_weights import check_start_weights, load_start_weights
from discovr_ray.launch.trainer import pretrain
from discovr_ray.model.discovr import Student
from discovr_ray.model.vit import video_spec
from discovr_ray.model.weights import make_card, pack, random_encoder, write_encoder


def write_start(folder: Path, config: Config) -> str:
    """An encoder that fits the configuration, and is not what its seed would make."""
    encoder = random_encoder(make_card(video_spec(config), config.data, b""), seed=77)
    weights = pack(encoder.encoder.state_dict())
    folder.mkdir(exist_ok=True)
    write_encoder(folder, make_card(video_spec(config), config.data, weights), weights)
    return str(folder)


def config_of(tmp_path: Path, **changes: Any) -> Config:
    return absolute_paths(tiny_run("synthetic", tmp_path / "runs", **changes))


@pytest.fixture
def start(tmp_path: Path) -> str:
    return write_start(tmp_path / "start", config_of(tmp_path))


def test_every_field_that_does_not_fit_is_named(start: str, tmp_path: Path) -> None:
    wrong = {
        "model__width": 36,
        "model__heads": 3,
        "model__depth": 3,
        "model__mlp_ratio": 3.0,
        "model__tubelet_size": 4,
        "model__video_qkv_bias": False,
        "model__video_norm_eps": 1e-5,
        "data__image_size": 64,
        "data__mean": "[0.5, 0.5, 0.5]",
    }
    config = config_of(tmp_path, model__init_from=start, **wrong)
    with pytest.raises(ConfigError) as caught:
        check_start_weights(config, str(tmp_path / "runs" / "demo"))
    named = {problem.split(" ")[0] for problem in caught.value.problems}
    assert named == {name.replace("__", ".") for name in wrong}
    assert "model.width = 36: the encoder of model.init_from has 24" in caught.value.problems
    with pytest.raises(ConfigError, match=r"model\.width = 36"):
        describe_run(config)
    assert not (tmp_path / "runs").exists()


def test_an_encoder_that_is_not_there_or_damaged(start: str, tmp_path: Path) -> None:
    for path, message in ((f"{start}/none", "cannot be read"), (start, "damaged")):
        Path(start, "encoder.safetensors").write_bytes(b"x")
        with pytest.raises(ConfigError, match=rf"model\.init_from = {path}: .*{message}"):
            check_start_weights(config_of(tmp_path, model__init_from=path), str(tmp_path / "runs" / "demo"))


def test_a_run_with_a_checkpoint_does_not_read_it(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "demo"
    config = config_of(tmp_path, model__init_from=str(tmp_path / "gone"))
    (run / "step_00000002").mkdir(parents=True)
    (run / "step_00000002" / "checkpoint.json").write_text("{}")
    assert check_start_weights(config, str(run)) == ""
    assert check_start_weights(config_of(tmp_path), str(tmp_path / "other")) == ""


def test_other_windows_are_told(start: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = config_of(tmp_path, model__init_from=start, data__num_frames=8, data__frame_stride=9)
    caplog.set_level(logging.INFO)
    digest = check_start_weights(config, str(tmp_path / "runs" / "demo"))
    assert digest == load_encoder(start).card.model_sha256
    assert "data.num_frames = 8: the encoder of model.init_from had 4" in caplog.text
    assert "data.frame_stride = 9: " in caplog.text
    assert f"the video encoder starts from {start}, model sha256 {digest}" in caplog.text
    load_start_weights(Student(config), start, digest)  # longer clips: the positions of the first frames are the same


def test_another_encoder_than_the_driver_saw_is_refused(start: str, tmp_path: Path) -> None:
    student = Student(config_of(tmp_path))
    with pytest.raises(CheckpointError, match="has changed since the run was started"):
        load_start_weights(student, start, "0" * 64)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    load_start_weights(student, start, load_encoder(start).card.model_sha256)
    expected = load_encoder(start).encoder.state_dict()
    for name, value in student.state_dict().items():
        is_video = name.startswith("video.")
        assert torch.equal(value, expected[name.removeprefix("video.")] if is_video else before[name])


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_starts_from_it_and_goes_on_without_it(start: str, echo_manifest: str, tmp_path: Path) -> None:
    """With a learning rate of 0 nothing moves: the teacher that comes out is the encoder that went in."""
    changes = {"optim__lr": 0.0, "schedule__min_lr": 0.0, "schedule__max_steps": 2, "run__workers": 2}
    config = tiny_run(echo_manifest, tmp_path / "runs", model__init_from=start, **changes)
    summary = pretrain(config)
    came_out = load_encoder(summary.run_uri).encoder.state_dict()
    for name, value in load_encoder(start).encoder.state_dict().items():
        torch.testing.assert_close(came_out[name], value, rtol=0, atol=1e-7)
    stored = yaml.safe_load(Path(summary.run_uri, "config.yaml").read_text())
    assert stored["model"]["init_from"] == start
    Path(start, "encoder.safetensors").unlink()
    again = dataclasses.replace(config, run=dataclasses.replace(config.run, resume=True))
    assert pretrain(again).steps == 2
