"""Look at your data: a manifest -> one HTML page with counts, histograms, moving sample clips and warnings.

    python jobs/inspect_data.py manifests/echonet/manifest.parquet --output data.html
    python jobs/inspect_data.py s3://bucket/manifests/all/manifest.parquet --output s3://bucket/data.html --sample 2000
    python jobs/inspect_data.py manifest.parquet --json data.num_frames=32 data.frame_stride=2

All rows are counted and searched for patients and equal files in several splits; --sample clips are opened and
searched for near-duplicates. Names of clips are on the page; patients, addresses and file names are not.
Exit codes: 0 done, whatever was found; 1 a failure on the way; 2 refused before it started.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also runs where the package is not installed

from discovr_ray.config import load_config, preset_names
from discovr_ray.errors import ConfigError, DiscovrError, ManifestError
from discovr_ray.report.data_report import DEFAULT_SAMPLE, inspect_data, numbers, write_page

PRESET = "paper_vit_base"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("manifest", metavar="MANIFEST", help="manifest.parquet of jobs/ingest.py; local or s3://")
    parser.add_argument("--output", metavar="PAGE", help="the page to write; local or s3://")
    parser.add_argument("--json", action="store_true", help="print the page's numbers")
    parser.add_argument(
        "--sample",
        type=_not_negative,
        default=DEFAULT_SAMPLE,
        metavar="N",
        help=f"clips that are opened and searched for near-duplicates (default {DEFAULT_SAMPLE})",
    )
    parser.add_argument(
        "--class-label",
        default="",
        metavar="NAME",
        help="show clips of each value of this label (default: the most common label with few values)",
    )
    parser.add_argument(
        "--config",
        default=PRESET,
        help=f"preset ({', '.join(preset_names())}) or YAML file whose window clips should fill; default: {PRESET}",
    )
    parser.add_argument("overrides", nargs="*", metavar="section.field=value", help="fields of it to set")
    parsed = parser.parse_intermixed_args(arguments)
    if not (parsed.output or parsed.json):
        parser.error("nothing to do: --output PAGE, --json, or both")
    return parsed


def main() -> int:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    try:
        data = load_config(arguments.config, arguments.overrides).data
        report = inspect_data(arguments.manifest, data, arguments.sample, arguments.class_label)
        page = write_page(report, arguments.output) if arguments.output else ""
    except (ConfigError, ManifestError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    except DiscovrError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(numbers(report), indent=1))
        return 0
    for finding in report.findings:
        if finding.level != "good":
            print(f"{finding.level:5}  {finding.title}: {finding.value}. {finding.sentence}")
    print(f"page   {page}")
    return 0


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value}: must be at least 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
