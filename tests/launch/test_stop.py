from __future__ import annotations

import logging
import os
import signal
import threading
import time

import psutil
import pytest
import ray

from discovr_ray.launch.stop import ask_to_stop, run_interruptible, start_stop_flag


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


@pytest.mark.ray
def test_the_flag_outlives_its_process(ray_cluster: None) -> None:
    flag = start_stop_flag()
    process = ray.get(flag.__ray_call__.remote(lambda actor: os.getpid()))
    os.kill(process, signal.SIGKILL)
    while psutil.pid_exists(process):
        time.sleep(0.05)
    assert not ray.get(flag.requested.remote())
    ask_to_stop(flag)
    assert ray.get(flag.requested.remote())


@pytest.mark.ray
def test_a_flag_that_is_gone_is_a_warning(ray_cluster: None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    flag = start_stop_flag()
    ray.kill(flag)
    ask_to_stop(flag)
    assert "the workers cannot be asked to stop" in caplog.text
