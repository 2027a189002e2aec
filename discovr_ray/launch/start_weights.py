"""`model.init_from`: a run that starts from an encoder instead of random weights. A run that goes on never reads it."""

from __future__ import annotations

import logging

from discovr_ray.config import Config
from discovr_ray.errors import CheckpointError, ConfigError
from discovr_ray.exchange.encoders import open_encoder
from discovr_ray.model.discovr import Student
from discovr_ray.model.vit import video_spec
from discovr_ray.model.weights import EncoderCard
from discovr_ray.train import checkpoint

logger = logging.getLogger(__name__)

# EncoderSpec -> the field of the configuration. num_frames may differ: the first frames have the same positions
FIELDS = {
    "width": "model.width",
    "depth": "model.depth",
    "heads": "model.heads",
    "mlp_ratio": "model.mlp_ratio",
    "patch_size": "model.patch_size",
    "tubelet_size": "model.tubelet_size",
    "image_size": "data.image_size",
    "qkv_bias": "model.video_qkv_bias",
    "norm_eps": "model.video_norm_eps",
}
PREPARATION = ("num_frames", "frame_stride", "reference_fps")


def check_start_weights(config: Config, run_uri: str) -> str:
    """On the driver: model_sha256 of the encoder that the run starts from, "" where it starts from none.

    Errors:
        ConfigError: there is no such encoder, or it does not fit the configuration; names every field.
    """
    path = config.model.init_from
    if not path or checkpoint.sealed(run_uri):
        return ""
    try:
        card = open_encoder(path).card
    except CheckpointError as error:
        raise ConfigError([f"model.init_from = {path}: {error}"]) from error
    if problems := _misfits(config, card):
        raise ConfigError(problems)
    ours = {"num_frames": config.data.num_frames, **{name: getattr(config.data, name) for name in PREPARATION[1:]}}
    theirs = {"num_frames": card.encoder.num_frames, **{name: getattr(card, name) for name in PREPARATION[1:]}}
    for name in PREPARATION:
        if ours[name] != theirs[name]:
            logger.warning("data.%s = %s: the encoder of model.init_from had %s", name, ours[name], theirs[name])
    logger.info("the video encoder starts from %s, model sha256 %s", path, card.model_sha256)
    return card.model_sha256


def load_start_weights(student: Student, path: str, model_sha256: str) -> None:
    """On every worker, before the teachers become copies of the student.

    Errors:
        CheckpointError: the encoder cannot be read any more, or is another than the driver checked.
    """
    encoder = open_encoder(path)
    if encoder.card.model_sha256 != model_sha256:
        raise CheckpointError(f"model.init_from = {path}: has changed since the run was started")
    student.video.load_state_dict(encoder.encoder.state_dict())


def _misfits(config: Config, card: EncoderCard) -> list[str]:
    wanted = video_spec(config)
    values = [(field, getattr(wanted, name), getattr(card.encoder, name)) for name, field in FIELDS.items()]
    values += [(f"data.{name}", getattr(config.data, name), getattr(card, name)) for name in ("mean", "std")]
    return [
        f"{field} = {ours}: the encoder of model.init_from has {theirs}"
        for field, ours, theirs in values
        if ours != theirs
    ]
