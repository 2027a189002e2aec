"""Evaluate an encoder on a labelled manifest: probes with intervals, beside random weights, plain pixels and the paper.

    python jobs/evaluate.py manifests/echonet/manifest.parquet --encoder runs/mine --label abnormal --output eval/mine
    python jobs/evaluate.py s3://bucket/echonet/manifest.parquet --encoder s3://bucket/runs/mine --threshold ef=50 \
        --output s3://bucket/eval/mine --gpus --precision bf16
    python jobs/evaluate.py manifest.parquet --encoder runs/mine --label diagnosis --suite quick --output eval/look

Writes results.json and report.html, a page that needs nothing else, into DIR. The same command again computes only what
is missing. Patients never cross the manifest's splits, and nothing is chosen on the test split (docs/evaluate.md).
Exit codes: 0 done, 1 a failure on the way, 2 refused before a video was opened, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also runs where the package is not installed

from discovr_ray.config import load_config
from discovr_ray.data import storage
from discovr_ray.errors import DiscovrError
from discovr_ray.evaluate.evaluation import Evaluation
from discovr_ray.evaluate.settings import DEFAULT_NUMBER, ProbeSettings
from discovr_ray.evaluate.targets import ClassRule
from discovr_ray.launch.encode_videos import EmbedOptions
from discovr_ray.launch.evaluate import EvaluationSummary, carry_out, prepare
from discovr_ray.launch.further import further_for
from discovr_ray.launch.logs import show_progress
from discovr_ray.report.probe_sections import main_table


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("manifest", metavar="MANIFEST", help="manifest.parquet of jobs/ingest.py; local or s3://")
    parser.add_argument("--encoder", required=True, metavar="PATH", help="as of jobs/embed.py: a run's folder, ...")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of this evaluation; local or s3://")
    classes = parser.add_mutually_exclusive_group(required=True)
    classes.add_argument("--label", metavar="NAME", help="label whose values are the classes")
    classes.add_argument(
        "--threshold", type=_limit, metavar="NAME=VALUE", help="two classes of a number: 1 below VALUE, 0 from it on"
    )
    parser.add_argument(
        "--normal", default="", metavar="CLASS", help="class without findings (default: 0, false, no or normal)"
    )
    _add_probe_options(parser)
    _add_embedding_options(parser)
    return parser.parse_args(arguments)


def _add_probe_options(parser: argparse.ArgumentParser) -> None:
    own = ProbeSettings(ClassRule("label"))
    group = parser.add_argument_group("probes")
    group.add_argument(
        "--suite", choices=("paper", "quick"), default=own.suite, help="quick: without few labels and MLP"
    )
    group.add_argument(
        "--number",
        default="",
        metavar="NAME",
        help=f"label of the regression (default: {DEFAULT_NUMBER}, if it is there)",
    )
    group.add_argument("--feature", choices=("cls", "patches"), default=own.feature, help=f"(default {own.feature})")
    for name, kind, about in (
        ("k", int, "neighbours that vote in kNN"),
        ("temperature", float, "of their votes"),
        ("anomaly_neighbours", int, "nearest normal videos"),
        ("resamples", int, "draws of patients for an interval"),
        ("few_label_seeds", int, "draws of patients for each share of labels"),
        ("finetune_blocks", int, "last blocks of the encoder that are tuned, which takes long; 0: none"),
        ("seed", int, "of draws, random weights, MLP, components and map"),
    ):
        default = getattr(own, name)
        group.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=default, metavar="N", help=f"{about} (default {default})"
        )


def _add_embedding_options(parser: argparse.ArgumentParser) -> None:
    own = EmbedOptions()
    group = parser.add_argument_group("embedding")
    group.add_argument(
        "--precision", choices=("fp32", "bf16"), default=own.precision, help=f"(default {own.precision})"
    )
    group.add_argument("--gpus", dest="use_gpu", action="store_true", help="encode on GPUs, one for each worker")
    group.add_argument("--allow-enlarged", action="store_true", help="take videos smaller than the encoder's frames")
    for name, kind, about in (
        ("clips_per_video", int, "temporal clips whose features are averaged"),
        ("batch_size", int, "clips in one forward pass"),
        ("workers", int, "processes that encode; 0: as many as fit"),
        ("cpus_per_worker", float, "CPUs of each"),
        ("allow_failed", float, "videos that may fail; below 1 as a share"),
    ):
        default = getattr(own, name)
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=default,
            metavar="N",
            help=f"{about} (default {default:g})",
        )
    group.add_argument(
        "--storage",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="time-outs and attempts of object storage: section storage of docs/config.md",
    )


def main() -> int:
    arguments = parse_arguments()
    show_progress()
    try:
        storage.configure(load_config("demo", [f"storage.{item}" for item in arguments.storage]).storage)
        options = EmbedOptions(**{item.name: getattr(arguments, item.name) for item in fields(EmbedOptions)})
        prepared = prepare(arguments.manifest, arguments.encoder, arguments.output, settings(arguments), options)
        further = further_for(prepared)
    except DiscovrError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    try:
        show(carry_out(prepared, further))
    except DiscovrError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on with what is missing", file=sys.stderr)
        return 130
    return 0


def settings(arguments: argparse.Namespace) -> ProbeSettings:
    label, below = (arguments.label, None) if arguments.label else arguments.threshold
    names = [item.name for item in fields(ProbeSettings) if item.name != "classes"]
    rule = ClassRule(label, below, arguments.normal)
    return ProbeSettings(classes=rule, **{name: getattr(arguments, name) for name in names})


def show(summary: EvaluationSummary) -> None:
    evaluation: Evaluation = summary.evaluation
    table = main_table(evaluation)
    widths = [max(len(row[column]) for row in [table.head, *table.rows]) for column in range(len(table.head))]
    for row in [table.head, *table.rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"results  {summary.results_uri}")
    print(f"page     {summary.report_uri}")


def _limit(text: str) -> tuple[str, float]:
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise argparse.ArgumentTypeError(f"{text!r}: must be NAME=VALUE")
    return name, float(value)


if __name__ == "__main__":
    sys.exit(main())
