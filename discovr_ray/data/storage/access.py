"""How a process reaches the storage: settings and the stores' variables, in its environment and handed on from there.

The variables hold credentials, so they travel between processes by pickle alone. Ray writes an environment that is
asked of it for a worker (`runtime_env`) into its logs and its dashboard, and arguments that are dicts, tuples or
dataclasses into its list of data sets.
"""

from __future__ import annotations

import dataclasses
import json
import os
from functools import lru_cache

from discovr_ray.config import StorageConfig

PREFIXES = ("AWS_", "AZURE_", "GOOGLE_")  # of what S3, Azure's and Google's drivers read
SETTINGS_VARIABLE = "DISCOVR_STORAGE"  # the section as JSON; written by `configure`, so that child processes have it


class Access:
    """What another process needs to reach the same storage; `adopt` it there. Its text shows nothing."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.variables = variables

    def __repr__(self) -> str:
        return f"Access(of {len(self.variables)} variables)"


def configure(settings: StorageConfig) -> None:
    """Use these settings in this process and its children from now on. A driver calls it before it touches a file."""
    os.environ[SETTINGS_VARIABLE] = json.dumps(dataclasses.asdict(settings))


def settings() -> StorageConfig:
    """The settings of this process."""
    return _parsed(os.environ.get(SETTINGS_VARIABLE) or "{}")


def access() -> Access:
    """How this process reaches the storage."""
    return Access({SETTINGS_VARIABLE: json.dumps(dataclasses.asdict(settings()))} | environment())


def adopt(access: Access) -> None:
    """Reach the storage as another process does. Every worker and task calls it before it touches a file."""
    os.environ.update(access.variables)


def environment() -> dict[str, str]:
    """The variables of this process that the drivers read, credentials included.

    S3 servers other than AWS rarely know the SDK's newer checksum headers: with an endpoint of one's own they are only
    used where S3 demands them, unless the two variables say otherwise. (pyarrow reads them from the environment.)
    """
    found = {name: value for name, value in os.environ.items() if name.startswith(PREFIXES)}
    if endpoint():
        found.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        found.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    return found


def endpoint() -> str | None:
    """URL of an S3 server other than AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


@lru_cache(maxsize=8)
def _parsed(text: str) -> StorageConfig:
    return StorageConfig(**json.loads(text))
