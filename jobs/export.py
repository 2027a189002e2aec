"""Export an encoder for others: safetensors, a folder for the Hugging Face hub, ONNX; each with a model card.

    python jobs/export.py runs/mine exports/mine
    python jobs/export.py runs/mine s3://bucket/exports --formats huggingface,onnx --licence CC-BY-NC-4.0 \
        --metrics evaluation/results.json

Every format is loaded again and compared with the encoder; nothing is written when an output differs by more than
--tolerance. Onnx needs the extra: pip install 'discovr-ray[onnx]'.
Exit codes: 0 done, 1 an output differs, 2 refused before it started.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also runs where the package is not installed

from discovr_ray.data import storage
from discovr_ray.errors import ConfigError, DiscovrError, ParityError
from discovr_ray.exchange.export import FORMATS, TOLERANCE, export
from discovr_ray.exchange.model_card import CardFacts


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("encoder", metavar="ENCODER", help="a run's folder or an encoder's; local or s3://")
    parser.add_argument("output", metavar="DIR", help="a folder for each format is made here; local or s3://")
    parser.add_argument(
        "--formats",
        type=lambda text: [name.strip() for name in text.split(",") if name.strip()],
        default=list(FORMATS),
        metavar="NAME,...",
        help=f"of {', '.join(FORMATS)} (default: all)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        metavar="X",
        help=f"largest absolute difference of an output (default {TOLERANCE:g})",
    )
    card = parser.add_argument_group("model card; what is not given stays an open field of README.md")
    card.add_argument("--name", default=CardFacts.name, help=f"title (default {CardFacts.name})")
    card.add_argument("--licence", default="", help="such as CC-BY-NC-4.0, or a sentence")
    card.add_argument("--intended-use", default="", metavar="TEXT", help="what the encoder is for")
    card.add_argument("--training-data", default="", metavar="TEXT", help="what it was trained on")
    card.add_argument("--metrics", default="", metavar="FILE", help="JSON whose numbers are listed; local or s3://")
    return parser.parse_args(arguments)


def main() -> int:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.WARNING)
    try:
        facts = CardFacts(
            name=arguments.name,
            licence=arguments.licence,
            intended_use=arguments.intended_use,
            training_data=arguments.training_data,
            metrics=read_metrics(arguments.metrics) if arguments.metrics else {},
        )
        exported = export(arguments.encoder, arguments.output, arguments.formats, facts, arguments.tolerance)
    except ParityError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except DiscovrError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    for item in exported:
        print(
            f"{item.format:12} max abs difference {item.difference:.2e} (allowed {arguments.tolerance:g})  {item.uri}"
        )
    return 0


def read_metrics(uri: str) -> dict[str, Any]:
    try:
        metrics = json.loads(storage.read_bytes(storage.absolute(uri)))
    except ValueError as error:
        raise ConfigError([f"--metrics {uri}: not JSON: {error}"]) from error
    if not isinstance(metrics, dict):
        raise ConfigError([f"--metrics {uri}: must hold a JSON object"])
    return metrics


if __name__ == "__main__":
    sys.exit(main())
