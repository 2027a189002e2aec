"""What Ray costs on top of decoding: the training stream against a plain pool of processes that does the same work.

    python benchmarks/ray_overhead.py [--micro-batch 8] [--clips-each 3200] [--rounds 2] [--json]

Both decode the same micro-batches of the same run with the same function, in two processes, and hand writable torch
tensors to one process, which throws them away. The pool is multiprocessing's: results travel pickled, in order. All
CPU time counts: the readers', the decoders', and that of every process that Ray runs. Both are taken in turn. Keys:

pool.cpu_ms_per_clip, ray.cpu_ms_per_clip   CPU time
pool.clips_per_s, ray.clips_per_s           by the clock
ray_over_pool.cpu                           ratio - 1 of the CPU times, aim: at most 0.15
ray_over_pool.time                          ratio - 1 of the times by the clock, aim: at most 0.15
ray_idle_cpus                               what Ray's daemons take while nothing runs, CPU-seconds per second
ray_part.NAME                               CPU-ms per clip of each kind of process: who the overhead is
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pyarrow as pa
from ingest_sources import Row, mjpeg_rows  # also finds the package where it is not installed

from discovr_ray.config import Config, derive_plan, parse_config
from discovr_ray.data.manifest import SCHEMA
from discovr_ray.data.microbatch import COLUMNS, decode_micro_batch
from discovr_ray.data.plan import StreamPlan, plan_stream

AIM = 0.15
PROCESSES = 2
WARM_UP_CLIPS = 800  # processes start and import; more than the stream reads ahead
IDLE_S = 5.0
NUM_FILES = 32


class Cost(NamedTuple):
    """Of one clip."""

    cpu_ms: float
    time_ms: float
    parts: dict[str, float]  # CPU-ms by kind of process


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micro-batch", type=int, default=8, help="clips (default 8)")
    parser.add_argument("--clips-each", type=int, default=3200, help="clips measured in each turn (default 3200)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each (default 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = mjpeg_rows(Path(folder), NUM_FILES)
        figures = measure_overhead(rows, arguments.micro_batch, arguments.clips_each, arguments.rounds)
    if arguments.json:
        print(json.dumps(figures))
        return 0
    for key, value in figures.items():
        print(f"{key:<50} {value:10.3f}")
    return 0


def measure_overhead(rows: list[Row], micro_batch: int, clips_each: int, rounds: int = 1) -> dict[str, float]:
    """The keys of this file."""
    run = _Run(rows, micro_batch, clips_each)
    pool, stream, idle = [], [], []
    for _ in range(rounds):
        pool.append(run.cost(run.pool_batches()))
        cost, idle_cpus = run.cost_of_ray()
        stream.append(cost)
        idle.append(idle_cpus)
    pool_cpu, ray_cpu = _mean([cost.cpu_ms for cost in pool]), _mean([cost.cpu_ms for cost in stream])
    pool_time, ray_time = _mean([cost.time_ms for cost in pool]), _mean([cost.time_ms for cost in stream])
    names = sorted({name for cost in stream for name in cost.parts})
    figures = {
        "pool.cpu_ms_per_clip": pool_cpu,
        "ray.cpu_ms_per_clip": ray_cpu,
        "pool.clips_per_s": 1e3 / pool_time,
        "ray.clips_per_s": 1e3 / ray_time,
        "ray_over_pool.cpu": ray_cpu / pool_cpu - 1,
        "ray_over_pool.time": ray_time / pool_time - 1,
        "ray_idle_cpus": _mean(idle),
        **{f"ray_part.{name}": _mean([cost.parts.get(name, 0.0) for cost in stream]) for name in names},
    }
    return {key: round(value, 3) for key, value in figures.items() if not key.startswith("ray_part.") or value > 0.01}


class _Run:
    """The same run for both."""

    def __init__(self, rows: list[Row], micro_batch: int, clips_each: int) -> None:
        unknown = {"patient_id": "", "split": "TRAIN", "view": "", "labels": "{}"}
        self.clips = pa.Table.from_pylist([unknown | row for row in rows], SCHEMA)
        self.warm_up_steps = -(-WARM_UP_CLIPS // micro_batch)
        self.steps = -(-clips_each // micro_batch)
        # one more warm-up, so that no side comes to the end of its work while it is measured
        total_steps = self.steps + 2 * self.warm_up_steps
        self.config: Config = parse_config(
            {
                "data": {"decode_cpus": PROCESSES},
                "engine": {"global_batch": micro_batch, "micro_batch": micro_batch},
                "schedule": {"epochs": -(-total_steps // (len(rows) // micro_batch)), "warmup_epochs": 0},
            }
        )
        self.derived = derive_plan(self.config, self.clips.num_rows)

    def cost(self, batches: Generator[Any]) -> Cost:
        """Of batches from a source that has just been opened, beyond its start; closes it."""
        micro_batch = self.config.engine.micro_batch
        exhaust(islice(batches, self.warm_up_steps))
        before, start = cpu_by_process(), time.perf_counter()
        exhaust(islice(batches, self.steps))
        elapsed, after = time.perf_counter() - start, cpu_by_process()
        batches.close()
        parts: Counter[str] = Counter()
        for number, (kind, seconds) in after.items():
            spent = seconds - before.get(number, ("", 0.0))[1]
            parts[kind] += spent * 1e3 / (self.steps * micro_batch)
        return Cost(sum(parts.values()), elapsed * 1e3 / (self.steps * micro_batch), dict(parts))

    def cost_of_ray(self) -> tuple[Cost, float]:
        """And the CPUs that Ray takes while nothing runs."""
        import ray

        from discovr_ray.data.stream import open_stream

        ray.init("local", num_cpus=PROCESSES, include_dashboard=False, log_to_driver=False)
        try:
            time.sleep(IDLE_S)
            before = cpu_seconds()
            time.sleep(IDLE_S)
            idle = (cpu_seconds() - before) / IDLE_S
            stream = open_stream(self.clips, self.config, self.derived, world_size=1, start_step=0)
            return self.cost(stream.steps(0)), idle
        finally:
            ray.shutdown()

    def pool_batches(self) -> Generator[Any]:
        import torch

        plan = plan_stream(self.config, self.derived, world_size=1, start_step=0)
        decode = partial(_decode, self.clips.select(COLUMNS), plan=plan, config=self.config)
        with multiprocessing.get_context("spawn").Pool(PROCESSES, _adopt, [decode]) as pool:
            numbers = range(self.steps + 2 * self.warm_up_steps)
            for block in _ahead(pool, numbers):
                yield torch.from_numpy(block["frames"])


def _ahead(pool: Any, numbers: range) -> Iterator[dict[str, Any]]:
    """Results in order; as many tasks under way as keep the processes busy, so that nothing piles up."""
    waiting = []
    for number in numbers:
        waiting.append(pool.apply_async(_work, [number]))
        if len(waiting) > 2 * PROCESSES:
            yield waiting.pop(0).get()


def _decode(clips: pa.Table, number: int, plan: StreamPlan, config: Config) -> dict[str, Any]:
    return decode_micro_batch(clips, number, plan, config.data)


def _adopt(decode: Any) -> None:
    global _DECODE
    _DECODE = decode


def _work(number: int) -> dict[str, Any]:
    result: dict[str, Any] = _DECODE(number)
    return result


def exhaust(items: Iterator[Any]) -> None:
    for _ in items:
        pass


def cpu_seconds() -> float:
    return sum(seconds for _, seconds in cpu_by_process().values())


def cpu_by_process() -> dict[int, tuple[str, float]]:
    """Kind and CPU seconds so far of this process and of each of its descendants that lives, by process number."""
    found = {}
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            times = process.cpu_times()
            kind = "reader" if process == me else _kind(process)
        except psutil.NoSuchProcess:
            continue
        found[process.pid] = kind, times.user + times.system
    return found


def _kind(process: psutil.Process) -> str:
    """`decoder`, `split coordinator` and so on: workers of Ray change their titles with their tasks."""
    title = " ".join(process.cmdline())
    if "MapBatches" in title or "ray::IDLE" in title:
        return "decoder"
    if "ray::" in title:
        return title.partition("ray::")[2].split(".")[0].split("(")[0].strip()
    return process.name()


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    sys.exit(main())
