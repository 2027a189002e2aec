"""One start of the job has a run, whoever asks for it at the same moment; dead ones are taken over."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray

from discovr_ray.data import storage
from discovr_ray.errors import RunExistsError
from discovr_ray.launch import owner
from discovr_ray.launch.owner import hold, new_claim
from discovr_ray.launch.stop import start_stop_flag
from discovr_ray.train import claim
from discovr_ray.train.claim import Claim

pytestmark = pytest.mark.ray


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def run(ray_cluster: None, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "run")
    return storage.join(request.getfixturevalue("s3_server").uri, tmp_path.name)


@pytest.fixture
def disk(ray_cluster: None, tmp_path: Path) -> str:
    return str(tmp_path / "run")


def take(run: str, mine: Claim | None = None) -> str:
    """Have the run for a moment; what another start is told, "" when there is none."""
    try:
        with hold(run, mine or new_claim(60.0), lambda: None):
            return ""
    except RunExistsError as error:
        return str(error)


def from_elsewhere(**changes: object) -> Claim:
    """A job that has the run, on a machine and a cluster that nobody here can ask."""
    there = Claim(
        "20200101-1", 0.6, "process 7 on another machine", "another machine", "7 1", "another node", holds=True
    )
    return dataclasses.replace(there, **changes)


@contextmanager
def beating(run: str, one: Claim) -> Iterator[None]:
    """It gives signs of life for the block's duration."""
    over = threading.Event()

    def live() -> None:
        beat = 0
        while not over.wait(0.05):
            beat += 1
            claim.write(run, dataclasses.replace(one, beat=beat))

    claim.write(run, one)
    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_of_many_starts_in_one_moment_one_has_the_run(run: str) -> None:
    for trial in range(3):
        if trial == 2:
            claim.write(f"{run}{trial}", from_elsewhere())  # all of them wait for a dead one to move
        together, over = threading.Barrier(5), threading.Barrier(5)
        told: list[str] = []

        def start(uri: str, together: threading.Barrier, over: threading.Barrier, told: list[str]) -> None:
            mine = new_claim(60.0)
            together.wait(30)
            try:
                with hold(uri, mine, lambda: None) as still_held:
                    over.wait(60)
                    assert still_held()
            except RunExistsError as error:
                told.append(str(error))
                over.wait(60)

        arguments = (f"{run}{trial}", together, over, told)
        threads = [threading.Thread(target=start, args=arguments) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(told) == 4
        assert [text for text in told if "a job already trains this run (process" not in text] == []
        assert claim.claims(f"{run}{trial}") == []


KILLED = """
import sys, os, signal
from discovr_ray.launch import owner
from discovr_ray.train import claim
me = claim.Claim("1", 600.0, "a killed process", owner._machine(), owner._process(os.getpid()), holds=True)
claim.write(sys.argv[1], me)
print("written", flush=True)
signal.pause()
"""


def test_a_process_of_this_machine_that_was_killed_is_taken_over_at_once(
    disk: str, caplog: pytest.LogCaptureFixture
) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, disk], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "written\n"
    assert "(a killed process)" in take(disk)
    process.kill()
    while Path(f"/proc/{process.pid}/stat").read_text().split()[2] != "Z":  # dead, and not yet waited for
        time.sleep(0.01)
    assert take(disk) == ""
    process.wait(10)
    assert "taking over from a job that is dead: a killed process" in caplog.text
    assert "waiting" not in caplog.text


def test_ray_knows_whether_a_driver_on_another_node_lives(disk: str, caplog: pytest.LogCaptureFixture) -> None:
    there = from_elsewhere(node=ray.get_runtime_context().get_node_id(), timeout_s=600.0)
    claim.write(disk, there)
    flag = start_stop_flag(there.start)
    assert "on another machine" in take(disk)
    ray.kill(flag)
    assert take(disk) == ""
    assert "waiting" not in caplog.text


def test_who_gives_no_sign_of_life_is_taken_over_and_who_does_is_not(
    run: str, caplog: pytest.LogCaptureFixture
) -> None:
    with beating(run, from_elsewhere()):
        assert "(process 7 on another machine)" in take(run)
    started = time.monotonic()
    assert take(run) == ""
    assert time.monotonic() - started >= 0.6
    assert "waiting up to 0.6 s for a sign of life" in caplog.text


def test_a_start_that_others_took_for_dead_finds_out(disk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = threading.Event()
    monkeypatch.setattr(owner, "BEATS", 100)
    with hold(disk, new_claim(5.0), lost.set) as still_held:
        (mine,) = claim.claims(disk)
        assert still_held()
        while claim.claims(disk)[0].beat < 3:
            time.sleep(0.02)
        assert not lost.is_set()
        claim.write(disk, Claim("another", 5.0, "there", holds=True, took_over=(mine.start,)))
        assert lost.wait(10)
        assert not still_held()
    assert [other.start for other in claim.claims(disk)] == ["another"]
