"""Write a synthetic echo data set in the EchoNet-Dynamic layout.

Example: python jobs/synthesize.py synthetic-echo --clips 64 --seed 0
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import get_args

from discovr_ray.data.phantom.patient import Placement
from discovr_ray.data.synthetic import write_dataset
from discovr_ray.errors import DiscovrError


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("output", type=Path, help="folder to make; an existing one must be a synthetic data set")
    parser.add_argument("--clips", type=_positive, default=64, help="number of clips, all splits together (default 64)")
    parser.add_argument("--seed", type=_not_negative, default=0, help="same seed, same bytes (default 0)")
    parser.add_argument("--workers", type=_positive, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parser.add_argument(
        "--placement",
        choices=get_args(Placement),
        default="steady",
        help="steady (default): the heart lies in nearly one place; free: the probe stood elsewhere for each patient",
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        write_dataset(arguments.output, arguments.clips, arguments.seed, arguments.workers, arguments.placement)
    except DiscovrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _positive(text: str) -> int:
    return _at_least(text, 1)


def _not_negative(text: str) -> int:
    return _at_least(text, 0)


def _at_least(text: str, low: int) -> int:
    value = int(text)
    if value < low:
        raise argparse.ArgumentTypeError(f"{value}: must be at least {low}")
    return value


if __name__ == "__main__":
    sys.exit(main())
