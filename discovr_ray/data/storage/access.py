"""How a process reaches the storage: settings and AWS_* variables, set once and handed on from process to process.

They hold credentials, so they travel by pickle alone. Ray writes an environment that is asked of it for a worker
(`runtime_env`) into its logs and its dashboard, and so it does with dataclasses, tuples and dicts among arguments.
"""

from __future__ import annotations

import os

from discovr_ray.config import StorageConfig

_settings = StorageConfig()


class Access:
    """What another process needs to reach the same storage; `adopt` it there. Its text shows nothing."""

    def __init__(self, settings: StorageConfig, variables: dict[str, str]) -> None:
        self.settings = settings
        self.variables = variables

    def __repr__(self) -> str:
        return f"Access({self.settings}, {len(self.variables)} variables)"


def configure(settings: StorageConfig) -> None:
    """Use these settings in this process from now on. A driver calls it before it touches a file."""
    global _settings
    _settings = settings


def settings() -> StorageConfig:
    """The settings of this process."""
    return _settings


def access() -> Access:
    """How this process reaches the storage."""
    return Access(_settings, environment())


def adopt(access: Access) -> None:
    """Reach the storage as another process does. Every worker and task calls it before it touches a file."""
    os.environ.update(access.variables)
    configure(access.settings)


def environment() -> dict[str, str]:
    """The AWS_* variables of this process.

    Servers other than AWS rarely know the SDK's newer checksum headers: with an endpoint of one's own they are only
    used where S3 demands them, unless the two variables say otherwise. (pyarrow reads them from the environment.)
    """
    found = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    if endpoint():
        found.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        found.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    return found


def endpoint() -> str | None:
    """URL of an S3 server other than AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
