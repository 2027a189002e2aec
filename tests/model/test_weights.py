"""The exported encoder: the same outputs alone, and a clear refusal of anything damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_model import random_frames, tiny_config

from discovr_ray import load_encoder
from discovr_ray.errors import CheckpointError
from discovr_ray.model.discovr import Teacher
from discovr_ray.model.masks import normalise
from discovr_ray.model.vit import Encoder, video_spec
from discovr_ray.model.weights import export_encoder

CONFIG = tiny_config()


@pytest.fixture
def teacher() -> Teacher:
    torch.manual_seed(0)
    return Teacher(CONFIG).eval()


@pytest.fixture
def exported(teacher: Teacher, tmp_path: Path) -> Path:
    export_encoder(tmp_path, CONFIG, teacher.state_dict(), step=12)
    return tmp_path


def test_the_loaded_encoder_is_the_video_teacher(exported: Path, teacher: Teacher) -> None:
    frames = random_frames(CONFIG, 2)
    whole = Encoder(video_spec(CONFIG))
    whole.load_state_dict(teacher.video.state_dict())
    expected = whole(normalise(frames, CONFIG.data))
    torch.testing.assert_close(expected.cls, teacher.video(normalise(frames, CONFIG.data)).cls, rtol=0, atol=1e-6)
    for path in (exported, str(exported), exported / "encoder.safetensors"):
        encoder = load_encoder(path)
        assert not encoder.training
        torch.testing.assert_close(tuple(encoder(frames)), tuple(expected), rtol=0, atol=1e-5)


def test_all_forms_of_a_clip_mean_the_same(exported: Path) -> None:
    encoder, frames = load_encoder(exported), random_frames(CONFIG, 2)
    expected = encoder(frames).cls
    for clips in (frames.float() / 255, frames[:, None], frames[:, None].expand(-1, 3, -1, -1, -1).float() / 255):
        torch.testing.assert_close(encoder(clips).cls, expected, rtol=0, atol=1e-5)


def test_other_clips_are_refused(exported: Path) -> None:
    encoder = load_encoder(exported)
    with pytest.raises(ValueError, match="int64"):
        encoder(torch.zeros(1, 4, 16, 16, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\[1, 2, 4, 16, 16\]"):
        encoder(torch.zeros(1, 2, 4, 16, 16))
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 8, 8\)"):
        encoder(torch.zeros(1, 4, 8, 8))


def test_what_the_files_hold(exported: Path, teacher: Teacher) -> None:
    card = json.loads((exported / "encoder.json").read_text())
    assert card["encoder"]["width"] == 24
    assert (card["step"], card["frame_stride"], card["reference_fps"]) == (12, 3, 50.0)
    assert len(card["config_sha256"]) == 64
    weights = load_file(exported / "encoder.safetensors")
    assert set(weights) == set(teacher.video.state_dict())
    assert all(value.dtype == torch.float32 for value in weights.values())


def test_the_same_weights_make_the_same_bytes(
    exported: Path, teacher: Teacher, tmp_path_factory: pytest.TempPathFactory
) -> None:
    again = tmp_path_factory.mktemp("again")
    shuffled = dict(reversed(teacher.state_dict().items()))
    export_encoder(again, CONFIG, shuffled, step=12)
    for name in ("encoder.safetensors", "encoder.json"):
        assert (again / name).read_bytes() == (exported / name).read_bytes()


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize("spoil", [damage, truncate])
def test_damaged_weights_are_refused(exported: Path, spoil: object) -> None:
    assert callable(spoil)
    spoil(exported / "encoder.safetensors")
    with pytest.raises(CheckpointError, match=r"encoder\.safetensors.*damaged"):
        load_encoder(exported)


def test_missing_files_are_named(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(CheckpointError, match=r"encoder\.json: cannot be read: No such file"):
        load_encoder(tmp_path_factory.mktemp("empty"))
    (exported / "encoder.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"encoder\.safetensors: cannot be read"):
        load_encoder(exported)
    with pytest.raises(CheckpointError, match="copy remote files"):
        load_encoder("s3://bucket/run")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "discovr-ray encoder 1"}', "\x00"])
def test_another_json_is_refused(exported: Path, text: str) -> None:
    (exported / "encoder.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"encoder\.json: not a description"):
        load_encoder(exported)


def test_a_later_format_is_refused(exported: Path) -> None:
    card = json.loads((exported / "encoder.json").read_text())
    (exported / "encoder.json").write_text(json.dumps({**card, "format": "discovr-ray encoder 2"}))
    with pytest.raises(CheckpointError, match="discovr-ray encoder 2"):
        load_encoder(exported)


def test_weights_of_another_shape_are_refused(exported: Path) -> None:
    card = json.loads((exported / "encoder.json").read_text())
    card["encoder"]["depth"] = 3
    (exported / "encoder.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="does not fit"):
        load_encoder(exported)


def test_no_ray_deepspeed_or_pydantic_is_needed(exported: Path) -> None:
    program = (
        "import sys\n"
        "for name in ('ray', 'deepspeed', 'pydantic', 'pyarrow'):\n"
        "    sys.modules[name] = None\n"
        "import torch, discovr_ray\n"
        f"print(discovr_ray.load_encoder({str(exported)!r})(torch.zeros(1, 4, 16, 16)).cls.shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, 24])" in done.stdout
