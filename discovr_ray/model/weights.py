"""The encoder to take home: two files that need neither Ray nor DeepSpeed nor the run that made them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from discovr_ray.config import Config, DataConfig
from discovr_ray.errors import CheckpointError
from discovr_ray.model.vit import Encoder, EncoderSpec, Tokens, video_spec

WEIGHTS_FILE = "encoder.safetensors"
CARD_FILE = "encoder.json"
HUB_WEIGHTS_FILE = "model.safetensors"  # the same two files under the names of the Hugging Face hub
HUB_CONFIG_FILE = "config.json"
HUB_CARD_KEY = "discovr_ray"  # of config.json: the card
FORMAT = "discovr-ray encoder 1"


@dataclass(frozen=True)
class EncoderCard:
    """encoder.json: what the weights are, how clips must be prepared for them, and where they come from."""

    encoder: EncoderSpec
    mean: tuple[float, float, float]  # of each channel, for values from 0 to 1
    std: tuple[float, float, float]
    frame_stride: int  # source frames from one taken frame to the next, at reference_fps
    reference_fps: float  # 0: the stride does not scale with the frame rate
    step: int  # optimiser steps of training
    config_sha256: str  # of the training configuration
    weights_sha256: str
    short_clip: str = "fit_stride"  # DataConfig.short_clip of the training
    origin: str = ""  # what made the weights, where it was no training with this package
    format: str = FORMAT

    @property
    def model_sha256(self) -> str:
        """Of everything that turns prepared clips into features: the weights and what is computed with them."""
        spec = json.dumps(dataclasses.asdict(self.encoder), sort_keys=True)
        return _sha256(f"{self.weights_sha256} {spec}".encode())


class PretrainedEncoder(nn.Module):
    """The exported video teacher, with its normalisation built in."""

    mean: Tensor
    std: Tensor

    def __init__(self, card: EncoderCard) -> None:
        super().__init__()
        self.card = card
        self.encoder = Encoder(card.encoder)
        self.register_buffer("mean", torch.tensor(card.mean).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(card.std).view(3, 1, 1, 1), persistent=False)

    def forward(self, clips: Tensor) -> Tokens:
        """Encode whole clips.

        Args:
            clips: uint8 from 0 to 255 or floating point from 0 to 1; grey [B, T, H, W], or [B, C, T, H, W] with one or
                three channels. T, H and W are those of `card.encoder`.

        Returns:
            cls [B, D] and patches [B, N, D]; tokens run along time, rows, columns (`card.encoder.grid`).

        Errors:
            ValueError: another shape or type.
        """
        if clips.dtype != torch.uint8 and not clips.is_floating_point():
            raise ValueError(f"clips have type {clips.dtype}: must be uint8 (0 to 255) or floating point (0 to 1)")
        if clips.ndim == 4:
            clips = clips[:, None]
        if clips.ndim != 5 or clips.shape[1] not in (1, 3):
            raise ValueError(f"clips have shape {list(clips.shape)}: must be [B, T, H, W] or [B, 1 or 3, T, H, W]")
        values = clips.to(self.mean.dtype) / 255 if clips.dtype == torch.uint8 else clips
        return cast(Tokens, self.encoder((values - self.mean) / self.std))


def export_encoder(folder: str | Path, config: Config, teacher_state: Mapping[str, Tensor], step: int) -> None:
    """Write encoder.safetensors (fp32) and encoder.json into an existing local folder.

    Args:
        teacher_state: full state of a `Teacher`, not sharded; only `video.*` is used.

    Errors:
        OSError: the folder cannot be written to.
    """
    prefix = "video."
    weights = pack({name.removeprefix(prefix): v for name, v in teacher_state.items() if name.startswith(prefix)})
    config_sha256 = _sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
    write_encoder(folder, make_card(video_spec(config), config.data, weights, step, config_sha256), weights)


def make_card(
    spec: EncoderSpec, data: DataConfig, weights: bytes, step: int = 0, config_sha256: str = "", origin: str = ""
) -> EncoderCard:
    """The card of packed weights; `data` says how clips are prepared, `spec` what sizes they have."""
    return EncoderCard(
        encoder=spec,
        mean=data.mean,
        std=data.std,
        frame_stride=data.frame_stride,
        reference_fps=data.reference_fps,
        step=step,
        config_sha256=config_sha256,
        weights_sha256=_sha256(weights),
        short_clip=data.short_clip,
        origin=origin,
    )


def pack(state: Mapping[str, Tensor]) -> bytes:
    """State of an `Encoder` -> a safetensors file, fp32; the same weights make the same bytes."""
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in sorted(state.items())}
    return bytes(save(tensors, {"format": "pt"}))


def write_encoder(folder: str | Path, card: EncoderCard, weights: bytes) -> None:
    """Write the two files into an existing local folder; `weights` are packed.

    Errors:
        OSError: the folder cannot be written to.
    """
    Path(folder, WEIGHTS_FILE).write_bytes(weights)
    Path(folder, CARD_FILE).write_text(card_text(card))


def card_text(card: EncoderCard) -> str:
    return json.dumps(dataclasses.asdict(card), indent=2) + "\n"


def random_encoder(card: EncoderCard, seed: int) -> PretrainedEncoder:
    """An encoder of the same sizes, preparation and normalisation that has learned nothing: the floor of evaluations.

    Weights follow from `seed` alone, as a training run would start; torch's own generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = PretrainedEncoder(card)
    weights = pack(encoder.encoder.state_dict())
    encoder.card = dataclasses.replace(
        card, step=0, config_sha256="", weights_sha256=_sha256(weights), origin=f"random weights, seed {seed}"
    )
    return encoder.eval()


def load_encoder(path: str | Path) -> PretrainedEncoder:
    """Load an exported encoder from a local folder, or from its encoder.safetensors with encoder.json beside it.

    A folder in the form of the Hugging Face hub (config.json, model.safetensors) does as well.

    Returns:
        A module in eval mode, on the CPU, fp32.

    Errors:
        CheckpointError: a file is missing, damaged, of another kind, or the two do not belong together.
    """
    folder = Path(path)
    if folder.suffix == ".safetensors":
        folder = folder.parent
    is_hub = not (folder / CARD_FILE).exists() and (folder / HUB_CONFIG_FILE).exists()
    card, weights = (HUB_CONFIG_FILE, HUB_WEIGHTS_FILE) if is_hub else (CARD_FILE, WEIGHTS_FILE)
    return unpack(_read(folder / card), _read(folder / weights), f"{folder}/{card}", f"{folder}/{weights}")


def unpack(
    card_bytes: bytes, weights: bytes, card_name: str = CARD_FILE, name: str = WEIGHTS_FILE
) -> PretrainedEncoder:
    """The encoder in the contents of its two files; the names are for messages. Returns and raises as load_encoder."""
    card = _parse_card(card_bytes, card_name)
    if _sha256(weights) != card.weights_sha256:
        raise CheckpointError(
            f"{name}: {len(weights)} bytes with another SHA-256 than {Path(card_name).name} names; the file is "
            "damaged, or belongs to another export"
        )
    try:
        encoder = PretrainedEncoder(card)
        encoder.encoder.load_state_dict(load(weights))
    except (SafetensorError, RuntimeError, TypeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{name}: does not fit the encoder in {Path(card_name).name}: {error}") from None
    return encoder.eval()


def _parse_card(content: bytes, name: str) -> EncoderCard:
    try:
        values: dict[str, Any] = json.loads(content)
        if Path(name).name == HUB_CONFIG_FILE:
            values = values[HUB_CARD_KEY]
        if values["format"] != FORMAT:
            raise CheckpointError(f"{name}: format {values['format']!r}, this version reads {FORMAT!r}")
        spec = EncoderSpec(**values.pop("encoder"))
        return EncoderCard(encoder=spec, mean=tuple(values.pop("mean")), std=tuple(values.pop("std")), **values)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{name}: not a description of an exported encoder: {error!r}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        hint = "; copy remote files to a local folder first" if "://" in str(path) or ":/" in str(path) else ""
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}{hint}") from None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
