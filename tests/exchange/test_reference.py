"""Weights in the authors' format: the reference's own outputs come out, and nothing of another model gets in."""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_models import Golden, read_golden
from torch import Tensor

from discovr_ray import load_encoder
from discovr_ray.data import storage
from discovr_ray.errors import CheckpointError, RunExistsError
from discovr_ray.exchange.reference import ImportOptions, import_weights

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("DISCOVR_GOLDEN") or ROOT / "tests/golden")
VIDEO_FILES = sorted(FOLDER.glob("video_encoder_*.safetensors"))
IMAGE_FILES = sorted(FOLDER.glob("image_encoder_*.safetensors"))
WHOLE_MODEL = read_golden(FOLDER / "full_step_a.safetensors")
TOLERANCE = {"rtol": 0.0, "atol": 2e-5}  # tests/golden/README.md


def reference_state(golden: Golden, part: str) -> dict[str, Tensor]:
    """A whole model's state, of which `part` is the golden encoder and all the others are of another size."""
    whole = {name.removeprefix("sd."): value for name, value in WHOLE_MODEL.tensors.items() if name.startswith("sd.")}
    kept = {name: value for name, value in whole.items() if not name.startswith(f"{part}.")}
    ours = {name.removeprefix("sd."): value for name, value in golden.tensors.items() if name.startswith("sd.")}
    return kept | {f"{part}.{name}": value for name, value in ours.items()}


def arguments_of(golden: Golden) -> argparse.Namespace:
    clips = golden["video"] if "video" in golden else golden["frames"]
    return argparse.Namespace(
        model="pretrain_videomae_tiny", num_frames=clips.shape[2], input_size=clips.shape[-1], sampling_rate=5, lr=1e-4
    )


def write_pth(path: Path, state: dict[str, Any], arguments: Any, **settings: Any) -> Path:
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.95)}]}
    content = {"model": state, "optimizer": optimizer, "epoch": 799, "scaler": {"scale": 1.0}, "args": arguments}
    torch.save(content, path, **settings)
    return path


@pytest.fixture
def golden() -> Golden:
    return read_golden(VIDEO_FILES[0])


def options(golden: Golden, **changes: Any) -> ImportOptions:
    return dataclasses.replace(ImportOptions(heads=int(golden.metadata["num_heads"])), **changes)


def check_outputs(folder: Path, golden: Golden) -> None:
    clips = golden["video"] if "video" in golden else golden["frames"]
    encoder = load_encoder(folder)
    tokens = encoder.encoder(clips)
    torch.testing.assert_close(tokens.cls, golden["full.cls"], **TOLERANCE)
    torch.testing.assert_close(tokens.patches, golden["full.tokens"], **TOLERANCE)
    # the same through the built-in normalisation
    from_pixels = encoder(clips * encoder.std + encoder.mean)
    torch.testing.assert_close(from_pixels.cls, golden["full.cls"], **TOLERANCE)


@pytest.mark.parametrize("path", VIDEO_FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("part", ["video_teacher", "encoder"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
def test_the_references_own_outputs(path: Path, part: Any, prefix: str, tmp_path: Path) -> None:
    golden = read_golden(path)
    state = {f"{prefix}{name}": value for name, value in reference_state(golden, part).items()}
    source = write_pth(tmp_path / "checkpoint-799.pth", state, arguments_of(golden))
    summary = import_weights(str(source), str(tmp_path / "out"), options(golden, part=part))
    check_outputs(tmp_path / "out", golden)
    card = load_encoder(tmp_path / "out").card
    assert card.encoder.qkv_bias
    assert (card.frame_stride, card.reference_fps, card.short_clip) == (5, 0.0, "repeat_last")
    assert f"{part} of checkpoint-799.pth, epoch 799, sha256 " in card.origin
    assert len(state) == summary.num_ignored + len(load_encoder(tmp_path / "out").encoder.state_dict()) + 1


@pytest.mark.parametrize("path", IMAGE_FILES, ids=lambda path: path.stem)
def test_the_image_encoder(path: Path, tmp_path: Path) -> None:
    golden = read_golden(path)
    source = write_pth(tmp_path / "a.pth", reference_state(golden, "image_teacher"), arguments_of(golden))
    import_weights(str(source), str(tmp_path / "out"), options(golden, part="image_teacher"))
    check_outputs(tmp_path / "out", golden)


@pytest.mark.parametrize("name", ["no arguments", "older format", "bare state"])
def test_other_forms_of_the_file(golden: Golden, name: str, tmp_path: Path) -> None:
    state, path = reference_state(golden, "video_teacher"), tmp_path / "a.pth"
    if name == "bare state":
        torch.save(state, path)
    else:
        write_pth(path, state, None, _use_new_zipfile_serialization=name != "older format")
    sizes = options(golden, num_frames=4, image_size=32)
    assert import_weights(str(path), str(tmp_path / "out"), sizes).spec.num_frames == 4
    check_outputs(tmp_path / "out", golden)
    with pytest.raises(CheckpointError, match=r"8 tokens .* must be one of 16 x 16, 4 x 32; give --num-frames"):
        import_weights(str(path), str(tmp_path / "other"), options(golden))


def test_without_biases_as_the_released_weights(golden: Golden, tmp_path: Path) -> None:
    state = {
        name: value
        for name, value in reference_state(golden, "video_teacher").items()
        if not (name.startswith("video_teacher.") and name.endswith(("q_bias", "v_bias")))
    }
    source = write_pth(tmp_path / "a.pth", state, arguments_of(golden))
    assert not import_weights(str(source), str(tmp_path / "out"), options(golden)).spec.qkv_bias
    encoder = load_encoder(tmp_path / "out")
    assert encoder(torch.zeros(1, 4, 32, 32)).cls.isfinite().all()
    assert not any(name.endswith("_bias") for name in encoder.encoder.state_dict())


def test_sizes_of_the_released_model_need_no_option(tmp_path: Path) -> None:
    """ViT-Base of 64 x 112 x 112: 1568 tokens, which 8 frames of 224 pixels a side and others also make."""
    from discovr_ray.model.vit import Encoder, EncoderSpec

    spec = EncoderSpec(768, 1, 12, 4.0, 16, 2, 64, 112, False, 1e-6)
    encoder = Encoder(spec)
    positions = torch.cat([torch.zeros(1, 768), encoder.positions])[None]
    state = {f"video_teacher.{name}": value for name, value in encoder.state_dict().items()}
    source = write_pth(tmp_path / "a.pth", state | {"video_teacher.pos_embed": positions}, argparse.Namespace(lr=1.0))
    assert import_weights(str(source), str(tmp_path / "out"), ImportOptions()).spec == spec
    smaller = import_weights(str(source), str(tmp_path / "16"), ImportOptions(num_frames=16)).spec
    assert (smaller.num_frames, smaller.image_size) == (16, 224)


CHANGES: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "a missing key": (lambda state: state.pop("video_teacher.blocks.1.mlp.fc1.bias"), r"missing: .*1\.mlp\.fc1\.bias"),
    "a missing block": (
        lambda state: [state.pop(name) for name in list(state) if name.startswith("video_teacher.blocks.0.")],
        r"missing: video_teacher\.blocks\.0\.attn\.proj\.bias.*video_teacher\.blocks\.0\.norm2\.weight",
    ),
    "one bias of two": (lambda state: state.pop("video_teacher.blocks.0.attn.v_bias"), r"missing: .*0\.attn\.v_bias"),
    "no positions": (lambda state: state.pop("video_teacher.pos_embed"), r"missing: video_teacher\.pos_embed"),
    "an unexpected key": (
        lambda state: state.update({"video_teacher.head.weight": torch.zeros(2)}),
        r"unexpected: video_teacher\.head\.weight",
    ),
    "one in another part": (lambda state: state.update({"memory": torch.zeros(2)}), "unexpected: memory"),
    "biases in the image part": (
        lambda state: state.update({"image_teacher.blocks.0.attn.q_bias": torch.zeros(2)}),
        r"unexpected: image_teacher\.blocks\.0\.attn\.q_bias",
    ),
    "another part": (
        lambda state: [state.pop(name) for name in list(state) if name.startswith("video_teacher.")],
        "no part video_teacher in the file; there are: decoder, encoder",
    ),
    "another shape": (
        lambda state: state.update({"video_teacher.blocks.0.mlp.fc2.weight": torch.zeros(48, 7)}),
        r"does not fit the encoder.*fc2\.weight",
    ),
    "NaN": (lambda state: state["video_teacher.norm.bias"].fill_(float("nan")), r"not finite .* video_teacher\.norm"),
    "learned positions": (lambda state: state["video_teacher.pos_embed"].add_(0.01), "not the fixed sinusoids"),
    "twice": (lambda state: state.update({"module.prototypes": torch.zeros(2)}), "prototypes comes twice"),
    "no tensors": (lambda state: state.update({"video_teacher.norm.bias": 3}), "no state dict of tensors"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_model_is_refused(golden: Golden, name: str, tmp_path: Path) -> None:
    change, message = CHANGES[name]
    state = {key: value.clone() for key, value in reference_state(golden, "video_teacher").items()}
    change(state)
    source = write_pth(tmp_path / "a.pth", state, arguments_of(golden))
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        import_weights(str(source), str(tmp_path / "out"), options(golden))
    assert not (tmp_path / "out").exists()


def test_the_number_of_heads_must_be_known(golden: Golden, tmp_path: Path) -> None:
    state = reference_state(golden, "video_teacher")
    source = write_pth(tmp_path / "a.pth", state, arguments_of(golden))
    for heads, message in ((None, "heads = unknown"), (7, "heads = 7")):
        with pytest.raises(CheckpointError, match=f"{message}: must divide the width 48; .* give --heads"):
            import_weights(str(source), str(tmp_path / "out"), ImportOptions(heads=heads))
    arguments = argparse.Namespace(**vars(arguments_of(golden)), encoder_num_heads=int(golden.metadata["num_heads"]))
    source = write_pth(tmp_path / "b.pth", state, arguments)
    import_weights(str(source), str(tmp_path / "out"), ImportOptions())
    check_outputs(tmp_path / "out", golden)


class Payload:
    """What a malicious file holds: unpickling it would call `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


class SlyNamespace(argparse.Namespace):
    pass


@pytest.mark.parametrize("place", ["args", "inside args", "model", "epoch", "whole file"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_refused_and_not_run(golden: Golden, place: str, zipped: bool, tmp_path: Path) -> None:
    trace = tmp_path / "payload-has-run"
    payload = Payload(os.system, f"touch {trace}")
    content: Any = {"model": reference_state(golden, "video_teacher"), "args": arguments_of(golden), "epoch": 1}
    if place == "whole file":
        content = payload
    elif place == "inside args":
        content["args"].output_dir = payload
    else:
        content[place] = payload
    path = tmp_path / "a.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"nothing of it was run: it wants (posix|nt)\.system"):
        import_weights(str(path), str(tmp_path / "out"), options(golden))
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the payload is real
    assert trace.exists()


@pytest.mark.parametrize("value", [SlyNamespace(a=1), pathlib.PurePosixPath("a"), Payload(eval, "1+1")])
def test_other_classes_are_refused_too(golden: Golden, value: Any, tmp_path: Path) -> None:
    source = write_pth(tmp_path / "a.pth", reference_state(golden, "video_teacher"), value)
    with pytest.raises(CheckpointError, match="which is neither a tensor nor a plain value"):
        import_weights(str(source), str(tmp_path / "out"), options(golden))


def test_what_is_no_such_file(golden: Golden, tmp_path: Path) -> None:
    whole = write_pth(tmp_path / "whole.pth", reference_state(golden, "video_teacher"), None).read_bytes()
    contents = {
        "empty.pth": b"",
        "text.pth": b"<html>404 not found</html>",
        "cut.pth": whole[: len(whole) // 2],
        "pickle.pth": pickle.dumps({"model": [1, 2]}),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            import_weights(str(tmp_path / name), str(tmp_path / "out"), options(golden))
    with pytest.raises(CheckpointError, match=r"none\.pth: cannot be read: No such file"):
        import_weights(str(tmp_path / "none.pth"), str(tmp_path / "out"), options(golden))
    assert not (tmp_path / "out").exists()


def test_an_encoder_is_not_overwritten(golden: Golden, tmp_path: Path) -> None:
    source = write_pth(tmp_path / "a.pth", reference_state(golden, "video_teacher"), arguments_of(golden))
    import_weights(str(source), str(tmp_path / "out"), options(golden))
    with pytest.raises(RunExistsError, match="holds an encoder already"):
        import_weights(str(source), str(tmp_path / "out"), options(golden, part="encoder"))


@pytest.mark.s3
def test_from_and_to_s3(golden: Golden, s3_server: Any, tmp_path: Path) -> None:
    from discovr_ray.exchange.encoders import open_encoder

    source = write_pth(tmp_path / "a.pth", reference_state(golden, "video_teacher"), arguments_of(golden))
    storage.put_file(str(source), "s3://bucket/released/a.pth")
    import_weights("s3://bucket/released/a.pth", "s3://bucket/imported", options(golden))
    for place in ("s3://bucket/imported", "s3://bucket/imported/encoder.safetensors"):
        encoder = open_encoder(place)
        torch.testing.assert_close(encoder.encoder(golden["video"]).cls, golden["full.cls"], **TOLERANCE)
    with pytest.raises(CheckpointError, match=r"s3://bucket/nothing/encoder\.json: .*no such file"):
        open_encoder("s3://bucket/nothing")


def test_the_job(golden: Golden, tmp_path: Path) -> None:
    source = write_pth(tmp_path / "a.pth", reference_state(golden, "video_teacher"), arguments_of(golden))
    job = [sys.executable, str(ROOT / "jobs/import_weights.py"), str(source)]
    heads = ["--heads", golden.metadata["num_heads"]]
    done = subprocess.run([*job, str(tmp_path / "out"), *heads], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 blocks, width 48" in done.stdout
    check_outputs(tmp_path / "out", golden)
    refused = subprocess.run([*job, str(tmp_path / "other")], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("refused: heads = unknown")
    assert "Traceback" not in refused.stderr
