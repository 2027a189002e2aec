"""benchmarks/driver_scale.py runs, on a small manifest; its figures for large ones are in docs/scaling.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_drivers_side_of_256_ranks_is_played_for_every_size() -> None:
    command = [sys.executable, str(ROOT / "benchmarks/driver_scale.py"), "--rows", "20000,40000", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    small, large = json.loads(done.stdout)
    assert [small["rows"], large["rows"]] == [20_000, 40_000]
    assert small["ranks"] == 256
    assert large["gb"]["manifest_in_store"] > 1.8 * small["gb"]["manifest_in_store"] > 0
    assert large["segments"] > small["segments"] > 0
    assert {"read_and_check", "fingerprint", "segments", "order_of_an_epoch_and_a_segment"} <= large["seconds"].keys()
