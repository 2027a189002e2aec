"""How the package's log lines look, on the driver and on workers; other libraries keep to warnings."""

from __future__ import annotations

import logging


def show_progress() -> None:
    """Write the package's lines to standard error, once, with time and level."""
    package = logging.getLogger("discovr_ray")
    if package.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    package.propagate = False
