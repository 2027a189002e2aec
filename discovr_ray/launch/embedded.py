"""The embedded data set: synthetic echo clips made next to the runs, and their manifest."""

from __future__ import annotations

import dataclasses
import logging
import os
import tempfile
from pathlib import Path

from discovr_ray.config import Config
from discovr_ray.data import storage
from discovr_ray.data.synthetic import VERSION, write_dataset
from discovr_ray.launch.ingest import ingest

logger = logging.getLogger(__name__)


def embedded_manifest(config: Config) -> Config:
    """The config with `data.manifest: synthetic` replaced by a real manifest, made on first use."""
    if config.data.manifest != "synthetic":
        return config
    data = config.data
    # the generator's version: another one makes other bytes from the same seed
    name = f"synthetic-{data.synthetic_clips}-clips-seed-{data.synthetic_seed}-v{VERSION}"
    root = storage.join(storage.absolute(config.run.storage_path), name)
    manifest = storage.join(root, "manifest", "manifest.parquet")
    if not storage.exists(manifest):
        _make(config, storage.join(root, "echo"), storage.join(root, "manifest"))
    return dataclasses.replace(config, data=dataclasses.replace(config.data, manifest=manifest))


def _make(config: Config, videos_uri: str, manifest_uri: str) -> None:
    data = config.data
    logger.info("making %d synthetic echo clips in %s", data.synthetic_clips, videos_uri)
    workers = os.cpu_count() or 1
    if "://" not in videos_uri:
        write_dataset(Path(videos_uri), data.synthetic_clips, data.synthetic_seed, workers)
    else:
        with tempfile.TemporaryDirectory(prefix="discovr-synthetic-") as folder:
            write_dataset(Path(folder), data.synthetic_clips, data.synthetic_seed, workers)
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    storage.put_file(str(path), storage.join(videos_uri, *path.relative_to(folder).parts))
    ingest([videos_uri], manifest_uri)
