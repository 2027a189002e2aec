"""Pretrain a DISCOVR encoder: on this machine, or on the cluster that the job is submitted to.

    python jobs/pretrain.py --config demo
    python jobs/pretrain.py --config vit_small data.manifest=s3://bucket/manifest.parquet run.storage_path=s3://bucket/runs
    ray job submit --working-dir . -- python jobs/pretrain.py --config paper_vit_base run.name=first

Exit codes: 0 done, 1 failed, 2 refused before it started, 130 or 143 stopped by a signal after saving a checkpoint
(continue with run.resume=true).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also runs where the package is not installed

from discovr_ray.config import Config, load_config, preset_names
from discovr_ray.data import storage
from discovr_ray.errors import ConfigError, DiscovrError, ManifestError, RunExistsError, StorageError
from discovr_ray.launch.logs import show_progress


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", default="demo", help=f"preset ({', '.join(preset_names())}) or YAML file; default: demo"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, print plan and memory, start nothing")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value", help="fields to set; see docs/config.md")
    return parser.parse_intermixed_args(arguments)


def main() -> int:
    arguments = parse_arguments()
    show_progress()
    try:
        config = load_config(arguments.config, arguments.overrides)
        storage.configure(config.storage)
        return dry_run(config) if arguments.dry_run else run(config)
    except (ConfigError, ManifestError, RunExistsError, StorageError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    except DiscovrError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ended at once; complete checkpoints, if any, stay (run.resume=true continues)", file=sys.stderr)
        return 130


def dry_run(config: Config) -> int:
    from discovr_ray.launch.dry_run import describe_run

    print(describe_run(config))
    return 0


def run(config: Config) -> int:
    from discovr_ray.launch.preflight import absolute_paths, refuse_taken_name
    from discovr_ray.launch.ray_session import start_ray
    from discovr_ray.launch.trainer import pretrain

    refuse_taken_name(absolute_paths(config))  # before Ray starts
    start_ray(dashboard=True)  # Ray Train asks its server whether the controller lives, and complains without one
    summary = pretrain(config)
    print(f"steps    {summary.steps} of {summary.total_steps}")
    print(f"encoder  {summary.encoder_uri}")
    print(f"report   {summary.report_uri}")
    print(f"cost     {summary.cost}")
    if summary.stopped_by is not None:
        print("stopped; continue with the same command and run.resume=true")
        return 128 + summary.stopped_by
    return 0


if __name__ == "__main__":
    sys.exit(main())
