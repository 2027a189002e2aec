"""What a chaos run plays on: a Ray cluster that can lose nodes, an S3 server behind a proxy that misbehaves, a job."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from faulty_proxy import FaultyProxy
from ray.cluster_utils import Cluster
from rclone_server import client_environment, free_port, start_server, wait_for_server

from discovr_ray.data.synthetic import write_dataset

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NODE = {"object_store_memory": 600 * 2**20}  # more than a stream reads ahead
WORKER_NODE = {**NODE, "num_cpus": 2}  # room for one worker
QUIET = {"RAY_AUTH_MODE": "disabled", "DS_ACCELERATOR": "cpu", "RAY_DEDUP_LOGS": "0", "OMP_NUM_THREADS": "1"}


class Stage:
    """Everything that can be struck. `open_stage` makes one."""

    def __init__(self, folder: Path, cluster: Cluster, proxy: FaultyProxy) -> None:
        self.proxy = proxy
        self._folder, self._cluster = folder, cluster
        for _ in range(2):
            self.add_node()

    def add_node(self) -> None:
        self._cluster.add_node(**WORKER_NODE)

    def lose_node(self, node_id: str) -> None:
        """As in a power cut: the node's Ray and all that runs under it end in the same moment, without a farewell."""
        (node,) = [node for node in self._cluster.worker_nodes if node.node_id == node_id]
        processes = []
        for info in (info for kind in node.all_processes.values() for info in kind):
            with suppress(psutil.NoSuchProcess):
                processes += psutil.Process(info.process.pid).children(recursive=True)
        self._cluster.remove_node(node, allow_graceful=False)
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def job(self, name: str, overrides: dict[str, Any]) -> Job:
        return Job(self._folder / "jobs", name, overrides, self.environment())

    def environment(self) -> dict[str, str]:
        """Of a process that is to use the cluster and the storage."""
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**os.environ, "RAY_ADDRESS": self._cluster.address, "PYTHONPATH": os.pathsep.join(paths)}


class Job:
    """A run of jobs/pretrain.py as a process, which can be started again and again."""

    def __init__(self, folder: Path, name: str, overrides: dict[str, Any], environment: dict[str, str]) -> None:
        self.run_uri = f"s3://bucket/runs/{name}"
        self.records = folder / f"records-{name}"
        self.records.mkdir(parents=True)
        self._overrides = [f"{key}={value}" for key, value in overrides.items()]
        self._overrides += [f"run.name={name}", "run.storage_path=s3://bucket/runs"]
        self._environment = environment
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, resume: bool = False) -> None:
        arguments = [*self._overrides, f"run.resume={str(resume).lower()}"]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "recorded_pretrain.py"), str(self.records), *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self._environment,
                start_new_session=True,
            )

    def kill(self) -> None:
        """kill -9 of the driver alone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)

    def exit_code(self) -> int | None:
        """None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def stop(self, timeout_s: float = 240) -> int:
        """Ask it to save and end; its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout_s)

    def wait(self, timeout_s: float) -> int:
        assert self._process is not None
        return self._process.wait(timeout_s)

    def end(self) -> None:
        """Nothing happens when it has ended."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def output(self) -> str:
        return self._log.read_text(errors="replace")


@contextmanager
def open_stage(num_clips: int, keep: Path | None = None) -> Iterator[Stage]:
    """Start everything, with `num_clips` synthetic videos in the bucket's folder `echo`; afterwards nothing is left.

    Args:
        keep: folder for the output of all jobs and the records of their workers.
    """
    with ExitStack() as stack:
        # short, since Ray puts sockets below it
        folder = Path(tempfile.mkdtemp(prefix="dr", dir="/tmp"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        (folder / "jobs").mkdir()
        if keep:
            stack.callback(shutil.copytree, folder / "jobs", keep, dirs_exist_ok=True)
        bucket = folder / "s3" / "bucket"
        write_dataset(bucket / "echo", num_clips, seed=7)
        port = free_port()
        server = start_server(bucket.parent, port)
        stack.callback(_end, server)
        wait_for_server(port, server)
        proxy = stack.enter_context(FaultyProxy(port))
        # nodes hand their environment to everything that runs on them
        stack.enter_context(_environment({**QUIET, "RAY_TMPDIR": str(folder), **client_environment(proxy.port)}))
        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 1})
        stack.callback(cluster.shutdown)
        # Ray Train asks for the state of its own actors, and would ask another cluster of this machine
        stack.enter_context(_environment({"RAY_ADDRESS": cluster.address}))
        yield Stage(folder, cluster, proxy)


def wait_until(condition: Any, timeout_s: float, what: str) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout_s:.0f} s in vain for {what}")
        time.sleep(0.1)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(10)
