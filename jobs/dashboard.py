"""Look at a sweep while it runs: optuna-dashboard on its study and TensorBoard on its trials' logs, on this machine.

    python jobs/dashboard.py runs/sweeps/demo
    python jobs/dashboard.py s3://bucket/sweeps/mine --storage postgresql://user:password@host/sweeps
    python jobs/dashboard.py s3://bucket/sweeps/mine storage.attempts=9

Prints both links and waits for Ctrl-C. Needs pip install 'discovr-ray[dashboard]'. jobs/sweep.py writes report.html,
which needs neither.
Exit codes: 0 ended by Ctrl-C, 1 a failure on the way, 2 refused: no sweep, or no way to its study.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also runs where the package is not installed

from discovr_ray.config import load_config
from discovr_ray.data import storage
from discovr_ray.errors import ConfigError, DiscovrError
from discovr_ray.report.dashboards import serve_dashboards


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", metavar="SWEEP_FOLDER", help="folder of a sweep: <storage_path>/<name>")
    parser.add_argument("--storage", default="", metavar="URL", help="of the study, where sweep.yaml hides a password")
    parser.add_argument("settings", nargs="*", metavar="storage.field=value", help="how an object store is asked")
    return parser.parse_intermixed_args(arguments)


def main() -> int:
    arguments = parse_arguments()
    ended = threading.Event()
    try:
        ask_storage_as(arguments.settings)
        with serve_dashboards(arguments.sweep, arguments.storage) as links:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: ended.set())
            print(f"study    {links.optuna}")
            print(f"curves   {links.tensorboard}")
            print("Ctrl-C ends both", flush=True)
            ended.wait()
    except DiscovrError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    return 0


def ask_storage_as(settings: list[str]) -> None:
    """Errors: ConfigError: not of the configuration's section `storage`, or impossible."""
    if others := [item for item in settings if not item.startswith("storage.")]:
        raise ConfigError([f"{item}: must be storage.field=value, the only fields here" for item in others])
    storage.configure(load_config("demo", settings).storage)


if __name__ == "__main__":
    sys.exit(main())
