"""Reading a `.pth` file of the DISCOVR authors without running what a stranger may have put into it.

A `.pth` is a pickle, and a pickle is a program. torch's restricted unpickler builds tensors, plain values and
containers, and refuses everything else before it runs; the one class let through beside is that of the authors'
arguments, argparse.Namespace.
"""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from discovr_ray.errors import CheckpointError

PREFIXES = ("module.", "backbone.")  # that wrappers of a model put in front of its names


class ReferenceFile(NamedTuple):
    state: dict[str, Tensor]  # the whole model's, without PREFIXES; tensors may be mapped from the file
    arguments: dict[str, Any]  # of the training; empty where the file has none
    epoch: int | None  # of the training, counted from 0
    sha256: str  # of the file


def read_reference_file(path: str | Path) -> ReferenceFile:
    """The model of a local file, as {"model": state, "args": namespace, ...} or as a state alone.

    Errors:
        CheckpointError: unreadable, damaged, anything else than tensors and plain values in it, or no model.
    """
    content = _unpickle(Path(path))
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a dict with the key 'model'")
    state = content.get("model", content)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: no state dict of tensors under the key 'model'")
    arguments, epoch = content.get("args"), content.get("epoch")
    with Path(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ReferenceFile(
        state=_stripped(state, path),
        arguments=vars(arguments) if isinstance(arguments, argparse.Namespace) else dict(arguments or {}),
        epoch=epoch if isinstance(epoch, int) else None,
        sha256=digest,
    )


def _unpickle(path: Path) -> Any:
    try:
        # mapped, the optimizer's state (two thirds of the file) is never read; old files cannot be mapped
        can_map = zipfile.is_zipfile(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=can_map)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: refused, nothing of it was run: {_first_cause(str(error))}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # whatever the unpickler raises on bytes that are no pickle or no archive
        cause = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: damaged, or no file of torch.save: {type(error).__name__}: {cause}") from None


def _first_cause(text: str) -> str:
    """What torch's page of advice on its own refusals is about; the advice would be to trust the file."""
    found = re.search(r"WeightsUnpickler error: (.*)", text)
    name = re.search(r"GLOBAL ([\w.]+)", text)
    if name:
        return f"it wants {name.group(1)}, which is neither a tensor nor a plain value"
    return found.group(1) if found else text.partition("\n")[0]


def _stripped(state: dict[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        short = str(name)
        while short.startswith(PREFIXES):
            short = short.partition(".")[2]
        if short in found:
            raise CheckpointError(f"{path}: {short} comes twice, with different prefixes")
        found[short] = value
    return found
