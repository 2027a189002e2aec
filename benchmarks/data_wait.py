"""How long training waits for clips: the demo run, shortened, as its own log tells it.

    python benchmarks/data_wait.py [--steps 60] [--json] [section.field=value ...]

Keys:

data_wait_share    time that rank 0 waited for clips / all time, after the first step; aim: under 0.1
steps              optimiser steps that the share is taken over
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also runs where the package is not installed

from discovr_ray.config import load_config
from discovr_ray.launch.ray_session import start_ray
from discovr_ray.launch.trainer import pretrain
from discovr_ray.train.run_log import METRICS_FILE, read_records

AIM = 0.1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="optimiser steps (default 60)")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="discovr-wait-") as folder:
        fixed = [f"run.storage_path={folder}", f"schedule.max_steps={arguments.steps}", "run.log_every_steps=1"]
        config = load_config("demo", [*fixed, *arguments.overrides])
        start_ray(dashboard=True)
        summary = pretrain(config)
        figures = wait_share(read_records(summary.run_uri, METRICS_FILE), config.engine.global_batch)
    print(
        json.dumps(figures) if arguments.json else "\n".join(f"{key:16} {value:.4g}" for key, value in figures.items())
    )
    return 0


def wait_share(records: list[dict[str, Any]], global_batch: int) -> dict[str, float]:
    """From records of one step each; the first one holds the start of the decode processes and is left out."""
    durations = [global_batch / record["clips_per_s"] for record in records[1:]]
    waited = [record["data_wait_share"] * duration for record, duration in zip(records[1:], durations, strict=True)]
    return {"data_wait_share": sum(waited) / sum(durations), "aim": AIM, "steps": len(durations)}


if __name__ == "__main__":
    sys.exit(main())
