"""What jobs/sweep.py refuses before Ray starts: exit code 2, the reason, and nothing on the disk."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from pretrain_runs import ROOT

from discovr_ray.data import storage
from discovr_ray.launch import ray_session
from discovr_ray.launch.sweep import prepare
from discovr_ray.sweep.book import Book
from discovr_ray.sweep.folder import SWEEP_FILE
from discovr_ray.sweep.spec import load_sweep, spec_text
from discovr_ray.sweep.study import open_study


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """jobs/sweep.py where Ray cannot start."""
    spec = importlib.util.spec_from_file_location("sweep_job", ROOT / "jobs" / "sweep.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def refuse(dashboard: bool) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray_session, "start_ray", refuse)
    return module


def write_sweep(folder: Path, **changes: Any) -> Path:
    values = yaml.safe_load((ROOT / "sweeps" / "demo.yaml").read_text())
    path = folder / "sweep-file.yaml"
    path.write_text(yaml.safe_dump({**values, "storage_path": str(folder / "sweeps"), **changes}, sort_keys=False))
    return path


def answer(job: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["sweep.py", *arguments])
    code = job.main()
    assert isinstance(code, int)
    return code


@pytest.mark.parametrize(
    ("changes", "arguments", "expected"),
    [
        ({"space": {"loss.w_sdc": {"uniform": [0, 1]}}}, [], "did you mean w_scd?"),
        ({"space": {"loss.w_scd": {"uniform": [-1, 1]}}}, [], "loss.w_scd = -1.0: must be at least 0"),
        ({"steps": 9999}, [], "steps = 9999: the configuration has 180"),
        ({"asha": {"first_steps": 45}}, [], "asha.first_steps = 45: must be below steps = 45"),
        ({}, ["--storage", "sqlite:////no/such/folder/a.db"], "unable to open database file"),
        ({}, ["--storage", "mysql+nosuchdriver://me:secret@127.0.0.1/db"], "mysql+nosuchdriver://me:***@"),
        ({}, ["--from-study", "/no/such/sweep"], "no sweep's folder"),
        ({}, ["data.manifest=/no/such/manifest.parquet"], "manifest.parquet"),
        ({}, ["probe.label=nosuch"], "probe.label = 'nosuch': the synthetic clips have "),
        ({}, ["engine.global_batch=512"], "engine.global_batch = 512: the manifest has only 72 clips"),
    ],
)
def test_a_broken_sweep_is_refused(
    job: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    arguments: list[str],
    expected: str,
) -> None:
    path = write_sweep(tmp_path, **changes)
    assert answer(job, monkeypatch, str(path), *arguments) == 2
    message = capfd.readouterr().err
    assert message.startswith("refused: ")
    assert expected in message
    assert "secret" not in message
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_a_sweep_that_was_begun_needs_resume_and_stays_the_same(
    job: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_sweep(tmp_path)
    plan = prepare(load_sweep(path))
    Path(plan.folder).mkdir(parents=True)
    open_study(plan.sweep, plan.folder, resume=False)
    (Path(plan.folder) / SWEEP_FILE).write_text(spec_text(plan.sweep.spec))
    assert answer(job, monkeypatch, str(path)) == 2
    assert "already holds a sweep" in capfd.readouterr().err
    assert answer(job, monkeypatch, str(path), "--resume", "--dry-run") == 0
    open_book = Book(open_study(plan.sweep, plan.folder, resume=True), plan.sweep)
    assert open_book.next_trial()
    assert answer(job, monkeypatch, str(path), "--resume", "--from-study", plan.folder) == 2
    assert "the sweep 'demo' has begun" in capfd.readouterr().err
    assert answer(job, monkeypatch, str(path), "--resume", "--dry-run") == 0
    assert "tried first" not in capfd.readouterr().out  # but for the first start
    write_sweep(tmp_path, space={"loss.w_scd": {"uniform": [0, 1]}})
    assert answer(job, monkeypatch, str(path), "--resume") == 2
    assert "space: not that of the study 'demo'" in capfd.readouterr().err
    (Path(plan.folder) / "sweep.db").unlink()
    assert answer(job, monkeypatch, str(path), "--resume") == 2
    assert "has no study of it" in capfd.readouterr().err


def test_a_report_asks_the_storage_as_the_sweep_does(
    job: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISCOVR_STORAGE", "{}")
    assert answer(job, monkeypatch, str(write_sweep(tmp_path)), "--report", "storage.attempts=2") == 2  # no sweep there
    assert storage.settings().attempts == 2


def test_a_dry_run_tells_the_plan_and_writes_nothing(
    job: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_sweep(tmp_path)
    assert answer(job, monkeypatch, str(path), "--dry-run", "--trials", "5", "--name", "other") == 0
    plan = capfd.readouterr().out
    assert f"sweep        {tmp_path}/sweeps/other" in plan
    assert "steps        15, 45" in plan
    assert "until        5 trials" in plan
    assert "tried first  model.num_prototypes=64 schedule.ema_momentum=0.996 loss.w_scd=1" in plan
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@pytest.mark.ray
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("discovr", "tried first  model.num_prototypes=3000 schedule.ema_momentum=0.996 loss.w_scd=1"),
        ("optimiser", "tried first  optim.lr=0.00015 optim.weight_decay=0.05 optim.beta2=0.95 "),
    ],
)
def test_sweeps_that_ship_plan_for_data_of_ones_own(
    job: ModuleType,
    echo_manifest: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
    expected: str,
) -> None:
    """18 clips in batches of 2: 900 steps in their 100 epochs."""
    arguments = [f"data.manifest={echo_manifest}", "engine.global_batch=2", "engine.micro_batch=2"]
    arguments += ["--storage-path", str(tmp_path)]
    assert answer(job, monkeypatch, str(ROOT / "sweeps" / f"{name}.yaml"), *arguments, "--dry-run") == 0
    plan = capfd.readouterr().out
    assert f"sweep        {tmp_path}/{name}\n" in plan
    assert "steps        500, 900\n" in plan
    assert "until        40 trials\n" in plan
    assert "each trial   1 x 1 CPUs and 1 GPUs, 4 CPUs to decode\n" in plan
    assert expected in plan
    assert not list(tmp_path.iterdir())


def test_every_sweep_that_ships_is_tried(tmp_path: Path) -> None:
    """demo above, synthetic here; the others want a manifest."""
    assert {path.stem for path in (ROOT / "sweeps").glob("*.yaml")} == {"demo", "synthetic", "discovr", "optimiser"}
    sweep = load_sweep(ROOT / "sweeps" / "synthetic.yaml", changes={"storage_path": str(tmp_path)})
    assert prepare(sweep).sweep.spec.steps == 150
