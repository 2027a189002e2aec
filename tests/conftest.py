"""One Ray cluster and one synthetic data set for each test process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from rclone_server import client_environment, free_port, start_server, wait_for_server

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a stray token file must not change what the tests do
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_worker_niceness", "10")  # at Ray's 15 they starve beside another process that computes
SEVERAL_PROCESSES = "PYTEST_XDIST_WORKER" in os.environ
if SEVERAL_PROCESSES:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the cores have work enough


# files of more than half a minute, the longest first
LONG_FILES = (
    "test_pretrain.py",
    "test_workers_come_and_go.py",
    "test_autoscaling.py",
    "test_sweep.py",
    "test_submit.py",
    "test_embed.py",
    "test_saver.py",
    "test_further.py",
    "test_engine.py",
    "test_faults.py",
    "test_stream.py",
    "test_shards.py",
    "test_failures.py",
    "test_placement.py",
    "test_saving.py",
    "test_start_weights.py",
    "test_convert.py",
    "test_loop.py",
    "test_evaluate.py",
    "test_elastic.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the files, long ones come first: one begun last would end long after all others."""
    if SEVERAL_PROCESSES:
        place = {name: number for number, name in enumerate(LONG_FILES)}
        items.sort(key=lambda item: place.get(item.path.name, len(place)))


def start_cluster(lock: Path) -> None:
    """One after another, and on a busy machine once more: a raylet waits 15 s for its agents, then dies."""
    import ray

    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for is_last in (False, False, True):
            try:
                ray.init("local", num_cpus=4, include_dashboard=False, object_store_memory=600 * 2**20)
                return
            except Exception:  # of several classes, by what was waiting for the raylet
                ray.shutdown()
                if is_last:
                    raise


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import ray

    start_cluster(tmp_path_factory.getbasetemp().parent / "starting-ray.lock")  # the folder of all test processes
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def echo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 synthetic clips in the EchoNet-Dynamic layout."""
    from discovr_ray.data.synthetic import write_dataset

    folder = tmp_path_factory.mktemp("echo")
    write_dataset(folder, num_clips=24, seed=7)
    return folder


@pytest.fixture(scope="session")
def echo_manifest(ray_cluster: None, echo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Manifest of the synthetic clips: 18 TRAIN, 3 VAL, 3 TEST."""
    from discovr_ray.launch.ingest import ingest

    folder = tmp_path_factory.mktemp("manifest")
    ingest([str(echo_folder)], str(folder))
    return str(folder / "manifest.parquet")


@pytest.fixture
def in_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules of benchmarks/ can be imported, as they import each other."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))


class S3Server(NamedTuple):
    uri: str  # an empty bucket, s3://...
    folder: Path  # where the server keeps the bucket's objects, as files
    environment: dict[str, str]  # set in this process; processes that are already running need it too


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server that checks signatures, on loopback; its AWS_* variables stay set for the session."""
    root = tmp_path_factory.mktemp("s3")
    (root / "bucket").mkdir()
    port = free_port()
    process = start_server(root, port)
    environment = client_environment(port)
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        wait_for_server(port, process)
        yield S3Server("s3://bucket", root / "bucket", environment)
    finally:
        process.terminate()
        process.wait(10)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
