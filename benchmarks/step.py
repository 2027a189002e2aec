"""Time and memory of one full optimiser step of the paper's ViT-Base on a CPU, in yardsticks.

A yardstick is a forward pass without gradient of timm's vit_base_patch16_224 (img_size 112) over all B x 64 frames, in
the same process, with the same threads and precision (autocast for bf16): the ratio hardly depends on the machine.
Each precision runs in a process of its own, so that its peak memory is its own.

    python benchmarks/step.py            # both precisions, about 5 minutes on 2 cores
    python benchmarks/step.py --json     # the figures alone, on one line

Figures: step_over_yardstick is the median step over the median yardstick by the clock, taken in turn; fastest_... the
same of the fastest ones; cpu_... of the fewest CPU-seconds of the process, which other load disturbs least; *_s are
seconds; peak_rss_gb is in 10^9 bytes. Aims: at most 4.4 yardsticks in fp32, 5.0 in bf16, 9 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

NUM_CLIPS = 2


class Times(NamedTuple):
    wall_s: float
    cpu_s: float


def main() -> int:
    arguments = _arguments()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments)))
        return 0
    results = {precision: _in_own_process(precision, arguments) for precision in arguments.precision}
    if arguments.json:
        print(json.dumps(results))
        return 0
    for precision, figures in results.items():
        print(f"{precision}:")
        for name, value in figures.items():
            print(f"  {name:28} {value:8.3f}")
    return 0


def measure(precision: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Steps and yardsticks in turn, so that both meet the same state of the machine."""
    import timm
    import torch
    from one_step import DeepSpeedStep, OneStep, paper_config, random_batch

    from discovr_ray.train.allocator import keep_freed_memory

    keep_freed_memory()  # as workers on CPUs do; the yardstick gains by it too
    torch.set_num_threads(arguments.threads)
    config = paper_config(precision, NUM_CLIPS, arguments.zero_stage or 0)
    make = OneStep if arguments.zero_stage is None else DeepSpeedStep
    step = make(config, torch.device("cpu"))
    frames, keys = random_batch(config, NUM_CLIPS, step.device)
    encoder = timm.create_model("vit_base_patch16_224", img_size=112).eval()
    images = torch.randn(NUM_CLIPS * config.data.num_frames, 3, 112, 112)

    def yardstick() -> None:
        with torch.no_grad(), step.autocast():
            encoder(images)

    def pure_yardstick() -> None:
        with torch.no_grad():
            pure(pure_images)

    step.step(frames, keys)  # allocates the optimiser's moments
    yardstick()
    steps, yardsticks = [], []
    for _ in range(arguments.repeats):
        yardsticks += [_timed(yardstick) for _ in range(3)]
        steps.append(_timed(lambda: step.step(frames, keys)))
    yardsticks += [_timed(yardstick) for _ in range(3)]
    fastest, unit = _fastest(steps), _fastest(yardsticks)
    figures = {
        "step_over_yardstick": _median(steps) / _median(yardsticks),
        "fastest_step_over_yardstick": fastest.wall_s / unit.wall_s,
        "cpu_step_over_yardstick": fastest.cpu_s / unit.cpu_s,
        "step_s": _median(steps),
        "yardstick_s": _median(yardsticks),
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }
    if precision == "bf16":  # without autocast's casts: a shorter yardstick, shown for what it is
        pure, pure_images = encoder.bfloat16(), images.bfloat16()
        pure_yardstick()
        pure_yardsticks = [_timed(pure_yardstick) for _ in range(2 * arguments.repeats)]
        figures["step_over_pure_bf16_yardstick"] = _median(steps) / _median(pure_yardsticks)
    return {name: round(value, 4) for name, value in figures.items()}


def _timed(function: Callable[[], object]) -> Times:
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return Times(time.perf_counter() - wall, time.process_time() - cpu)


def _fastest(times: list[Times]) -> Times:
    return Times(min(one.wall_s for one in times), min(one.cpu_s for one in times))


def _median(times: list[Times]) -> float:
    return statistics.median(one.wall_s for one in times)


def _in_own_process(precision: str, arguments: argparse.Namespace) -> dict[str, float]:
    options = ["--repeats", str(arguments.repeats), "--threads", str(arguments.threads)]
    if arguments.zero_stage is not None:
        options += ["--zero-stage", str(arguments.zero_stage)]
    done = subprocess.run(
        [sys.executable, __file__, "--measure", precision, *options],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        # threads that wait must sleep: spinning would count as CPU time
        env={**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "OMP_WAIT_POLICY": "passive"},
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=("fp32", "bf16"))
    parser.add_argument("--repeats", type=int, default=4, help="measured steps per precision (default 4)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    parser.add_argument(
        "--zero-stage", type=int, choices=(0, 1, 2, 3), help="step through the DeepSpeed engine (default: torch alone)"
    )
    parser.add_argument("--measure", choices=("fp32", "bf16"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
