"""Worker groups that fail again and again: told apart from progress and from lost nodes, and ended with the cause."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from pretrain_runs import tiny_run, train_workers
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import ActorDiedError

from discovr_ray.errors import CrashLoopError
from discovr_ray.launch import supervise
from discovr_ray.launch.failures import FailureReporter
from discovr_ray.launch.stop import StopFlag, start_stop_flag
from discovr_ray.launch.trainer import pretrain


def test_failures_count_since_the_newest_checkpoint() -> None:
    flag = StopFlag()
    assert flag.started(0, []) == []
    flag.failed("a")
    assert flag.started(0, []) == ["a"]
    flag.failed("b")  # after this group had saved step 4
    assert flag.started(4, []) == ["b"]
    flag.failed("c")
    assert flag.started(4, []) == ["b", "c"]
    assert flag.started(4, []) == ["b", "c"]  # another number of workers, without a failure
    assert flag.started(None, []) == ["b", "c"]  # storage that does not answer is no progress, and forgets none
    assert flag.started(4, []) == ["b", "c"]
    assert flag.started(8, []) == []


def test_a_group_that_has_lost_a_node_does_not_count() -> None:
    """Though what it told was the error of a worker on another node, and though the loss is noticed late."""
    flag = StopFlag()
    flag.started(0, ["a", "b"])
    flag.joined("a")
    flag.joined("b")
    flag.failed("connection closed by peer")
    assert flag.started(0, ["a", "b"]) == ["connection closed by peer"]  # not noticed yet
    flag.joined("a")
    flag.failed("out of memory")
    flag.failed("cannot start")  # a group that never told where it ran
    assert flag.started(0, ["a", "c"]) == ["out of memory", "cannot start"]


def test_groups_that_fail_before_they_begin_are_counted_apart() -> None:
    """They never come to look at the count themselves."""
    flag = StopFlag()
    assert flag.failed("no such module") == ["no such module"]
    assert flag.failed("") == ["no such module"]  # a lost node
    assert flag.failed("out of memory") == ["no such module", "out of memory"]
    flag.started(0, [])
    assert flag.failed("killed") == []
    assert flag.failed("no such module") == ["no such module"]
    assert flag.num_failed() == 5


@pytest.mark.ray
def test_the_reason_is_told_but_lost_nodes_are_not(ray_cluster: None) -> None:
    flag = start_stop_flag()
    reporter = FailureReporter(flag, allowed=2)
    message = "The actor died because its node has died. Node Id: 7"
    lost = ActorDiedErrorContext(error_message=message, actor_id=bytes(16))
    reporter.after_exception(None, {1: ActorDiedError(lost)})
    reclaimed = SimpleNamespace(health_check_failure=SimpleNamespace(preempted=True))
    reporter.after_exception(None, {0: reclaimed})  # type: ignore[dict-item]
    assert ray.get(flag.started.remote(0, [])) == []
    assert ray.get(flag.num_failed.remote()) == 1  # Ray Train does not count the reclaimed one either
    reporter.after_exception(None, {1: ValueError("no\n such  thing"), 0: RuntimeError("x" * 900)})
    (cause,) = ray.get(flag.started.remote(0, []))
    assert cause.startswith("worker 0: xxx")
    assert cause.endswith("xxx; worker 1: no such thing")
    assert len(cause) == 600
    reporter.after_exception(None, {1: ValueError("no\n such  thing")})
    assert ray.get(flag.started.remote(0, []))[1] == "worker 1: no such thing"
    for _ in range(3):
        reporter.after_exception(None, {0: ValueError("broken")})  # the first of a group that had begun
    with pytest.raises(CrashLoopError, match=r"3 worker groups in a row could not start.* last one: worker 0: broken"):
        reporter.after_exception(None, {0: ValueError("broken")})


BROKEN_PYTHON = """
import os, sys

class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "discovr_ray.launch.worker":
            try:
                open({marker!r}, "x").close()
            except FileExistsError:
                raise ModuleNotFoundError("No module named 'discovr_ray'")
            else:
                os._exit(1)  # as a library that crashes while it is loaded

sys.meta_path.insert(0, Broken())
"""


@pytest.mark.ray
@pytest.mark.slow
def test_workers_that_cannot_load_the_package_end_the_run_with_the_cause(
    echo_manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them gets so far as to look at the count of failures. Ray Train alone would try for ever."""
    marker = tmp_path / "crashed"
    (tmp_path / "sitecustomize.py").write_text(BROKEN_PYTHON.format(marker=str(marker)))
    path = os.pathsep.join([str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    monkeypatch.setattr(supervise, "worker_variables", lambda config: {"PYTHONPATH": path})
    with pytest.raises(
        CrashLoopError, match=r"^2 worker groups in a row could not start.*No module named 'discovr_ray"
    ):
        pretrain(tiny_run(echo_manifest, tmp_path, run__workers=1, run__max_failures_per_step=1))
    assert marker.exists()
    assert (tmp_path / "demo" / "report.html").exists()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.chaos
def test_a_crash_loop_ends_with_its_cause(echo_manifest: str, tmp_path: Path) -> None:
    """Every group loses a worker after its first step, long before the first checkpoint."""
    killed: list[int] = []
    over = threading.Event()
    thread = threading.Thread(target=kill_after_first_steps, args=(tmp_path / "demo" / "metrics.jsonl", killed, over))
    thread.start()
    limits = {"run__max_failures": 50, "run__max_failures_per_step": 1}
    try:
        with pytest.raises(
            CrashLoopError, match=r"^2 worker groups failed since step 0.*the last one: worker \d: .*die"
        ):
            pretrain(tiny_run(echo_manifest, tmp_path, checkpoint__every_steps=1000, schedule__epochs=5000, **limits))
    finally:
        over.set()
        thread.join()
    assert len(killed) == 2
    assert (tmp_path / "demo" / "report.html").exists()


def kill_after_first_steps(metrics: Path, killed: list[int], over: threading.Event) -> None:
    """Kill -9 one worker of each group, once a step of that very group was logged."""
    last_kill = time.time()
    while not over.wait(0.1):
        if not metrics.exists() or not metrics.stat().st_size:
            continue
        logged = metrics.stat().st_mtime
        for worker in train_workers():
            if last_kill < worker.create_time() < logged:
                last_kill = time.time()
                killed.append(worker.pid)
                worker.kill()
                break
