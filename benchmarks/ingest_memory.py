"""The driver's memory in `jobs/ingest.py`, by number of files: is it flat, and if not, what does a million rows take?

    python benchmarks/ingest_memory.py [--rows 10000 1000000] [--json]

A table of that many files goes through the whole of ingest but for the files themselves: in place of Ray's processes,
a function answers at once, so that what the driver holds is what is measured. One process each. Keys:

rows_N.import_mb     peak of the process before the first row, in MB: the packages
rows_N.beyond_mb     what the rows add to it at the peak: listing, answers, splits, manifest
rows_N.cpu_seconds   of all rows
mb_per_million_rows  the difference of the two peaks, over that of the rows
largest_over_smallest   ratio of the two whole peaks, imports included: 1 would be flat
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also runs where the package is not installed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs=2, default=[10_000, 1_000_000], metavar=("FEW", "MANY"))
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return 0
    few, many = sorted(arguments.rows)
    found = {rows: measure_apart(rows) for rows in (few, many)}
    figures = {f"rows_{rows}.{name}": value for rows, values in found.items() for name, value in values.items()}
    peaks = {rows: values["import_mb"] + values["beyond_mb"] for rows, values in found.items()}
    figures["mb_per_million_rows"] = (peaks[many] - peaks[few]) / (many - few) * 1e6
    figures["largest_over_smallest"] = peaks[many] / peaks[few]
    figures = {key: round(value, 2) for key, value in figures.items()}
    if arguments.json:
        print(json.dumps(figures))
        return 0
    for key, value in figures.items():
        print(f"{key:<34} {value:12.2f}")
    return 0


def measure_apart(rows: int) -> dict[str, float]:
    output = subprocess.run(
        [sys.executable, __file__, "--measure", str(rows)], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def measure(rows: int) -> dict[str, float]:
    from discovr_ray.launch import ingest as job
    from discovr_ray.launch.inspection import Facts

    def answers(uris: Sequence[str], *_: Any) -> list[Facts]:
        found = []
        for uri in uris:  # objects of their own, as they come out of Ray's blocks
            digest = hashlib.sha256(uri.encode()).hexdigest()
            found.append(Facts("avi-mjpeg", len(uri) + 170, 50.0 + len(found) % 7, 112, 112, 700_000, digest))
        return found

    replaced: Any = job
    replaced.inspect_files, replaced.ray_session = answers, nullcontext
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder) / "files.csv", rows)
        before_mb, before_s = peak_mb(), time.process_time()
        summary = job.ingest([str(Path(folder) / "files.csv")], str(Path(folder) / "out"))
        assert summary.num_clips == rows
        return {
            "import_mb": before_mb,
            "beyond_mb": peak_mb() - before_mb,
            "cpu_seconds": time.process_time() - before_s,
        }


def write_table(path: Path, rows: int) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["uri", "patient_id", "view", "labels.ef"])
        for number in range(rows):
            writer.writerow([f"Videos/0X{number:016X}.avi", f"P{number // 4:07d}", "A4C", 20 + number % 500 / 10])


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    sys.exit(main())
