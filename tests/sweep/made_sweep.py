"""Sweeps made for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from discovr_ray.sweep.spec import Sweep, load_sweep

SPACE: dict[str, Any] = {
    "model.num_prototypes": {"int": [16, 64], "log": True},
    "loss.w_scd": {"uniform": [0.0, 2.0]},
}


def write_sweep(folder: Path, **changes: Any) -> Path:
    """A sweep's file with 6 trials of 9 steps, compared at 3; `changes` replace its fields."""
    values = {
        "name": "made",
        "storage_path": str(folder),
        "config": "demo",
        "space": SPACE,
        "steps": 9,
        "asha": {"first_steps": 3, "reduction": 3},
        "search": {"startup_trials": 2},
        "trials": 6,
        **changes,
    }
    path = folder / "sweep-file.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def made_sweep(folder: Path, **changes: Any) -> Sweep:
    return load_sweep(write_sweep(folder, **changes))
