"""Spoil good files for minutes and look at them as ingest does: each is read or refused, nothing else may happen.

    python tests/fuzz.py --seconds 600      all targets in turn; findings are saved, exit code 1 if there are any
    python tests/fuzz.py --target avi-mjpeg --case 7 --seed 1       one case again, in this process

A case is a function of (seed, target, number). Cases run in worker processes, so that a crash (a signal), a hang (a
minute), more than 6 GiB of memory and every exception but ClipError are findings, with the file that caused them.
"""

from __future__ import annotations

import argparse
import io
import itertools
import random
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent), str(Path(__file__).parent / "data")]

from broken_videos import h264, mjpeg, pictures, video  # noqa: E402
from dicom_files import NATIVE, cine, colour_frames, to_bytes  # noqa: E402
from mutations import spoilt  # noqa: E402
from nifti_files import timed_nifti  # noqa: E402
from pydicom import dcmread  # noqa: E402
from pydicom.uid import (  # noqa: E402
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    RLELossless,
)

from discovr_ray.data.decode import decode_frames, probe  # noqa: E402
from discovr_ray.data.formats.avi_writer import write_avi  # noqa: E402
from discovr_ray.data.formats.policy import IngestPolicy  # noqa: E402
from discovr_ray.data.shards import ShardSettings, encode_frame  # noqa: E402
from discovr_ray.errors import ClipError  # noqa: E402
from discovr_ray.launch.inspection import look_at  # noqa: E402

MAX_MEMORY = 6 * 2**30  # of address space; decoders and their threads reserve some of it
HANG_S = 60.0
# nothing is refused before it is decoded
POLICY = IngestPolicy(color="keep", burned_in="keep", id_key="0" * 32)
TURN_S = 10.0  # of one target, then it is the next one's turn


class Finding(NamedTuple):
    target: str
    case: int
    what: str


def avi_png() -> bytes:
    images = [encode_frame(frame, ShardSettings(codec="lossless")) for frame in pictures(8)]
    return write_avi(images, 25, 64, 64, b"MPNG")


def nifti() -> bytes:
    return timed_nifti(pictures(8), 0.04, "sec")


def dicom(*syntaxes: str, colour: bool = False) -> list[bytes]:
    """A cine in each coding of the pixels, grey or in colour."""
    frames, photometric = (colour_frames(4), "RGB") if colour else (pictures(4), "MONOCHROME2")
    return [_without_regions(cine(frames, UID(syntax), photometric)) for syntax in syntaxes]


def _without_regions(data: bytes) -> bytes:
    """GDCM adds an empty region to what it codes, and files with such a region are refused."""
    dataset = dcmread(io.BytesIO(data))
    dataset.pop("SequenceOfUltrasoundRegions", None)
    return to_bytes(dataset)


TARGETS: dict[str, Callable[[], bytes | list[bytes]]] = {
    "avi-mjpeg": mjpeg,
    "avi-png": avi_png,
    "mp4-h264": h264,
    "ts-h264": lambda: video("libx264", "mpegts", bf="2", g="10"),
    "mkv-vp9": lambda: video("libvpx-vp9", "webm", **{"cpu-used": "8"}),
    "avi-mpeg4": lambda: video("mpeg4", "avi"),
    "nifti": nifti,
    "dicom-raw": lambda: [*dicom(*NATIVE), *dicom(ExplicitVRLittleEndian, colour=True)],
    "dicom-jpeg": lambda: [*dicom(JPEGBaseline8Bit), *dicom(JPEGBaseline8Bit, colour=True)],
    "dicom-coded": lambda: dicom(JPEGLossless, JPEG2000Lossless, RLELossless),
}


def content_of(target: str, case: int, seed: int, good: Sequence[bytes]) -> bytes:
    rng = random.Random(f"{seed} {target} {case}")
    return spoilt(rng.choice(good), rng)


def look(data: bytes) -> bool:
    """Whether the file is usable. All that ingest does with it, then one window as training reads it."""
    try:
        facts = look_at(data, 25.0, POLICY, every_frame=True)
        if facts.reason:
            return False
        info = probe(data, 25.0)
        indices = [0, info.num_frames - 1, info.num_frames // 2]
        assert decode_frames(data, info.format, indices, info.num_frames).shape == (3, info.height, info.width)
    except ClipError:
        return False
    return True


def work(target: str, start: int, seed: int, seconds: float) -> None:
    """Cases from `start` on; each is announced before it begins, and said to be fine (f) or refused (r) behind it."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    good = good_files(target)
    case, end = start, time.monotonic() + seconds
    while time.monotonic() < end:
        print(case, end=" ", flush=True)
        print("f" if look(content_of(target, case, seed, good)) else "r", flush=True)
        case += 1


def good_files(target: str) -> list[bytes]:
    made = TARGETS[target]()
    return [made] if isinstance(made, bytes) else made


def turn(target: str, start: int, seed: int, seconds: float) -> tuple[int, int, Finding | None]:
    """(next case, files that were fine, what was found) of one worker process."""
    arguments = ["--target", target, "--case", str(start), "--seed", str(seed), "--seconds", f"{seconds:g}", "--worker"]
    command = [sys.executable, __file__, *arguments]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert worker.stdout is not None
    said = b""
    hangs = False
    while not hangs:
        if not select.select([worker.stdout], [], [], HANG_S)[0]:
            hangs = True
            worker.kill()
        elif not (more := worker.stdout.read1(2**16)):
            break
        else:
            said += more
    _, last_words = worker.communicate()
    lines = said.decode().split("\n")
    fine = sum(line.endswith("f") for line in lines)
    if worker.returncode == 0:
        return start + len(lines) - 1, fine, None
    case = int(lines[-1].split()[0]) if lines[-1] else start + len(lines) - 1
    words = last_words.decode(errors="replace").strip().splitlines()[-1:]
    what = f"no answer for {HANG_S:g} s" if hangs else f"exit code {worker.returncode}: {' '.join(words)[:300]}"
    return case + 1, fine, Finding(target, case, what)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=TARGETS, help="default: all in turn")
    parser.add_argument("--case", type=int, help="run this one alone, here")
    parser.add_argument("--output", type=Path, default=Path("fuzz-findings"), help="where files are saved")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.target, arguments.case, arguments.seed, arguments.seconds)
    elif arguments.case is not None:
        content = content_of(arguments.target, arguments.case, arguments.seed, good_files(arguments.target))
        print("fine" if look(content) else "refused")
    else:
        targets = [arguments.target] if arguments.target else list(TARGETS)
        return hunt(targets, arguments.seed, arguments.seconds, arguments.output)
    return 0


def hunt(targets: Sequence[str], seed: int, seconds: float, output: Path) -> int:
    """1 when something was found. Targets take turns."""
    end = time.monotonic() + seconds
    cases, fine, findings = dict.fromkeys(targets, 0), dict.fromkeys(targets, 0), 0
    for target in itertools.cycle(targets):
        if (left := end - time.monotonic()) <= 0:
            break
        cases[target], count, finding = turn(target, cases[target], seed, min(TURN_S, left))
        fine[target] += count
        if finding:
            findings += 1
            output.mkdir(parents=True, exist_ok=True)
            path = output / f"{target}-{seed}-{finding.case}"
            path.write_bytes(content_of(target, finding.case, seed, good_files(target)))
            print(f"FOUND {target} --seed {seed} --case {finding.case}: {finding.what}  ({path})", flush=True)
    for target in targets:
        print(f"{target:<10} {cases[target]:8d} cases, {fine[target]} of them still usable")
    print(f"{findings} findings in {seconds:g} s")
    return int(findings > 0)


if __name__ == "__main__":
    sys.exit(main())
