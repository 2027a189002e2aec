"""Look at a sweep while it runs: optuna-dashboard on its study and TensorBoard on its trials' logs, on this machine.

    python jobs/dashboard.py runs/sweeps/demo
    python jobs/dashboard.py s3://bucket/sweeps/mine --storage postgresql://user:password@host/sweeps

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

from discovr_ray.errors import DiscovrError
from discovr_ray.report.dashboards import serve_dashboards


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", metavar="SWEEP_FOLDER", help="folder of a sweep: <storage_path>/<name>")
    parser.add_argument("--storage", default="", metavar="URL", help="of the study, where sweep.yaml hides a password")
    return parser.parse_args(arguments)


def main() -> int:
    arguments = parse_arguments()
    ended = threading.Event()
    try:
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


if __name__ == "__main__":
    sys.exit(main())
