"""An encoder in the forms that other programs read, each compared with the original before it is given away."""

from __future__ import annotations

import dataclasses
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from discovr_ray.errors import ConfigError
from discovr_ray.model.weights import (
    HUB_CARD_KEY,
    HUB_CONFIG_FILE,
    HUB_WEIGHTS_FILE,
    EncoderCard,
    PretrainedEncoder,
    load_encoder,
    write_encoder,
)

ONNX_FILE = "encoder.onnx"
SINGLE_FILE_BYTES = 1_500_000_000  # protobuf ends at 2 GB; weights beyond go into a file beside
PARITY_BATCHES = (1, 3)  # the number of clips must not be fixed in the exported model

Run = Callable[[Tensor], tuple[Tensor, Tensor]]  # uint8 clips [B, T, H, W] -> cls [B, D], patches [B, N, D]


class Source(NamedTuple):
    """What is exported: a packed encoder whose card names these weights."""

    encoder: PretrainedEncoder
    card: EncoderCard
    weights: bytes


def write_safetensors(source: Source, folder: Path) -> Run:
    """encoder.safetensors and encoder.json, for `discovr_ray.load_encoder`."""
    write_encoder(folder, source.card, source.weights)
    return _torch_run(load_encoder(folder))


def write_hub(source: Source, folder: Path) -> Run:
    """config.json and model.safetensors as on the Hugging Face hub; `discovr_ray.load_encoder` reads them as well."""
    spec = source.card.encoder
    config = {
        "architectures": ["PretrainedEncoder"],
        "model_type": "discovr-ray",
        "hidden_size": spec.width,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.heads,
        "intermediate_size": int(spec.width * spec.mlp_ratio),
        "hidden_act": "gelu",
        "layer_norm_eps": spec.norm_eps,
        "qkv_bias": spec.qkv_bias,
        "num_channels": 3,
        "num_frames": spec.num_frames,
        "image_size": spec.image_size,
        "patch_size": spec.patch_size,
        "tubelet_size": spec.tubelet_size,
        "image_mean": source.card.mean,
        "image_std": source.card.std,
        "torch_dtype": "float32",
        HUB_CARD_KEY: dataclasses.asdict(source.card),
    }
    (folder / HUB_CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    (folder / HUB_WEIGHTS_FILE).write_bytes(source.weights)
    return _torch_run(load_encoder(folder))


def write_onnx(source: Source, folder: Path) -> Run:
    """encoder.onnx: input `clips` uint8 [batch, T, H, W], outputs `cls` and `patches`, normalisation inside.

    Errors:
        ConfigError: the extra `onnx` is not installed.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError as error:
        raise ConfigError([f"format onnx: needs pip install 'discovr-ray[onnx]' ({error})"]) from error
    spec = source.card.encoder
    clips = torch.zeros(2, spec.num_frames, spec.image_size, spec.image_size, dtype=torch.uint8)
    with _quiet():
        program = cast(Any, torch.onnx.export)(
            _Flat(source.encoder).eval(),
            (clips,),
            dynamo=True,
            verbose=False,
            input_names=["clips"],
            output_names=["cls", "patches"],
            dynamic_shapes={"clips": {0: torch.export.Dim("batch")}},
        )
    program.model.metadata_props[HUB_CARD_KEY] = json.dumps(dataclasses.asdict(source.card))
    path = folder / ONNX_FILE
    program.save(str(path), external_data=len(source.weights) > SINGLE_FILE_BYTES)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(clips: Tensor) -> tuple[Tensor, Tensor]:
        cls, patches = session.run(["cls", "patches"], {"clips": clips.numpy()})
        return torch.from_numpy(cls), torch.from_numpy(patches)

    return run


@torch.inference_mode()
def largest_difference(encoder: PretrainedEncoder, run: Run) -> float:
    """Largest absolute difference of an output of `run` from the encoder's own, over clips of noise."""
    spec, found = encoder.card.encoder, 0.0
    generator = torch.Generator().manual_seed(0)
    for batch in PARITY_BATCHES:
        shape = (batch, spec.num_frames, spec.image_size, spec.image_size)
        clips = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        for theirs, ours in zip(run(clips), encoder(clips), strict=True):
            difference = (theirs - ours).abs().max().item()
            found = max(found, difference if difference == difference else float("inf"))  # NaN is no parity
    return found


class _Flat(nn.Module):
    """Plain tensors out, as exporters want them."""

    def __init__(self, encoder: PretrainedEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.encoder(clips)
        return tokens.cls, tokens.patches


def _torch_run(encoder: PretrainedEncoder) -> Run:
    return lambda clips: tuple(encoder(clips))


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's remarks on its own libraries say nothing about this model."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(level)
