"""Embed videos with a frozen encoder: a manifest -> a folder with one row of features per video, and per clip.

    python jobs/embed.py runs/mine manifests/echonet/manifest.parquet --output features/mine
    python jobs/embed.py s3://bucket/runs/mine s3://bucket/all/manifest.parquet --output s3://bucket/features \
        --gpus --precision bf16
    python jobs/embed.py random:runs/mine manifests/echonet/manifest.parquet --output features/untrained

ENCODER is a run's folder, an encoder.safetensors, an imported or exported folder, or random: and one of these, a preset
or a size. The same command again embeds what is missing; a folder never holds features of two encoders.
Exit codes: 0 done, 1 too many videos failed (failed.parquet says why) or a failure on the way, 2 refused before a video
was opened, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also runs where the package is not installed

from discovr_ray.config import load_config
from discovr_ray.data import storage
from discovr_ray.errors import DiscovrError
from discovr_ray.launch.embed import EmbedSummary, carry_out, prepare
from discovr_ray.launch.encode_videos import EmbedOptions


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    own = EmbedOptions()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("encoder", metavar="ENCODER", help="frozen encoder; local, s3:// or random:...")
    parser.add_argument("manifest", metavar="MANIFEST", help="manifest.parquet of jobs/ingest.py; local or s3://")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the features; local or s3://")
    parser.add_argument("--split", default="", help="only videos of this split (default: all, each keeps its own)")
    parser.add_argument(
        "--clips-per-video",
        type=int,
        default=own.clips_per_video,
        metavar="N",
        help=f"temporal clips, evenly spread, whose features are averaged (default {own.clips_per_video})",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=own.batch_size,
        metavar="CLIPS",
        help=f"clips in one forward pass (default {own.batch_size})",
    )
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default=own.precision, help="of the computation (default fp32)"
    )
    parser.add_argument("--gpus", dest="use_gpu", action="store_true", help="encode on GPUs, one for each worker")
    parser.add_argument(
        "--workers",
        type=int,
        default=own.workers,
        metavar="N",
        help="processes with the encoder (default: as many as the machine or cluster has room for)",
    )
    parser.add_argument(
        "--cpus-per-worker",
        type=float,
        default=own.cpus_per_worker,
        metavar="N",
        help=f"CPUs, and torch threads, of each (default {own.cpus_per_worker:g})",
    )
    parser.add_argument(
        "--allow-failed",
        type=float,
        default=own.allow_failed,
        metavar="N",
        help="videos that may fail: a number, or below 1 a share of all (default 0); they are in no table of features",
    )
    parser.add_argument(
        "--allow-enlarged", action="store_true", help="take videos with fewer pixels than the encoder's frames have"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of random: weights (default 0)")
    parser.add_argument(
        "--storage",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="time-outs and attempts of object storage, such as read_timeout_s=2: section storage of docs/config.md",
    )
    return parser.parse_args(arguments)


def options_of(arguments: argparse.Namespace) -> EmbedOptions:
    """Errors: ConfigError."""
    return EmbedOptions(
        clips_per_video=arguments.clips_per_video,
        batch_size=arguments.batch_size,
        precision=arguments.precision,
        workers=arguments.workers,
        use_gpu=arguments.use_gpu,
        cpus_per_worker=arguments.cpus_per_worker,
        allow_failed=arguments.allow_failed,
        allow_enlarged=arguments.allow_enlarged,
    )


def main() -> int:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    try:
        storage.configure(load_config("demo", [f"storage.{item}" for item in arguments.storage]).storage)
        prepared = prepare(
            arguments.encoder,
            arguments.manifest,
            arguments.output,
            options_of(arguments),
            arguments.split,
            arguments.seed,
        )
    except DiscovrError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    try:
        show(carry_out(prepared))
    except DiscovrError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: the same command again goes on with what is missing", file=sys.stderr)
        return 130
    return 0


def show(summary: EmbedSummary) -> None:
    print(f"videos    {summary.num_videos} ({summary.num_new} of them embedded now)  {summary.videos_uri}")
    print(f"clips     {summary.num_clips}")
    print(f"failed    {sum(summary.reasons.values())}  {summary.failed_uri}")
    for reason, count in sorted(summary.reasons.items(), key=lambda item: -item[1])[:10]:
        print(f"  {count:6d}  {reason}")


if __name__ == "__main__":
    sys.exit(main())
