"""Build the manifest of your videos: manifest.parquet, and rejected.parquet with the reason of every other file.

    python jobs/ingest.py EchoNet-Dynamic --output manifests/echonet
    python jobs/ingest.py s3://bucket/videos 'more/*/*.mp4' --output s3://bucket/manifests/all

A SOURCE is an EchoNet-Dynamic folder (FileList.csv is there), a folder, a file, or a glob in quotes.
Exit codes: 0 done, 1 not one file usable or a failure on the way, 2 refused before it started.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also runs where the package is not installed

from discovr_ray.data.formats.policy import IngestPolicy, key_of_environment
from discovr_ray.errors import ConfigError, DiscovrError, StorageError
from discovr_ray.launch.ingest import IngestSummary, SplitRule, ingest


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="folder, file or glob; local or s3://")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the two tables; local or s3://")
    parser.add_argument(
        "--split-rule",
        choices=("given", "hash", "none"),
        default="given",
        help="given (default): the source's own split, by hash where it has none; hash: by patient; none: no split",
    )
    parser.add_argument(
        "--split-fractions",
        type=_fractions,
        default=SplitRule().fractions,
        metavar="A,B,C",
        help="TRAIN, VAL and TEST shares of the patients when split by hash (default 0.8,0.1,0.1)",
    )
    parser.add_argument(
        "--patient-pattern",
        default="",
        metavar="REGEX",
        help="for folders: its first group, found in a file's path below SOURCE, is the patient "
        "(default: every file is a patient of its own)",
    )
    parser.add_argument(
        "--color", choices=("drop", "keep"), default="drop", help="DICOM clips with colour Doppler (default drop)"
    )
    parser.add_argument(
        "--burned-in",
        choices=("mask", "drop", "keep"),
        default="mask",
        help="DICOM clips with text in the picture (docs/dicom.md): mask (default): black outside of the sector, no "
        "clip without one; drop: also none that says it has text; keep: masked where a sector is found",
    )
    return parser.parse_args(arguments)


def main() -> int:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    try:
        rule = SplitRule(arguments.split_rule, arguments.split_fractions)
        policy = IngestPolicy(arguments.color, arguments.burned_in, key_of_environment())
        summary = ingest(arguments.sources, arguments.output, rule, arguments.patient_pattern, policy)
    except (StorageError, ConfigError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    except DiscovrError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    show(summary, rule)
    return 0


def show(summary: IngestSummary, rule: SplitRule) -> None:
    splits = ", ".join(f"{split or 'none'} {count}" for split, count in sorted(summary.splits.items()))
    print(f"clips     {summary.num_clips} ({splits})")
    print(f"splits    {rule.rule}; by hash of the patient: {', '.join(f'{share:g}' for share in rule.fractions)}")
    print(f"manifest  {summary.manifest_uri}")
    print(f"rejected  {sum(summary.reasons.values())}  {summary.rejected_uri}")
    for reason, count in sorted(summary.reasons.items(), key=lambda item: -item[1])[:10]:
        print(f"  {count:6d}  {reason}")


def _fractions(text: str) -> tuple[float, float, float]:
    train, val, test = (float(part) for part in text.split(","))
    return train, val, test


if __name__ == "__main__":
    sys.exit(main())
