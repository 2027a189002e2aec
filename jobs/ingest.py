"""Build the manifest of your videos: manifest.parquet, and rejected.parquet with the reasons of the others.

    python jobs/ingest.py EchoNet-Dynamic --output manifests/echonet
    python jobs/ingest.py s3://bucket/videos 'more/*/*.mp4' --output s3://bucket/manifests/all
    python jobs/ingest.py clips.csv --columns uri=path,patient_id=id,labels.ef=EF --output manifests/own

A SOURCE is a data set in one of the layouts below, a folder, a file, a glob in quotes, or a table of files.
Exit codes: 0 done, 1 not one file usable or a failure on the way, 2 refused before a file was opened.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also runs where the package is not installed

from discovr_ray.config import load_config
from discovr_ray.data import storage
from discovr_ray.data.adapters import ADAPTERS
from discovr_ray.data.adapters.listing import AdapterOptions
from discovr_ray.data.formats.policy import IngestPolicy, key_of_environment
from discovr_ray.data.shards import ShardSettings
from discovr_ray.errors import DiscovrError
from discovr_ray.launch.ingest import IngestSummary, carry_out, prepare
from discovr_ray.launch.splits import SplitRule

CONVERT_OPTIONS = [item.name for item in fields(ShardSettings)]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n".join(["adapters:", *(f"  {item.name:18} {item.help}" for item in ADAPTERS)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
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
    _add_adapter_options(parser)
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
    parser.add_argument(
        "--storage",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="time-outs and attempts of object storage, such as read_timeout_s=2: section storage of docs/config.md",
    )
    _add_convert_options(parser)
    found = parser.parse_args(arguments)
    if not found.convert and any(getattr(found, name) is not None for name in CONVERT_OPTIONS):
        parser.error("options of the conversion need --convert")
    return found


def _add_adapter_options(parser: argparse.ArgumentParser) -> None:
    """One for each field of AdapterOptions, under its name, but for the key, which stands in the environment."""
    own = AdapterOptions()
    parser.add_argument(
        "--adapter",
        default=own.adapter,
        choices=[item.name for item in ADAPTERS],
        metavar="NAME",
        help="layout of every SOURCE, see below (default: recognised by its own files, else folder)",
    )
    parser.add_argument(
        "--patient-pattern",
        default=own.patient_pattern,
        metavar="REGEX",
        help="for folders: its first group, found in a file's path below SOURCE, is the patient "
        "(default: every file is a patient of its own)",
    )
    parser.add_argument(
        "--files-without-suffix",
        dest="without_suffix",
        action="store_true",
        help="for folders: also files without a suffix, as in DICOM archives",
    )
    parser.add_argument(
        "--columns",
        type=_pairs,
        default=own.columns,
        metavar="FIELD=COLUMN,...",
        help="for tables: which columns are uri, clip_id, patient_id, split, view, fps and labels.NAME "
        "(default: those of the same names; uri must be there)",
    )
    parser.add_argument(
        "--fps",
        type=_rate,
        default=own.fps,
        metavar="N",
        help="frames per second of files that do not say it, where the data set does not either (most NIfTI files)",
    )
    parser.add_argument(
        "--folds",
        type=_folds,
        default=own.folds,
        metavar="A/B/C",
        help="for splits that are numbers: folds of TRAIN, VAL and TEST (default 0-6/7/8-9)",
    )
    parser.add_argument(
        "--measurements", type=_names, default=own.measurements, metavar="NAME,...", help="of MIMIC-IV-Echo, as labels"
    )
    parser.add_argument("--views", type=_names, default=own.views, metavar="VIEW,...", help="only clips of these views")
    parser.add_argument(
        "--threshold",
        dest="thresholds",
        type=_limits,
        default=own.thresholds,
        metavar="LABEL=VALUE,...",
        help="ef=50 adds the label low_ef, 1 below 50 and 0 from 50 on, to clips with a label ef",
    )


def _add_convert_options(parser: argparse.ArgumentParser) -> None:
    """--convert, and one for each field of ShardSettings."""
    own = ShardSettings()
    group = parser.add_argument_group("conversion, for sources that are slow to decode or scattered (docs/data.md)")
    group.add_argument(
        "--convert",
        action="store_true",
        help="write the clips into shards below DIR; the same command again continues what was interrupted",
    )
    group.add_argument("--convert-size", dest="size", type=int, metavar="PIXELS", help=f"a side (default {own.size})")
    group.add_argument(
        "--convert-codec", dest="codec", choices=("jpeg", "lossless"), help=f"of the grey frames (default {own.codec})"
    )
    group.add_argument(
        "--convert-quality", dest="quality", type=int, metavar="1-100", help=f"of JPEG (default {own.quality})"
    )
    group.add_argument(
        "--shard-mb",
        type=int,
        metavar="MB",
        help=f"about what a shard holds, and what one CPU does at a time (default {own.shard_mb})",
    )


def main() -> int:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    try:
        storage.configure(load_config("demo", [f"storage.{item}" for item in arguments.storage]).storage)
        rule = SplitRule(arguments.split_rule, arguments.split_fractions)
        policy = IngestPolicy(arguments.color, arguments.burned_in, key_of_environment())
        options = AdapterOptions(
            **{item.name: getattr(arguments, item.name) for item in fields(AdapterOptions) if item.name != "id_key"}
        )
        shards = shard_settings(arguments)
        prepared = prepare(arguments.sources, arguments.output, rule, options, policy)
    except DiscovrError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    try:
        summary = carry_out(prepared, shards)
    except DiscovrError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    show(summary, rule)
    return 0


def shard_settings(arguments: argparse.Namespace) -> ShardSettings | None:
    """None: no conversion."""
    given = {name: value for name in CONVERT_OPTIONS if (value := getattr(arguments, name)) is not None}
    return ShardSettings(**given) if arguments.convert else None


def show(summary: IngestSummary, rule: SplitRule) -> None:
    splits = ", ".join(f"{split or 'none'} {count}" for split, count in sorted(summary.splits.items()))
    print(f"clips     {summary.num_clips} ({splits})")
    print(f"splits    {rule.rule}; by hash of the patient: {', '.join(f'{share:g}' for share in rule.fractions)}")
    for note in summary.notes:
        print(f"rule      {note}")
    print(f"manifest  {summary.manifest_uri}")
    if summary.num_traces:
        print(f"traces    {summary.num_traces}  {summary.traces_uri}")
    print(f"rejected  {summary.num_rejected}  {summary.rejected_uri}")
    for reason, count in islice(summary.reasons.items(), 10):
        print(f"  {count:6d}  {reason}")


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < 10_000:
        raise argparse.ArgumentTypeError(f"{text}: must be a positive number of frames per second")
    return value


def _fractions(text: str) -> tuple[float, float, float]:
    train, val, test = (float(part) for part in text.split(","))
    return train, val, test


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _pairs(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in _names(text)]
    if not all(name and sign and value for name, sign, value in pairs):
        raise argparse.ArgumentTypeError(f"{text!r}: must be name=value,name=value,...")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _limits(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in _pairs(text).items()}


def _folds(text: str) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    train, val, test = ([number for part in _names(side) for number in _range(part)] for side in text.split("/"))
    shared = {*train} & {*val} | {*train} & {*test} | {*val} & {*test}
    if shared:
        raise argparse.ArgumentTypeError(f"{text!r}: fold {min(shared)} is in two splits")
    return train, val, test


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


if __name__ == "__main__":
    sys.exit(main())
