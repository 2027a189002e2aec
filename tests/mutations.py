"""What fuzz tests and tests/fuzz.py do to good files: each change is a function of a random generator."""

from __future__ import annotations

import random
import tracemalloc

import numpy as np

from discovr_ray.data.formats.reader import FormatReader
from discovr_ray.errors import ClipError

MAX_BYTES = 200 * 2**20  # what the worst header may cost: a piece of frames and a little more
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
MAX_CHANGES = 4


def spoilt(good: bytes, rng: random.Random) -> bytes:
    """One to four changes to a good file."""
    data = bytearray(good)
    for _ in range(rng.randint(1, MAX_CHANGES)):
        if not data:
            break
        rng.choice(CHANGES)(data, rng)
    return bytes(data)


def _flip(data: bytearray, rng: random.Random) -> None:
    data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: random.Random) -> None:
    start = _place(data, rng)
    length = min(rng.choice((1, 2, 4, 16, 300)), len(data) - start)
    data[start : start + length] = rng.randbytes(length)


def _extreme(data: bytearray, rng: random.Random) -> None:
    """A number where a header may keep a size, a count or a place."""
    start = _place(data, rng)
    size = min(rng.choice((1, 2, 4)), len(data) - start)
    number = rng.choice(EXTREMES) & (256**size - 1)
    data[start : start + size] = number.to_bytes(size, rng.choice(("little", "big")))


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[_place(data, rng) :]


def _remove(data: bytearray, rng: random.Random) -> None:
    start = _place(data, rng)
    del data[start : start + rng.choice((1, 2, 8, 500))]


def _repeat(data: bytearray, rng: random.Random) -> None:
    start = _place(data, rng)
    data[start:start] = data[start : start + rng.choice((1, 4, 8, 500))]


def _swap(data: bytearray, rng: random.Random) -> None:
    a, b = _place(data, rng), _place(data, rng)
    data[a : a + 8], data[b : b + 8] = data[b : b + 8], data[a : a + 8]


CHANGES = (_flip, _flip, _overwrite, _extreme, _extreme, _cut, _remove, _repeat, _swap)


def _place(data: bytearray, rng: random.Random) -> int:
    """Half of all changes are in the first 512 bytes, where headers are."""
    return rng.randrange(min(512, len(data)) if rng.random() < 0.5 else len(data))


def read_all(reader: FormatReader, data: bytes) -> int:
    """Frames that were decoded; 0 when the file was refused, or is another reader's."""
    tracemalloc.start()
    try:
        if not reader.recognises(data) or (info := reader.probe(data)) is None:
            return 0
        count = 0
        for piece in reader.pieces(data, info.format, np.arange(info.num_frames), info.num_frames):
            assert piece.dtype == np.uint8
            assert piece.shape[1:] == (info.height, info.width)
            count += len(piece)
        assert count == info.num_frames
        return count
    except ClipError:
        return 0
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MAX_BYTES
