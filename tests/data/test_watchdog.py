"""The time limit ends a process that hangs outside of Python, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from discovr_ray.data import outage, watchdog

# pthread_mutex_lock on a locked mutex, called with the interpreter's lock held: no Python code can run any more
HANG = """
import ctypes
from discovr_ray.data.watchdog import end_process_after
libc = ctypes.PyDLL(None)
mutex = ctypes.create_string_buffer(64)
with end_process_after(0.5):
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)
"""


def test_a_hang_that_holds_the_interpreter_ends_with_its_process() -> None:
    done = subprocess.run([sys.executable, "-c", HANG], capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert watchdog.TIMEOUT_MARK in done.stderr


def test_who_leaves_in_time_goes_on() -> None:
    with watchdog.end_process_after(0.2), watchdog.end_process_after(0.1):
        pass
    time.sleep(0.4)  # neither the inner nor the outer limit is left behind


def test_limits_grow_with_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(watchdog.LIMIT_VARIABLE, raising=False)
    assert watchdog.limit_s(0) == 120
    assert watchdog.limit_s(30_000_000) == 240
    monkeypatch.setenv(watchdog.LIMIT_VARIABLE, "60")
    assert watchdog.limit_s(30_000_000) == 120
    watchdog.adopt(2.5)
    assert watchdog.base_limit_s() == 2.5


def test_reading_gives_up_before_its_process_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(watchdog.LIMIT_VARIABLE, "120")
    settings = {"read_timeout_s": 30, "connect_timeout_s": 2, "attempts": 5, "outage_patience_s": 120}
    monkeypatch.setenv("DISCOVR_STORAGE", json.dumps(settings))
    # a round waits 30 + 60 + 120 + 240 + 480 s, and 2 s five times to connect; 8 rounds, with pauses of 120 s
    assert outage.longest_s() == pytest.approx(8 * 940 + 120, abs=15)
    assert watchdog.limit_with_reading_s() > 120 + 8 * 940 + 120
