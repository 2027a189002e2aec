"""What a run needs past one machine: decode CPUs, memory, network, checkpoints, hours and price.

    python jobs/plan.py --clips-per-gpu-second 60
    python jobs/plan.py --clips-per-gpu-second 60 --gpus 8 --clips 50000 --epochs 400 --gpu-price 1.5 --source dicom
    python jobs/plan.py --config vit_small --clips-per-gpu-second 200 --json engine.micro_batch=32

Starts nothing and reads no clip. docs/scaling.md has the formulas; benchmarks/gpu.py measures --clips-per-gpu-second.
Exit codes: 0 printed, 2 refused.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also runs where the package is not installed

from discovr_ray.config import load_config
from discovr_ray.errors import ConfigError
from discovr_ray.launch.capacity import GIB, SOURCES, Need, Site, needs

COLUMNS = (
    ("GPUs", lambda need: f"{need.gpus}"),
    ("clips", lambda need: f"{need.clips:,}"),
    ("epochs", lambda need: f"{need.epochs}"),
    ("global batch", lambda need: f"{need.global_batch}"),
    ("micro", lambda need: f"{need.micro_batch}"),
    ("steps", lambda need: f"{need.steps:,}"),
    ("decode CPUs", lambda need: f"{need.decode_cpus}"),
    ("object store GiB", lambda need: f"{need.object_store_bytes / GIB:.1f}"),
    ("manifest GiB a node", lambda need: f"{need.manifest_bytes / GIB:.2f}"),
    ("read MB/s", lambda need: f"{need.read_bytes_per_s / 1e6:.0f}"),
    ("frames MB/s a node", lambda need: f"{need.node_bytes_per_s / 1e6:.0f}"),
    ("gradients MB/s a GPU", lambda need: f"{need.gradient_bytes_per_s / 1e6:.0f}"),
    ("ZeRO", lambda need: f"{need.zero_stage}"),
    ("GiB a GPU", lambda need: f"{need.gpu_bytes / GIB:.1f}"),
    ("checkpoint GB", lambda need: f"{need.checkpoint_bytes / 1e9:.2f}"),
    ("every steps", lambda need: f"{need.interval_steps}"),
    ("lost", lambda need: f"{need.lost_share:.1%}"),
    ("hours", lambda need: f"{need.hours:,.1f}"),
    ("price", lambda need: f"{need.price:,.0f}"),
)


def numbers(text: str) -> list[int]:
    return [int(part.replace("_", "")) for part in text.split(",")]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="paper_vit_base", help="preset or YAML file; default: paper_vit_base")
    parser.add_argument("--clips-per-gpu-second", type=float, required=True, metavar="N", dest="clips_per_gpu_s")
    parser.add_argument("--gpus", type=numbers, default=[1, 8, 64, 256], help="numbers with commas")
    parser.add_argument("--clips", type=numbers, default=[10_000, 1_000_000, 20_000_000], help="numbers with commas")
    parser.add_argument("--epochs", type=numbers, default=[400, 40, 4], help="one for all, or one for each of --clips")
    parser.add_argument("--source", choices=sorted(SOURCES), help="what the clips are; default: mjpeg-s3")
    for name, meaning in (
        ("efficiency", "share of a GPU's speed that is left beside others"),
        ("gpu_gib", "memory of a GPU"),
        ("gpu_price", "of an hour"),
        ("cpu_price", "of an hour of a decode CPU"),
        ("head_price", "of an hour of the head"),
        ("upload_bytes_per_s", "of one node to the storage of the runs"),
        ("node_mtbf_h", "mean hours until a node is lost or reclaimed"),
        ("restart_s", "seconds from a loss until training goes on"),
    ):
        default = {field.name: field.default for field in dataclasses.fields(Site)}[name]
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=float, metavar="X", help=f"{meaning}; default: {default:g}")
    parser.add_argument("--gpus-per-node", type=int, metavar="N", help="default: 4")
    parser.add_argument("--json", action="store_true", help="all numbers, as JSON")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value", help="fields to set; see docs/config.md")
    return parser.parse_intermixed_args(arguments)


def main() -> int:
    arguments = parse_arguments()
    given = vars(arguments)
    names = [field.name for field in dataclasses.fields(Site)]
    site = Site(**{name: given[name] for name in names if given[name] is not None})
    epochs = arguments.epochs * len(arguments.clips) if len(arguments.epochs) == 1 else arguments.epochs
    try:
        if len(epochs) != len(arguments.clips):
            raise ConfigError([f"--epochs = {arguments.epochs}: one number, or one for each of --clips"])
        config = load_config(arguments.config, arguments.overrides)
        rows = [
            needs(config, site, gpus, clips, passes)
            for clips, passes in zip(arguments.clips, epochs, strict=True)
            for gpus in arguments.gpus
        ]
    except ConfigError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    print(json.dumps([row._asdict() for row in rows]) if arguments.json else table(rows))
    return 0


def table(rows: list[Need]) -> str:
    """Markdown, aligned for people."""
    cells = [[name for name, _ in COLUMNS], *([cell(row) for _, cell in COLUMNS] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    lines = [
        "| " + " | ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
