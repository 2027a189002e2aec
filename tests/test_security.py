"""What a file from a stranger can do: nothing that comes from a file is ever unpickled or run (docs/security.md)."""

from __future__ import annotations

import ast
import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from discovr_ray import load_encoder
from discovr_ray.config import DataConfig
from discovr_ray.data.clip import load_clip
from discovr_ray.errors import CheckpointError, ClipError
from discovr_ray.model.weights import FORMAT
from discovr_ray.report.run_report import write_report
from discovr_ray.train import checkpoint

ROOT = Path(__file__).parents[1]
# unpickles what its own child process writes into a pipe
UNPICKLES_ITS_OWN_CHILD = {"discovr_ray/launch/apart.py"}
LOADERS = {
    ("pickle", "load"),
    ("pickle", "loads"),
    ("torch", "load"),
    ("cloudpickle", "load"),
    ("cloudpickle", "loads"),
}


class Bomb:
    """Leaves a file behind when somebody unpickles it."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._trace,)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Not there as long as no bomb went off."""
    path = tmp_path / "went-off"
    pickle.loads(pickle.dumps(Bomb(path)))
    assert path.exists(), "the bomb works"
    path.unlink()
    return path


def test_a_pickle_under_an_encoders_name_is_refused_and_not_opened(trace: Path, tmp_path: Path) -> None:
    data = pickle.dumps(Bomb(trace))
    encoder = {"width": 24, "depth": 1, "heads": 2, "mlp_ratio": 4.0, "patch_size": 16, "tubelet_size": 2}
    encoder |= {"num_frames": 4, "image_size": 32, "qkv_bias": True, "norm_eps": 1e-6}
    card = {"format": FORMAT, "encoder": encoder, "mean": [0.5] * 3, "std": [0.5] * 3, "frame_stride": 3}
    card |= {"reference_fps": 50.0, "step": 1, "config_sha256": "", "weights_sha256": hashlib.sha256(data).hexdigest()}
    (tmp_path / "encoder.safetensors").write_bytes(data)
    (tmp_path / "encoder.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="does not fit the encoder"):
        load_encoder(tmp_path)
    assert not trace.exists()


def test_pickled_samples_in_a_checkpoint_are_left_out_of_the_report(trace: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run" / checkpoint.folder_name(4)
    folder.mkdir(parents=True)
    bomb = np.array([Bomb(trace)], object)
    with (folder / "samples.npz").open("wb") as file:
        np.savez(file, frames=bomb, attention=bomb, prototypes=bomb, clip_ids=bomb)
    state = checkpoint.TrainState(4, 32, 72, 2, 2, {})
    checkpoint.seal(str(folder), checkpoint.describe(folder), state)
    write_report(str(tmp_path / "run"))
    assert not trace.exists()


def test_a_manifest_that_names_a_private_file_learns_nothing_of_it(tmp_path: Path) -> None:
    """Absolute paths are allowed. What is no video is quarantined, and the reason holds none of its content."""
    secret = b"patient: Jane Doe, born 1950-01-01\n" * 40
    path = tmp_path / "notes.txt"
    path.write_bytes(secret)
    row = {"clip_id": "a", "uri": str(path), "num_bytes": len(secret), "sha256": hashlib.sha256(secret).hexdigest()}
    for kind in ("avi-mjpeg", "dicom", "nifti", "h264"):
        facts = {"format": kind, "num_frames": 8, "fps": 50.0, "height": 112, "width": 112}
        with pytest.raises(ClipError) as refused:
            load_clip({**row, **facts}, DataConfig(num_frames=4), 0.0)
        assert "Jane" not in str(refused.value)
        assert "1950" not in str(refused.value)


def only_weights(call: ast.Call) -> bool:
    return any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in call.keywords)


def unpickling_calls(source: str) -> list[str]:
    """Calls that could run what a file says; torch.load with weights_only=True, spelled out, is none of them."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and not only_weights(node)]
    named = [call.func for call in calls if isinstance(call.func, ast.Attribute)]
    found = [f"{func.value.id}.{func.attr}" for func in named if isinstance(func.value, ast.Name)]
    bad = [name for name in found if tuple(name.split(".")) in LOADERS]
    bad += [call.func.id for call in calls if isinstance(call.func, ast.Name) and call.func.id in ("eval", "exec")]
    bad += ["allow_pickle" for call in calls for word in call.keywords if word.arg == "allow_pickle"]
    return bad


def test_the_package_unpickles_no_file() -> None:
    for path in sorted((ROOT / "discovr_ray").rglob("*.py")):
        if str(path.relative_to(ROOT)) not in UNPICKLES_ITS_OWN_CHILD:
            assert unpickling_calls(path.read_text()) == [], path


def test_such_a_call_would_be_found() -> None:
    assert unpickling_calls("torch.load(x, weights_only=True)") == []
    assert unpickling_calls("torch.load(x, weights_only=False)") == ["torch.load"]
    source = "import torch, pickle\ntorch.load(x)\npickle.loads(y)\neval(z)\nnp.load(f, allow_pickle=True)"
    assert unpickling_calls(source) == ["torch.load", "pickle.loads", "eval", "allow_pickle"]
