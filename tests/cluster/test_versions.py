"""pyproject.toml holds the ranges, cluster/requirements.txt a version of each, and all other files agree with them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import torch
from cluster_files import FOLDER, ROOT
from packaging.requirements import Requirement

FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".json")


def project() -> dict[str, object]:
    found: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def pins() -> dict[str, Requirement]:
    lines = (FOLDER / "requirements.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {requirement.name: requirement for requirement in requirements}


def version(name: str) -> str:
    (specifier,) = pins()[name].specifier
    assert specifier.operator == "=="
    return specifier.version


def wrong_versions(text: str) -> list[str]:
    """Versions of Ray, Python and the project that a file names, where they are others than the pinned ones."""
    expected = {
        r"rayproject/ray:([\d.]+)-": version("ray"),
        r"rayVersion: \"?([\d.]+)": version("ray"),
        r"-ray(\d[\d.]*\d)": version("ray"),
        r"-py(3\d+)\b": "311",
        r"discovr-ray:([\d.]+)-": str(project()["version"]),
    }
    return [
        f"{found}: {wanted}"
        for shape, wanted in expected.items()
        for found in re.findall(shape, text)
        if found != wanted
    ]


def test_every_dependency_is_pinned_within_its_range() -> None:
    dependencies = project()["dependencies"]
    assert isinstance(dependencies, list)
    ranges = {requirement.name: requirement for requirement in map(Requirement, dependencies)}
    assert pins().keys() == ranges.keys()
    for name, wanted in ranges.items():
        assert wanted.specifier.contains(version(name)), name
        assert pins()[name].extras == wanted.extras, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_files_name_the_pinned_versions(path: Path) -> None:
    assert wrong_versions(path.read_text()) == []


def test_storage_drivers_are_pinned_within_their_extras() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    ranges = {name: Requirement(extras[extra][0]).specifier for extra, name in (("gcs", "gcsfs"), ("azure", "adlfs"))}
    named = [found for path in FILES for found in re.findall(r"(gcsfs|adlfs)==([\d.]+)", path.read_text())]
    assert len(named) >= 4
    assert all(ranges[name].contains(pinned) for name, pinned in named)


def drivers(text: str) -> list[int]:
    """Of NVIDIA, that a file names: in an image, a check or a sentence."""
    return [int(found) for found in re.findall(r"(?<=nvidia-)\d{3}|(?<=-ge )\d{3}|\d{3}(?= or newer)", text)]


def test_gpu_machines_have_a_driver_for_the_pinned_pytorch() -> None:
    """An older one would start, and PyTorch find no GPU."""
    cuda = (torch.version.cuda or "13").partition(".")[0]
    wanted = {"12": 525, "13": 580}[cuda]
    named = {path.name: drivers(path.read_text()) for path in FILES}
    assert all(version >= wanted for versions in named.values() for version in versions), named
    assert {name for name, versions in named.items() if versions} >= {
        "aws.yaml", "gcp.yaml", "azure.yaml", "onprem.yaml", "rayjob.yaml", "raycluster.yaml", "slurm.sh", "Dockerfile",
    }  # fmt: skip
    assert drivers("common-cu128-ubuntu-2204-nvidia-570") == [570]


def test_another_version_would_be_noticed() -> None:
    assert wrong_versions("image: rayproject/ray:2.59.0-py310-gpu") == ["2.59.0: 2.60.0", "310: 311"]
    assert wrong_versions('rayVersion: "2.61.0"\nimage: x/discovr-ray:9.9.9-ray2.61.0')
