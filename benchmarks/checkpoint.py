"""How long training pauses for a save, and how long the whole save takes, at the size of the paper's ViT-Base.

    python benchmarks/checkpoint.py [--zero-stage 1] [--saves 3] [--to URI] [--tiny] [--json]

One worker on the CPU, or on a GPU with --gpu, saves what jobs/pretrain.py saves, through its Saver; without --to to a
real S3 server (rclone) on loopback of this machine. The first save also makes the room for the copy, so it counts
separately. Keys, in seconds: pause_s and whole_s (medians of the saves after the first), pause_share (of the whole; the
aim is below 0.1), first_pause_s; write_s, hash_s, store_s, seal_s (medians, in the background); longest_gap_s: the
longest time for which a save kept a waiting Python thread from running; megabytes (10^6) of one checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # from a checkout that is not installed; the server is the tests' own

import torch  # noqa: E402
from one_step import paper_config, tiny_config  # noqa: E402

from discovr_ray.config.sections import CheckpointConfig, Config  # noqa: E402
from discovr_ray.data import storage  # noqa: E402
from discovr_ray.model.discovr import Student, Teacher  # noqa: E402
from discovr_ray.model.weights import export_encoder  # noqa: E402
from discovr_ray.train.allocator import keep_freed_memory  # noqa: E402
from discovr_ray.train.checkpoint import TrainState  # noqa: E402
from discovr_ray.train.engine import Engine  # noqa: E402
from discovr_ray.train.saver import Saver  # noqa: E402
from discovr_ray.train.upload import Upload  # noqa: E402

TICK_S = 0.005


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zero-stage", type=int, default=1, choices=range(4))
    parser.add_argument("--saves", type=int, default=3, help="after the first")
    parser.add_argument("--to", help="folder or URI; default: an S3 server on loopback")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to see that the benchmark works")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    args = parser.parse_args()
    make = tiny_config if args.tiny else paper_config
    with tempfile.TemporaryDirectory() as folder, _place(args.to, Path(folder)) as uri:
        result = measure(make("bf16", 2, args.zero_stage), uri, args.saves, torch.device("cuda" if args.gpu else "cpu"))
    print(json.dumps(result) if args.json else "\n".join(f"{name:>15}  {value}" for name, value in result.items()))


def measure(config: Config, run_uri: str, saves: int, device: torch.device) -> dict[str, float]:
    keep_freed_memory()
    engine = Engine(Student(config), Teacher(config), config, world_size=1, device=device)
    saver = Saver(run_uri, CheckpointConfig(keep=1))
    found = []
    for step in range(1, saves + 2):
        started = time.perf_counter()
        saver.save(TrainState(step, 0, 0, 1, config.engine.zero_stage, {}), lambda: _copy(engine, config))
        upload = cast(Upload, saver._upload)
        gap = _longest_gap(upload)
        whole = time.perf_counter() - started
        saver.finish()
        found.append((saver.times, whole, gap, upload.outcome.num_bytes))
    later = found[1:]
    times = [one[0] for one in later]
    result = {
        "pause_s": statistics.median(one.pause for one in times),
        "whole_s": statistics.median(one[1] for one in later),
        "pause_share": statistics.median(one[0].pause / one[1] for one in later),
        "first_pause_s": found[0][0].pause,
        "write_s": statistics.median(one.write for one in times),
        "hash_s": statistics.median(one.hash for one in times),
        "store_s": statistics.median(one.store for one in times),
        "seal_s": statistics.median(one.seal for one in times),
        "longest_gap_s": max(one[2] for one in later),
        "megabytes": found[0][3] / 1e6,
    }
    return {name: round(value, 4) for name, value in result.items()}


def _copy(engine: Engine, config: Config) -> Callable[[Path], None]:
    """As launch/session.py has it."""
    shards, encoder = engine.snapshot(), engine.encoder_state()

    def write(folder: Path) -> None:
        for shard in shards:
            shard.write(folder)
        export_encoder(folder, config, encoder, step=0)

    return write


def _longest_gap(upload: Upload) -> float:
    """Beyond TICK_S, while the save is on its way."""
    longest, last = 0.0, time.perf_counter()
    while upload.is_alive():
        time.sleep(TICK_S)
        now = time.perf_counter()
        longest, last = max(longest, now - last - TICK_S), now
    return longest


@contextmanager
def _place(uri: str | None, folder: Path) -> Iterator[str]:
    """A run's folder below `uri`, or in a bucket of a server of our own."""
    if uri:
        run = storage.join(storage.absolute(uri), "benchmark")
        yield run
        storage.remove_tree(run)
        return
    from rclone_server import client_environment, free_port, start_server, wait_for_server

    (folder / "bucket").mkdir()
    port = free_port()
    server = start_server(folder, port)
    os.environ |= client_environment(port)
    try:
        wait_for_server(port, server)
        yield "s3://bucket/benchmark"
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder / "bucket", ignore_errors=True)


if __name__ == "__main__":
    main()
