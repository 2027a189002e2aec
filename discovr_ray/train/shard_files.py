"""How DeepSpeed's checkpoint files are written and read: its CheckpointEngine interface, with failures kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from safetensors import SafetensorError


class ShardFiles:
    """Handed to DeepSpeed in place of its own writer.

    An exception on one rank would leave the others waiting in DeepSpeed's barrier, so the first failure is kept for
    all ranks to agree on later.
    """

    def __init__(self) -> None:
        self.failure: str | None = None

    def attempt(self, action: Callable[[], None]) -> None:
        """Run the action; keep the first line of what went wrong."""
        try:
            action()
        except (OSError, RuntimeError, SafetensorError) as error:
            self.failure = self.failure or str(error).partition("\n")[0]

    def save(self, state_dict: dict[str, Any], path: str) -> None:
        self.attempt(lambda: torch.save(state_dict, path))

    def load(self, path: str, map_location: Any = None) -> Any:
        # weights_only would refuse DeepSpeed's own classes; `Engine.load` takes verified files alone
        return torch.load(path, map_location=map_location or "cpu", weights_only=False)

    def create(self, info: object) -> None:
        """DeepSpeed announces a checkpoint; nothing to prepare."""

    def commit(self, info: object) -> bool:
        """DeepSpeed is done; what counts is checkpoint.json, written later."""
        return True

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        os.makedirs(path, exist_ok=exist_ok)

    def is_decoupled(self) -> bool:
        return False

    def preserves_storage_sharing(self) -> bool:
        return True

    def cleanup(self) -> None:
        """DeepSpeed's engine is destroyed; nothing is open."""
