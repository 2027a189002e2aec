"""The account of a run's hours, and the line about its cost."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest

from discovr_ray.launch.usage import Cost, Usage, cost_of_run


def test_all_worker_groups_count_with_their_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    first = Usage(str(tmp_path), workers=4, use_gpu=True)
    clock[0] += 900
    first.write()
    clock[0] += 900
    first.write()  # the later account takes the place of the first one
    second = Usage(str(tmp_path), workers=2, use_gpu=True)  # two nodes are gone
    clock[0] += 1800
    second.write()
    cost = cost_of_run(str(tmp_path), clips=500_000, price_per_hour=2.0)
    assert cost == Cost(4 * 0.5 + 2 * 0.5, True, 500_000, 2.0)
    assert str(cost) == "3 GPU-hours, 500,000 clips, 6 hours a million clips; at 2 an hour 6, 12 a million clips"


def test_without_a_price_hours_alone(tmp_path: Path) -> None:
    (tmp_path / "usage").mkdir()
    (tmp_path / "usage" / "a.json").write_text(json.dumps({"workers": 2, "use_gpu": False, "seconds": 3600}))
    text = str(cost_of_run(str(tmp_path), 1000, 0.0))
    assert text == "2 CPU worker-hours, 1,000 clips, 2e+03 hours a million clips"


def test_a_storage_that_fails_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / "run").write_text("a file where the folder should be")
    Usage(str(tmp_path / "run"), 1, False).write()
    assert "hours of the workers are not written down" in caplog.text
