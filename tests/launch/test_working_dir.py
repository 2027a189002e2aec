"""What `ray job submit --working-dir .` uploads: the code, far below the job server's limit of 100 MiB."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from pretrain_runs import ROOT
from ray._private.runtime_env.packaging import create_package, get_uri_for_directory

LIMIT_BYTES = 100 * 2**20


def uploaded(folder: Path, package: Path) -> dict[str, int]:
    """Names and sizes in the package that Ray makes of a folder."""
    uri = get_uri_for_directory(str(folder), include_gitignore=True)
    create_package(str(folder), package / uri.rpartition("/")[2], include_gitignore=True)
    (made,) = package.iterdir()
    assert made.stat().st_size < LIMIT_BYTES
    return {item.filename: item.file_size for item in zipfile.ZipFile(made).infolist()}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """This repository's files as git has them, without its .venv and runs."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    folder = tmp_path / "checkout"
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def test_the_code_goes_along_and_little_else(checkout: Path, tmp_path: Path) -> None:
    data = {"runs/first/step_00000001/student.bin": 10, "clips/a.avi": 10, "manifests/m.parquet": 10, ".venv/x": 10}
    data |= {".ray-token-7": 10, "discovr-7.log": 10}  # of a Slurm job that was started here
    for name, size in data.items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(bytes(size))
    (tmp_path / "package").mkdir()
    found = uploaded(checkout, tmp_path / "package")
    assert {"jobs/pretrain.py", "discovr_ray/launch/trainer.py", "cluster/pretrain.yaml"} <= found.keys()
    assert not found.keys() & data.keys()
    assert not [name for name in found if name.startswith(("tests/", "docs/", ".git/"))]
    assert sum(found.values()) < 5 * 2**20
