"""The Ray that a job runs on: the one that it was submitted to, or one of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ray

logger = logging.getLogger(__name__)


def start_ray(dashboard: bool = False) -> None:
    """Attach to the cluster that RAY_ADDRESS names (submitted jobs have it), else start a Ray on this machine.

    A Ray that merely runs on this machine, after `ray start`, is left alone. Ray counts the CPUs, a container's limit
    included.
    """
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.WARNING)
        return
    context = ray.init(
        address="local", include_dashboard=dashboard, dashboard_host="127.0.0.1", logging_level=logging.WARNING
    )
    _keep_token_private()
    logger.info("started Ray on this machine with %g CPUs", ray.cluster_resources().get("CPU", 0.0))
    if dashboard:
        logger.info("Ray's dashboard: http://%s", context.dashboard_url)


def _keep_token_private() -> None:
    """Ray makes a token for the clusters of this machine, and lets all its users read the file."""
    token = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):  # none was made, or it is somebody else's
        if token.stat().st_mode & 0o077:
            token.chmod(0o600)


@contextmanager
def ray_session() -> Iterator[None]:
    """The Ray that this process uses already, or that of `start_ray` for the block's duration."""
    if ray.is_initialized():
        yield
        return
    start_ray()
    try:
        yield
    finally:
        ray.shutdown()
