"""Randomness as a function: 64-bit hashes of (seed, epoch, clip, purpose) instead of generators with a state.

Nothing needs to be saved to resume, and nothing depends on the number of workers. The mixer is SplitMix64 (Steele,
Lea and Flood, "Fast splittable pseudorandom number generators", 2014), fixed here so that no library's release can
change the order of a run. `model/masks.py` holds the same mixer for tensors on the training device.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]


class Purpose(IntEnum):
    """What a random number is for; distinct purposes are independent of each other."""

    ORDER = 1
    WINDOW = 2
    CROP = 3
    VIDEO_MASK = 4
    IMAGE_MASK = 5
    SAMPLER = 6  # of a sweep
    DEGRADATION = 7


def clip_key(clip_id: str) -> int:
    """63-bit integer that stands for a clip id wherever numbers are needed."""
    return int.from_bytes(hashlib.blake2b(clip_id.encode(), digest_size=8).digest(), "little") >> 1


def mix(state: Words) -> Words:
    """SplitMix64's output function, element by element."""
    with np.errstate(over="ignore"):
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))


def hash_words(*words: int | Words) -> Words:
    """Chain words (non-negative, below 2^64; scalars or arrays that broadcast) into one 64-bit hash each."""
    state: Words = np.zeros((), np.uint64)
    for word in words:
        state = mix(state ^ np.asarray(word, np.uint64))
    return state


def uniform(*words: int | Words) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) with 53 random bits."""
    return np.asarray((hash_words(*words) >> np.uint64(11)).astype(np.float64) * 2.0**-53)


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, length: int) -> npt.NDArray[np.int64]:
    """Order of `length` clips in an epoch: index in the epoch -> row of the manifest. Read-only; 8 bytes a clip."""
    order = np.argsort(hash_words(seed, epoch, Purpose.ORDER, np.arange(length, dtype=np.uint64)), kind="stable")
    order.flags.writeable = False
    return order
