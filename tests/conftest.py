"""One Ray cluster and one synthetic data set for the whole session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a stray token file must not change what the tests do
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    import ray

    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=600 * 2**20, log_to_driver=True)
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
