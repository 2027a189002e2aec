"""Freed memory that stays with the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

# a large block is touched and freed, then allocated and touched again: the second time must cost no fresh pages
SCRIPT = """
import resource, sys
import numpy as np
from discovr_ray.train.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def touch():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(256 * 2**20, 1, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

touch()
print(touch())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's switch")
def test_memory_that_was_freed_needs_no_fresh_pages() -> None:
    faults = {
        mode: int(
            subprocess.run([sys.executable, "-c", SCRIPT, mode], check=True, capture_output=True, text=True).stdout
        )
        for mode in ("keep", "default")
    }
    assert faults["keep"] < 100
    assert faults["default"] > 10 * max(1, faults["keep"])
