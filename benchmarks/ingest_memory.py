"""The driver's memory in `jobs/ingest.py`, by number of files: is it flat, and if not, what does a million rows take?

    python benchmarks/ingest_memory.py [--rows 10000 1000000] [--source table] [--with-ray] [--json]

A source of that many files goes through the whole of ingest but for the files themselves: in place of decoding them, a
function answers at once. Without --with-ray this process calls it, which takes a minute for a million; with it, the
tasks of a local Ray do, as they look at real files (20 ms of CPU a task of 16 files). A process for each number. Keys:

rows_N.import_mb     peak of the process before the first row, in MB: the packages, and Ray where it is used
rows_N.beyond_mb     what the rows add to it at the peak: listing, answers, splits, manifest
rows_N.cpu_seconds   of all rows, this process alone
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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also runs where the package is not installed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs=2, default=[10_000, 1_000_000], metavar=("FEW", "MANY"))
    parser.add_argument("--source", choices=("table", "folder"), default="table", help="a CSV file, or files on disk")
    parser.add_argument("--with-ray", action="store_true", help="answers come from tasks of a local Ray")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.source, arguments.with_ray)))
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
    arguments = [argument for argument in sys.argv[1:] if argument != "--json"]
    output = subprocess.run(
        [sys.executable, __file__, *arguments, "--measure", str(rows)], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def measure(rows: int, source: str, with_ray: bool) -> dict[str, float]:
    from discovr_ray.launch import ingest as job
    from discovr_ray.launch.inspection import Facts, FileToLook, inspect_files

    def answer(uri: str, fps: float) -> Facts:  # local, so that it travels to the tasks by value
        digest = hashlib.sha256(uri.encode()).hexdigest()
        return Facts("avi-mjpeg", len(uri) + 170, 50.0 + int(digest[0], 16), 112, 112, 700_000, digest)

    def answers(files: Iterable[FileToLook], num_files: int, _: Any) -> Iterator[tuple[int, Facts]]:
        if with_ray:
            return inspect_files(files, num_files, answer)
        return ((file.number, answer(file.uri, file.fps)) for file in files)

    replaced: Any = job
    replaced.inspect_files = answers
    if not with_ray:
        replaced.ray_session = nullcontext
    with tempfile.TemporaryDirectory() as folder, ray_session() if with_ray else nullcontext():
        place = Path(folder) / "files.csv" if source == "table" else Path(folder) / "files"
        (write_table if source == "table" else write_files)(place, rows)
        before_mb, before_s = peak_mb(), time.process_time()
        summary = job.ingest([str(place)], str(Path(folder) / "out"))
        assert summary.num_clips == rows
        return {
            "import_mb": before_mb,
            "beyond_mb": peak_mb() - before_mb,
            "cpu_seconds": time.process_time() - before_s,
        }


@contextmanager
def ray_session() -> Iterator[None]:
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def write_table(path: Path, rows: int) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["uri", "patient_id", "view", "labels.ef"])
        for number in range(rows):
            writer.writerow([f"Videos/0X{number:016X}.avi", f"P{number // 4:07d}", "A4C", 20 + number % 500 / 10])


def write_files(folder: Path, rows: int) -> None:
    """Empty ones, half of them in one folder."""
    for number in range(rows):
        path = folder / ("many" if number % 2 else f"few/{number // 100:05d}") / f"0X{number:016X}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    sys.exit(main())
