"""Export: an encoder -> one folder for each format, with a model card, checked against the original."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from discovr_ray.data import storage
from discovr_ray.errors import ConfigError, ParityError, RunExistsError, StorageError
from discovr_ray.exchange.encoders import open_encoder
from discovr_ray.exchange.formats import (
    ONNX_FILE,
    Run,
    Source,
    largest_difference,
    write_hub,
    write_onnx,
    write_safetensors,
)
from discovr_ray.exchange.model_card import CardFacts, model_card
from discovr_ray.exchange.pixels import PixelEncoder
from discovr_ray.model.weights import pack

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4  # absolute, of normalised tokens; other kernels round differently

_LOAD = """```python
import discovr_ray

encoder = discovr_ray.load_encoder("FOLDER")  # of these files
tokens = encoder(clips)  # grey uint8 clips [B, T, H, W]
tokens.cls, tokens.patches  # [B, D], [B, N, D]
```"""
_RUN_ONNX = f"""```python
import onnxruntime

session = onnxruntime.InferenceSession("{ONNX_FILE}")
cls, patches = session.run(["cls", "patches"], {{"clips": clips}})  # grey uint8 clips [B, T, H, W]
```"""


class _Format(NamedTuple):
    write: Callable[[Source, Path], Run]
    usage: str


FORMATS = {
    "safetensors": _Format(write_safetensors, _LOAD),
    "huggingface": _Format(write_hub, _LOAD),
    "onnx": _Format(write_onnx, _RUN_ONNX),
}


class Exported(NamedTuple):
    format: str
    uri: str  # folder
    difference: float  # largest absolute one of an output from the original's


def export(
    source: str, output: str, formats: Sequence[str], facts: CardFacts, tolerance: float = TOLERANCE
) -> list[Exported]:
    """Write an encoder into `output`/FORMAT for each format; all are checked before the first file is given out.

    Args:
        source: as of exchange.encoders.open_encoder.
        facts: without a `config`, the config.yaml beside the encoder is taken where there is one.
    Errors:
        CheckpointError, ConfigError: no such encoder or format, or a library is missing.
        ParityError: an exported model's output differs by more than `tolerance`; nothing is written.
        RunExistsError: one of the folders holds files already.
        StorageError: a path cannot be read or written.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ConfigError([f"format {name!r}: must be one of {', '.join(FORMATS)}" for name in unknown])
    encoder = open_encoder(source)
    if isinstance(encoder, PixelEncoder):
        raise ConfigError([f"encoder {source}: pixels are no encoder to export"])
    output = storage.absolute(output)
    for name in formats:
        if storage.list_sizes(storage.join(output, name)):
            raise RunExistsError(f"{storage.join(output, name)}: holds files already; choose another folder")
    weights = pack(encoder.encoder.state_dict())
    card = dataclasses.replace(encoder.card, weights_sha256=hashlib.sha256(weights).hexdigest())
    facts = facts if facts.config else dataclasses.replace(facts, config=_config_beside(source))
    num_parameters = sum(parameter.numel() for parameter in encoder.parameters())
    exported = []
    with tempfile.TemporaryDirectory(prefix="discovr-export-") as temporary:
        for name in formats:
            folder = Path(temporary, name)
            folder.mkdir()
            run = FORMATS[name].write(Source(encoder, card, weights), folder)
            difference = largest_difference(encoder, run)
            if difference > tolerance:
                raise ParityError(
                    f"format {name}: an output differs by {difference:.3g} from the encoder's own, {tolerance:g} is "
                    "allowed; nothing was written"
                )
            (folder / "README.md").write_text(model_card(card, facts, num_parameters, FORMATS[name].usage))
            exported.append(Exported(name, storage.join(output, name), difference))
        for item in exported:
            for path in sorted(Path(temporary, item.format).iterdir()):
                storage.put_file(str(path), storage.join(item.uri, path.name))
    return exported


def _config_beside(source: str) -> dict[str, Any]:
    """The training's configuration, where the encoder lies in a run's folder."""
    folder = source.rpartition("/")[0] if source.endswith(".safetensors") else source
    try:
        values = yaml.safe_load(storage.read_bytes(storage.join(storage.absolute(folder), "config.yaml")))
    except (StorageError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}
