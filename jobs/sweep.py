"""Search hyper-parameters over whole pretraining runs, with Ray Tune and Optuna; docs/sweeps.md tells how.

    python jobs/sweep.py sweeps/demo.yaml
    python jobs/sweep.py sweeps/discovr.yaml data.manifest=s3://bucket/manifest.parquet probe.label=low_ef \\
        --storage-path s3://bucket/sweeps --storage postgresql://user:password@host/sweeps
    python jobs/sweep.py sweeps/demo.yaml --resume

Exit codes: 0 done, 1 failed, 2 refused before it started, 130 or 143 stopped by a signal after trials saved checkpoints
(continue with --resume).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also runs where the package is not installed

from discovr_ray.errors import ConfigError, DiscovrError, ManifestError, StorageError
from discovr_ray.launch.logs import show_progress
from discovr_ray.sweep.spec import Sweep, load_sweep


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", metavar="SWEEP", help="the sweep's YAML file, as those in sweeps/")
    parser.add_argument("--name", help="of the sweep's folder and study, instead of the file's")
    parser.add_argument("--storage-path", help="where that folder lies, path or URI")
    parser.add_argument("--storage", help="URL of a database for the study; default: SQLite in the sweep's folder")
    parser.add_argument("--trials", type=int, help="how many trials")
    parser.add_argument("--resume", action="store_true", help="continue the sweep of this name: finished trials stay")
    parser.add_argument(
        "--from-study", default="", metavar="PLACE", help="try first what another sweep found best: folder or URL::name"
    )
    parser.add_argument("--report", action="store_true", help="write report.html and best.yaml anew, start nothing")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the plan, start nothing")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value", help="fields to set for all trials")
    return parser.parse_intermixed_args(arguments)


def main() -> int:
    arguments = parse_arguments()
    show_progress()
    flags = {name: getattr(arguments, name) for name in ("name", "storage_path", "storage", "trials")}
    changes: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    try:
        sweep = load_sweep(arguments.sweep, arguments.overrides, changes)
        return report(sweep) if arguments.report else run(sweep, arguments)
    except (ConfigError, ManifestError, StorageError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    except DiscovrError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ended at once; what trials had saved stays (--resume continues)", file=sys.stderr)
        return 130


def report(sweep: Sweep) -> int:
    from discovr_ray.data import storage
    from discovr_ray.launch.sweep import sweep_folder, write_report

    storage.configure(sweep.config.storage)
    print(write_report(sweep_folder(sweep), sweep.spec.storage))
    return 0


def run(sweep: Sweep, arguments: argparse.Namespace) -> int:
    from discovr_ray.launch.ray_session import start_ray
    from discovr_ray.launch.sweep import describe_sweep, prepare, run_sweep

    plan = prepare(sweep, arguments.resume, arguments.from_study)
    print(describe_sweep(plan))
    if arguments.dry_run:
        return 0
    start_ray(dashboard=True)  # Ray Train asks its server whether the controller lives, and complains without one
    summary = run_sweep(plan)
    print(f"trials   {summary.trained} trained, {summary.stopped_early} stopped early, {summary.failed} failed")
    print(f"sweep    {summary.folder}")
    print(f"report   {summary.report_uri}")
    if summary.stopped_by is not None:
        print("stopped; continue with the same command and --resume")
        return 128 + summary.stopped_by
    return 0 if summary.trained + summary.stopped_early else 1


if __name__ == "__main__":
    sys.exit(main())
