"""Chaos: a demo-size run on two workers while workers, nodes, driver and storage fail, and what it was worth.

    python tests/chaos/run.py --seconds 600 --every 60 --seed 0 --json
    python tests/chaos/run.py --plan                        # when which fault would come; nothing is started
    python tests/chaos/run.py --kinds 'worker kill' --every 40 --seconds 240
    python tests/chaos/run.py --workers '[1,2]'             # the run goes on with one worker while a node is away

The run and its clips are on a real S3 server of this machine, behind a proxy. Afterwards the same steps are done again
in calm, which says how long a step takes, which clips belong to it and what the encoder must be.
Exit codes: 0 fine, 1 samples or results are not those of the calm run, or the run ended, 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fault_plan import Fault, Kind, plan_faults, table


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=_positive, default=600.0, help="length, from the first step on (default 600)")
    parser.add_argument("--every", type=_positive, default=60.0, help="seconds from fault to fault, about (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed, the same faults (default 0)")
    parser.add_argument(
        "--kinds", type=_kinds, default=tuple(Kind), help=f"some of: {','.join(Kind)} (default: all of them)"
    )
    parser.add_argument("--workers", default="2", help="run.workers, such as 2 (default) or [1,2]")
    parser.add_argument(
        "--one-by-one",
        action="store_true",
        help="a fault waits for a checkpoint since the last one, not for its time",
    )
    parser.add_argument("--plan", action="store_true", help="print the schedule, start nothing")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="keep the output of both runs and their records here")
    return parser.parse_args(arguments)


def main() -> int:
    arguments = parse_arguments()
    faults = plan_faults(arguments.seed, arguments.seconds, arguments.every, arguments.kinds)
    if not faults:
        print("no fault fits: --seconds must be at least 1.75 x --every", file=sys.stderr)
        return 2
    if arguments.plan:
        print(json.dumps([fault._asdict() for fault in faults]) if arguments.json else table(faults))
        return 0
    return perform(arguments, faults)


def perform(arguments: argparse.Namespace, faults: list[Fault]) -> int:
    from chaos_report import as_text, make_report
    from conductor import NUM_CLIPS, Scenario, make_clips, play_calm, play_faults, steps_per_epoch
    from stage import open_stage

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("chaos").setLevel(logging.INFO)
    seconds = 0.0 if arguments.one_by_one else arguments.seconds  # 0: until the last recovery
    scenario = Scenario(faults, seconds, arguments.one_by_one, {"run.workers": arguments.workers})
    with open_stage(NUM_CLIPS, arguments.logs) as stage:
        clip_ids = make_clips(stage)
        chaos = play_faults(stage, scenario)
        calm = play_calm(stage, scenario, chaos.end_step)
    report = make_report(chaos, calm, clip_ids, steps_per_epoch(scenario))
    print(json.dumps(report.to_dict(), indent=1) if arguments.json else as_text(report))
    for problem in report.problems():
        print(f"WRONG: {problem}", file=sys.stderr)
    return 1 if report.problems() else 0


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text}: must be above 0")
    return value


def _kinds(text: str) -> tuple[Kind, ...]:
    try:
        return tuple(Kind(name.strip()) for name in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; there are: {', '.join(Kind)}") from None


if __name__ == "__main__":
    sys.exit(main())
