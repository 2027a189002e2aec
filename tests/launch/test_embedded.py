"""The embedded data set: made once for each size, seed and version of its generator."""

from __future__ import annotations

from pathlib import Path

import pytest

from discovr_ray.config import Config, load_config
from discovr_ray.data import storage
from discovr_ray.launch import embedded


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Folders that were filled; the videos themselves are the business of test_synthetic.py."""
    folders: list[str] = []

    def make(config: Config, videos_uri: str, manifest_uri: str) -> None:
        storage.write_bytes(storage.join(manifest_uri, "manifest.parquet"), b"")
        folders.append(videos_uri)

    monkeypatch.setattr(embedded, "_make", make)
    return folders


def test_another_set_for_another_size_seed_or_generator(
    made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config("demo", [f"run.storage_path={tmp_path}"])
    first = embedded.embedded_manifest(config).data.manifest
    assert embedded.embedded_manifest(config).data.manifest == first
    assert len(made) == 1
    for change in ("data.synthetic_seed=7", "data.synthetic_clips=9"):
        other = load_config("demo", [f"run.storage_path={tmp_path}", change])
        assert embedded.embedded_manifest(other).data.manifest != first
    monkeypatch.setattr(embedded, "VERSION", embedded.VERSION + 1)
    assert embedded.embedded_manifest(config).data.manifest != first
    assert len(set(made)) == len(made) == 4


def test_a_manifest_of_ones_own_stays(made: list[str]) -> None:
    config = load_config("demo", ["data.manifest=/data/manifest.parquet"])
    assert embedded.embedded_manifest(config) is config
    assert made == []
