"""Real sweeps of tiny runs: ASHA's extensions, a worker that dies; a driver that is killed, on an object store."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState
from pretrain_runs import OVERRIDES, Job, train_workers

from discovr_ray.data import storage
from discovr_ray.errors import CrashLoopError
from discovr_ray.launch.sweep import prepare, run_sweep, write_report
from discovr_ray.sweep.folder import STEPS, WHY, run_name
from discovr_ray.sweep.spec import load_sweep
from discovr_ray.sweep.study import load_study
from discovr_ray.train.run_log import read_records

pytestmark = [pytest.mark.ray, pytest.mark.slow]

FIRST, LAST = 3, 6  # rungs


def write_sweep(folder: Path, manifest: str, **changes: Any) -> Path:
    fields = {**OVERRIDES, "data.manifest": manifest, "data.decode_cpus": 0.5, "engine.zero_stage": 0}
    fields |= {"run.workers": 1, "run.cpus_per_worker": 0.5, "checkpoint.every_steps": 1, "checkpoint.keep": 9}
    fields |= {"run.max_failures": 0}  # so that a worker's death is the trial's
    values = {
        "name": "small",
        "storage_path": str(folder),
        "config": "demo",
        "overrides": [f"{name}={value}" for name, value in fields.items()],
        "space": {
            "model.num_prototypes": {"int": [16, 24]},
            "schedule.ema_momentum": {"uniform": [0.9, 0.999]},
            "loss.w_scd": {"uniform": [0.5, 1.0]},
        },
        "steps": LAST,
        "asha": {"first_steps": FIRST, "reduction": 2},
        "search": {"sampler": "random"},
        "trials": 2,
        **changes,
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run_folder(folder: Path, number: int) -> Path:
    return folder / "small" / "trials" / run_name(number)


def records(folder: Path, number: int) -> list[dict[str, Any]]:
    return read_records(str(run_folder(folder, number)), "metrics.jsonl")


def saved_steps(folder: Path, number: int) -> list[str]:
    """Names of sealed checkpoints; one of a later worker group has a suffix."""
    return sorted(path.parent.name for path in run_folder(folder, number).glob("step_*/checkpoint.json"))


def trials(folder: Path, database: str = "") -> list[optuna.trial.FrozenTrial]:
    return load_study(str(folder / "small"), "small", database).get_trials()


def check_finished(folder: Path, num_trials: int, database: str = "") -> None:
    """What holds for every sweep that came to its end, whatever happened on the way."""
    found = trials(folder, database)
    assert [trial.number for trial in found] == list(range(num_trials))
    for trial in found:
        assert trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        steps = [record["step"] for record in records(folder, trial.number)]
        assert steps == list(range(1, trial.user_attrs[STEPS] + 1))  # none twice, none left out
        rung = {record["step"]: record["rank_me"] for record in records(folder, trial.number)}
        assert trial.value == rung[trial.user_attrs[STEPS]]
        assert trial.user_attrs[WHY].startswith("ASHA" if trial.state == TrialState.PRUNED else "trained")
    assert found[0].params == {"model.num_prototypes": 20, "schedule.ema_momentum": 0.996, "loss.w_scd": 1.0}


def kill_training_worker(folder: Path) -> None:
    """Once trial 0 is past its first rung, end the process that trains it."""
    while not any(name.startswith(f"step_{FIRST + 1:08d}") for name in saved_steps(folder, 0)):
        time.sleep(0.05)
    for worker in train_workers():
        worker.kill()


def test_a_worker_dies_and_its_trial_goes_on_from_its_last_checkpoint(echo_manifest: str, tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path, echo_manifest, trials=2, concurrent=1))
    killer = threading.Thread(target=kill_training_worker, args=(tmp_path,), daemon=True)
    killer.start()
    summary = run_sweep(prepare(sweep))
    killer.join(1)
    assert not killer.is_alive()
    assert (summary.trained + summary.stopped_early, summary.failed) == (2, 0)
    check_finished(tmp_path, 2)
    names = saved_steps(tmp_path, 0)
    assert len(names) == LAST  # each step saved once: extended and tried again, never anew
    starts = {name[len("step_00000000") :] for name in names}  # the first group's have no suffix
    assert len(starts) == 3  # the first leg's, the extension's, that after the death


def test_a_sweep_whose_trials_all_fail_ends_with_the_cause(echo_manifest: str, tmp_path: Path) -> None:
    """Its hours would have it go on. The batches are larger than the data set, which a trial's run finds out."""
    space = {"engine.global_batch": {"choice": [64, 128]}}
    limits = {"trials": 0, "hours": 1.0, "max_failures": 2}
    sweep = load_sweep(write_sweep(tmp_path, echo_manifest, space=space, concurrent=1, **limits))
    with pytest.raises(CrashLoopError, match=r"max_failures = 2: (?s:.*)the manifest has only 18 clips(?s:.*)--resume"):
        run_sweep(prepare(sweep))
    assert [trial.state for trial in trials(tmp_path)] == [TrialState.FAIL] * 2
    assert (tmp_path / "small" / "report.html").exists()


@pytest.mark.s3
def test_a_killed_sweep_on_an_object_store_goes_on_where_it_was(
    echo_manifest: str, s3_server: Any, tmp_path: Path
) -> None:
    """Trial 0 is finished when the driver is killed, trial 1 has begun. Manifest, runs and report are in the store."""
    place, database = storage.join(s3_server.uri, "sweeps"), f"sqlite:///{tmp_path}/study.db"
    folder = s3_server.folder / "sweeps"  # the same, as the server keeps it
    manifest = storage.join(place, "manifest.parquet")
    storage.put_file(echo_manifest, manifest)
    changes = {"storage_path": place, "storage": database, "concurrent": 1, "asha": {}}
    path = write_sweep(tmp_path, manifest, **changes)
    first = Job([str(path)], tmp_path / "first.log", script="sweep.py")
    first.wait_for(lambda: any(name.startswith("step_00000002") for name in saved_steps(folder, 1)))
    first.kill()
    finished, interrupted = trials(folder, database)
    assert (finished.state, interrupted.state) == (TrialState.COMPLETE, TrialState.RUNNING)
    saved = saved_steps(folder, 1)
    refused = Job([str(path)], tmp_path / "refused.log", script="sweep.py")
    assert refused.wait() == 2
    assert "already holds a sweep" in refused.output()
    again = Job([str(path), "--resume"], tmp_path / "again.log", script="sweep.py")
    assert again.wait() == 0, again.output()
    check_finished(folder, 2, database)
    assert trials(folder, database)[0] == finished
    assert trials(folder, database)[1].params == interrupted.params
    names = saved_steps(folder, 1)
    assert set(saved) <= set(names)
    assert len(names) == LAST
    report = f"{place}/small/report.html"
    assert f"report   {report}\n" in again.output()
    storage.remove_tree(report)
    assert write_report(f"{place}/small", "") == report  # as --report; the database is sweep.yaml's
    assert "<dt>Finished</dt><dd>2</dd>" in storage.read_bytes(report).decode()
    assert yaml.safe_load((folder / "small" / "best.yaml").read_text())
    assert {found.name for found in tmp_path.iterdir()} == {
        "small.yaml", "study.db", "first.log", "refused.log", "again.log"
    }  # fmt: skip
