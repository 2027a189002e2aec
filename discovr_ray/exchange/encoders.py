"""The encoder that a job names: exported, imported, random or none but pixels, on any storage."""

from __future__ import annotations

from pathlib import Path

from discovr_ray.config import MODEL_SIZES, load_config, preset_names
from discovr_ray.data import storage
from discovr_ray.errors import CheckpointError, ConfigError, MissingFileError
from discovr_ray.exchange.pixels import PixelEncoder
from discovr_ray.model.vit import video_spec
from discovr_ray.model.weights import (
    CARD_FILE,
    HUB_CONFIG_FILE,
    HUB_WEIGHTS_FILE,
    WEIGHTS_FILE,
    EncoderCard,
    PretrainedEncoder,
    load_encoder,
    make_card,
    random_encoder,
    unpack,
)

RANDOM = "random:"
PIXELS = "pixels:"


def open_encoder(source: str, seed: int = 0) -> PretrainedEncoder:
    """The encoder that `source` names, in eval mode, on the CPU, fp32.

    Args:
        source: a folder or encoder.safetensors, local or remote; `random:` in front of one is an untrained encoder of
            the same sizes and preparation, and so is random:NAME of a preset or of a model size ("small"). `pixels:` in
            front of the same gives averaged pixels in place of features.
        seed: of random weights.
    Errors:
        CheckpointError: as of model.weights.load_encoder.
        StorageError: the storage does not answer.
        ConfigError: random: or pixels: and a name that is none.
    """
    if source.startswith(RANDOM):
        return random_encoder(_card_like(source, RANDOM), seed)
    if source.startswith(PIXELS):
        return PixelEncoder(_card_like(source, PIXELS)).eval()
    if not storage.is_remote(source):
        return load_encoder(Path(storage.absolute(source)))
    folder = source.rpartition("/")[0] if source.endswith(".safetensors") else source
    try:
        is_hub = not storage.exists(storage.join(folder, CARD_FILE)) and storage.exists(
            storage.join(folder, HUB_CONFIG_FILE)
        )
        names = (HUB_CONFIG_FILE, HUB_WEIGHTS_FILE) if is_hub else (CARD_FILE, WEIGHTS_FILE)
        card, weights = (storage.join(folder, name) for name in names)
        return unpack(storage.read_bytes(card), storage.read_bytes(weights), card, weights)
    except MissingFileError as error:
        raise CheckpointError(f"{error}; an encoder is {WEIGHTS_FILE} and {CARD_FILE} in one folder") from error


def _card_like(source: str, prefix: str) -> EncoderCard:
    name = source.removeprefix(prefix)
    if name in preset_names() or name in MODEL_SIZES:
        config = load_config(name) if name in preset_names() else load_config("paper_vit_base", [f"model.size={name}"])
        return make_card(video_spec(config), config.data, b"")
    try:
        return open_encoder(name).card
    except CheckpointError as error:
        known = ", ".join([*preset_names(), *MODEL_SIZES])
        problem = f"encoder {source}: neither a preset or size ({known}) nor an encoder: {error}"
        raise ConfigError([problem]) from error
