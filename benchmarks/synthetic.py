"""What a synthetic echo clip costs to make.

    python benchmarks/synthetic.py [--clips 1000] [--workers 2] [--json]

Keys: cpu_s_per_clip (all processes, their start included), wall_s, clips, workers. Aim: 1,000 clips in 180 s on 2
cores.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also runs where the package is not installed

from discovr_ray.data.synthetic import write_dataset


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    started, cpu_before = time.perf_counter(), _cpu_s()
    with tempfile.TemporaryDirectory(prefix="discovr-synthetic-") as folder:
        write_dataset(Path(folder) / "echo", arguments.clips, 0, arguments.workers)
    figures = {
        "cpu_s_per_clip": (_cpu_s() - cpu_before) / arguments.clips,
        "wall_s": time.perf_counter() - started,
        "clips": arguments.clips,
        "workers": arguments.workers,
    }
    table = "\n".join(f"{key:16} {value:.4g}" for key, value in figures.items())
    print(json.dumps(figures) if arguments.json else table)
    return 0


def _cpu_s() -> float:
    """CPU time of this process and of those that it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    sys.exit(main())
