"""The folder of the benchmarks, whose modules import each other by name."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def in_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """They can be imported."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
