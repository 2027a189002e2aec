"""What `make submit` tells Ray about a job, from the arguments of jobs/pretrain.py; the dashboard shows it.

    python cluster/job_metadata.py --config cluster/pretrain.yaml run.name=first

Prints JSON: `job_name`, and where the run and its page will lie; of arguments that the job will refuse, the name alone.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "jobs"))

import pretrain

from discovr_ray.config import load_config
from discovr_ray.data import storage
from discovr_ray.errors import ConfigError


def metadata(arguments: list[str]) -> dict[str, str]:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what --help prints is no JSON
            parsed = pretrain.parse_arguments(arguments)
        run = load_config(parsed.config, parsed.overrides).run
    except (ConfigError, SystemExit):  # the job itself says what is wrong, and fails
        return {"job_name": "jobs/pretrain.py"}
    folder = storage.join(run.storage_path, run.name)
    return {"job_name": run.name, "run": folder, "report": storage.join(folder, "report.html")}


if __name__ == "__main__":
    print(json.dumps(metadata(sys.argv[1:])))
