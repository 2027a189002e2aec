"""Shows on synthetic echo that pretraining teaches something: against random weights and against raw pixels.

    python benchmarks/prove.py --output runs/prove               # at most 15 minutes on 2 idle CPU cores
    python benchmarks/prove.py --output runs/prove --ablations   # and what parts of the method are worth
    python benchmarks/prove.py --output runs/prove --causes      # and why the numbers are what they are

The jobs' own code makes the videos, ingests them, pretrains (preset prove) and evaluates; DIR has all that they leave,
the evaluation's page included. Then numbers of the test split are judged: kNN balanced accuracy, R2 of the ejection
fraction, Dice of the left ventricle. "proven" means that the encoder's 95 % bootstrap interval over patients lies above
those of both floors. The same command again continues what was interrupted. prove.json has everything,
prove.md the tables.
Exit codes: 0 measured, whatever the verdict; 1 failed on the way; 2 refused; 130 stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

import knowledge
import variants
from ablations import ABLATIONS
from causes import CAUSES
from trial import NUM_LABELLED, SETTINGS, UNLABELLED_SEED, Trial, judged, make_manifests, pretrained
from variants import WHOLE, finished
from verdicts import aligned, markdown, plain, table

from discovr_ray.config import load_config
from discovr_ray.data.phantom.patient import Placement
from discovr_ray.errors import ConfigError, DiscovrError
from discovr_ray.launch.logs import show_progress
from discovr_ray.launch.ray_session import start_ray

RESULT_FILE, TABLES_FILE = "prove.json", "prove.md"
MANIFEST = "manifest/manifest.parquet"
Found = TypeVar("Found")


class Clock:
    """Seconds of each stage; one that was done by an earlier call keeps the seconds of that call."""

    def __init__(self, result: Path) -> None:
        self.seconds: dict[str, float] = json.loads(result.read_text())["seconds"] if result.exists() else {}

    def time(self, stage: str, work: Callable[[], Found]) -> Found:
        print(f"prove: {stage}", flush=True)
        started = time.monotonic()
        found = work()
        took = round(time.monotonic() - started, 1)
        self.seconds[stage] = max(took, self.seconds.get(stage, 0.0))
        return found


def main() -> int:
    arguments = parse_arguments()
    show_progress()
    try:
        trial = trial_of(arguments)
    except ConfigError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    try:
        prove(trial, arguments)
    except DiscovrError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on with what is missing", file=sys.stderr)
        return 130
    return 0


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="local folder for everything")
    parser.add_argument("--seed", type=int, default=0, help="of videos, weights and probes (default 0)")
    parser.add_argument(
        "--labelled", type=int, default=NUM_LABELLED, metavar="N", help=f"labelled videos (default {NUM_LABELLED})"
    )
    parser.add_argument(
        "--placement",
        choices=get_args(Placement),
        default="free",
        help="free (default): hearts are moved and turned; steady: all lie in nearly one place, and Dice tells little",
    )
    parser.add_argument("--ablations", action="store_true", help="also pretrain without parts of the method")
    parser.add_argument(
        "--causes",
        action="store_true",
        help="also pretrain without the brightness, with sharp teachers, by SCD alone, and teach by labels",
    )
    parser.add_argument(
        "--variant-epochs",
        type=int,
        default=0,
        metavar="N",
        help="of each of these; 0 (default): as many as the preset",
    )
    parser.add_argument("overrides", nargs="*", metavar="section.field=value", help="changes of the preset prove")
    return parser.parse_intermixed_args(arguments)


def trial_of(arguments: argparse.Namespace) -> Trial:
    """
    Errors:
        ConfigError: an override that cannot be.
    """
    output = Path(arguments.output).resolve()
    own = [
        f"run.storage_path={output}",
        f"run.seed={arguments.seed}",
        f"data.synthetic_seed={arguments.seed + UNLABELLED_SEED}",
        f"data.manifest={output / 'unlabelled' / MANIFEST}",
    ]
    config = load_config("prove", [*arguments.overrides, *own])
    return Trial(config, output, str(output / "labelled" / MANIFEST), arguments.placement)


def prove(trial: Trial, arguments: argparse.Namespace) -> None:
    clock = Clock(trial.output / RESULT_FILE)
    start_ray(dashboard=True)
    counts = clock.time("videos and their manifests", lambda: make_manifests(trial, arguments.labelled))
    run = clock.time("pretraining", lambda: pretrained(trial))
    measures, knows = clock.time("evaluation", lambda: judged(trial, run))
    result: dict[str, Any] = {
        "command": " ".join(["python benchmarks/prove.py", *sys.argv[1:]]),
        "seed": arguments.seed,
        "placement": trial.placement,
        "machine": machine(),
        "videos": counts,
        "classes": SETTINGS.classes.name,
        "feature": SETTINGS.feature,
        "config": trial.config.to_dict(),
        "measures": plain(measures),
        "knows": knows,
        "seconds": clock.seconds,
    }
    tables = [table(measures), knowledge.table(knows)]
    write(trial.output, result, tables)
    print(aligned(tables[0]), aligned(tables[1]), sep="\n")
    print(f"seconds: {sum(clock.seconds.values()):.0f} in all; {clock.seconds}")
    for name, listed in further(trial, run, arguments).items():
        found = clock.time(name, partial(variants.run_variants, trial, listed, arguments.variant_epochs))
        epochs = arguments.variant_epochs or trial.config.schedule.epochs
        result[name] = {"epochs": epochs, "encoders": variants.plain(found)}
        tables += [variants.table(found), knowledge.table({name: of.asked.knows for name, of in found.items()})]
        write(trial.output, result, tables)
        print(aligned(tables[-2]), aligned(tables[-1]), sep="\n")
    print(f"numbers  {trial.output / RESULT_FILE}")


def further(trial: Trial, run: str, arguments: argparse.Namespace) -> dict[str, list[variants.Variant]]:
    """The tables that were asked for."""
    asked = {}
    if arguments.ablations:
        asked["ablations"] = [WHOLE, *ABLATIONS]
    if arguments.causes:
        asked["causes"] = [finished(trial, run), WHOLE, *CAUSES]
    return asked


class Machine(NamedTuple):
    cpus: int
    processor: str
    python: str


def machine() -> dict[str, Any]:
    return Machine(os.cpu_count() or 1, platform.machine(), platform.python_version())._asdict()


def write(output: Path, result: dict[str, Any], tables: list[list[list[str]]]) -> None:
    (output / TABLES_FILE).write_text("\n".join(map(markdown, tables)))
    (output / RESULT_FILE).write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
