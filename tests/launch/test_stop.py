from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from discovr_ray.launch.stop import run_interruptible


def test_the_result_and_the_error_of_the_work_come_back() -> None:
    assert run_interruptible(lambda: 7, lambda number: None) == 7

    def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run_interruptible(fail, lambda number: None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_told_once_and_the_work_ends_by_itself(number: signal.Signals) -> None:
    told: list[int] = []
    stop = threading.Event()

    def work() -> str:
        os.kill(os.getpid(), number)
        assert stop.wait(20)
        return "saved"

    def on_interrupt(seen: int) -> None:
        told.append(seen)
        stop.set()

    before = signal.getsignal(number)
    assert run_interruptible(work, on_interrupt) == "saved"
    assert told == [number]
    assert signal.getsignal(number) is before


def test_a_second_signal_ends_at_once() -> None:
    release = threading.Event()

    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGINT)
        release.wait(20)

    with pytest.raises(KeyboardInterrupt):
        run_interruptible(work, lambda number: None)
    release.set()
