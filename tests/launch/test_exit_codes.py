"""What jobs/pretrain.py answers to each way that a run can end; the ways themselves are tested in test_pretrain.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from pretrain_runs import ROOT

from discovr_ray.errors import ConfigError, NonFiniteError, StorageError
from discovr_ray.launch import ray_session, supervise, trainer
from discovr_ray.launch.usage import Cost


@pytest.fixture
def job() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pretrain_job", ROOT / "jobs" / "pretrain.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def summary(stopped_by: int | None) -> trainer.RunSummary:
    cost = Cost(0.5, use_gpu=False, clips=24, price_per_hour=0.0)
    return trainer.RunSummary(3, 8, stopped_by, "/runs/a", "/runs/a/encoder.safetensors", "/runs/a/report.html", cost)


OUTCOMES = {
    "done": (summary(None), 0, "steps    3 of 8"),
    "signal 15": (summary(15), 143, "run.resume=true"),
    "workers died": (supervise.TrainingFailedError("worker 1: out of memory"), 1, "failed: worker 1: out of memory"),
    "NaN": (NonFiniteError("step 3: loss_vid is nan"), 1, "failed: step 3: loss_vid is nan"),
    "config": (ConfigError(["run.workers = 9: too many"]), 2, "refused: 1 problem"),
    "storage": (StorageError("/runs: cannot write"), 2, "refused: /runs: cannot write"),
    "second signal, or a first one before training": (
        KeyboardInterrupt(),
        130,
        "complete checkpoints, if any, stay",
    ),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_exit_codes(
    job: ModuleType,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    outcome, code, message = OUTCOMES[name]

    def end(config: object) -> trainer.RunSummary:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(trainer, "pretrain", end)
    monkeypatch.setattr(ray_session, "start_ray", lambda dashboard: None)
    monkeypatch.setattr(sys, "argv", ["pretrain.py", "--config", "demo", f"run.storage_path={tmp_path}"])
    assert job.main() == code
    captured = capfd.readouterr()
    assert message in captured.out + captured.err
    assert "Traceback" not in captured.err
