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

from discovr_ray.config import Config
from discovr_ray.errors import CheckpointError
from discovr_ray.model.vit import Encoder, EncoderSpec, Tokens, video_spec

WEIGHTS_FILE = "encoder.safetensors"
CARD_FILE = "encoder.json"
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
    format: str = FORMAT


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
    weights = save(
        {
            name.removeprefix(prefix): value.detach().float().cpu().contiguous()
            for name, value in sorted(teacher_state.items())
            if name.startswith(prefix)
        }
    )
    card = EncoderCard(
        encoder=video_spec(config),
        mean=config.data.mean,
        std=config.data.std,
        frame_stride=config.data.frame_stride,
        reference_fps=config.data.reference_fps,
        step=step,
        config_sha256=_sha256(json.dumps(config.to_dict(), sort_keys=True).encode()),
        weights_sha256=_sha256(weights),
    )
    Path(folder, WEIGHTS_FILE).write_bytes(weights)
    Path(folder, CARD_FILE).write_text(json.dumps(dataclasses.asdict(card), indent=2) + "\n")


def load_encoder(path: str | Path) -> PretrainedEncoder:
    """Load an exported encoder from a local folder, or from its encoder.safetensors with encoder.json beside it.

    Returns:
        A module in eval mode, on the CPU, fp32.

    Errors:
        CheckpointError: a file is missing, damaged, of another kind, or the two do not belong together.
    """
    folder = Path(path)
    if folder.suffix == ".safetensors":
        folder = folder.parent
    card = _read_card(folder / CARD_FILE)
    weights_path = folder / WEIGHTS_FILE
    weights = _read(weights_path)
    if _sha256(weights) != card.weights_sha256:
        raise CheckpointError(
            f"{weights_path}: {len(weights)} bytes with another SHA-256 than {CARD_FILE} names; the file is damaged, "
            "or belongs to another export"
        )
    encoder = PretrainedEncoder(card)
    try:
        encoder.encoder.load_state_dict(load(weights))
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{weights_path}: does not fit the encoder in {CARD_FILE}: {error}") from None
    return encoder.eval()


def _read_card(path: Path) -> EncoderCard:
    text = _read(path)
    try:
        values: dict[str, Any] = json.loads(text)
        if values["format"] != FORMAT:
            raise CheckpointError(f"{path}: format {values['format']!r}, this version reads {FORMAT!r}")
        spec = EncoderSpec(**values.pop("encoder"))
        return EncoderCard(encoder=spec, mean=tuple(values.pop("mean")), std=tuple(values.pop("std")), **values)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a description of an exported encoder: {error!r}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        hint = "; copy remote files to a local folder first" if "://" in str(path) or ":/" in str(path) else ""
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}{hint}") from None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
