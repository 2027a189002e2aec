"""A sweep's folder as the engine leaves it: a real Optuna study, and runs written with the log of training."""

from __future__ import annotations

import json
import math
from pathlib import Path

import optuna
import yaml
from optuna.trial import Trial, TrialState

from discovr_ray.config import Config, derive_plan, load_config
from discovr_ray.sweep import folder as names
from discovr_ray.train.run_log import RunLog

METRIC = "knn_balanced_accuracy"
RUNGS = (20, 60)
K, MOMENTUM, WEIGHT = "model.num_prototypes", "schedule.ema_momentum", "loss.w_scd"

STATES = {"failed": TrialState.FAIL, "stopped": TrialState.PRUNED}
REASONS = {
    "finished": "trained to the end",
    "stopped": f"{names.STOPPED_EARLY}: at step 20, 3 of 4 others were better",
    "failed": "failed: NonFiniteError: loss is nan <b>",
    "diverged": "ended by its training: feature_std has been low",
    "running": "",
}


def make_sweep(parent: Path, num_trials: int = 12, objectives: tuple[str, ...] = (METRIC,)) -> Path:
    """Random search: trial 2 failed, 5 diverged, 11 is running, every third was stopped at the first rung (of one
    objective), the rest finished."""
    root = parent / "three"
    root.mkdir(parents=True)
    spec = {"name": "three", "config": "demo", "storage": ""}
    (root / names.SWEEP_FILE).write_text(yaml.safe_dump(spec))
    study = optuna.create_study(
        storage=names.database_url(str(root), ""),
        study_name="three",
        directions=["maximize"] * len(objectives),
        sampler=optuna.samplers.RandomSampler(seed=3),
    )
    study.set_user_attr(names.OBJECTIVES, list(objectives))
    study.set_user_attr(names.RUNGS, list(RUNGS))
    for number in range(num_trials):
        _add_trial(root, study, number, objectives)
    return root


def _add_trial(root: Path, study: optuna.Study, number: int, objectives: tuple[str, ...]) -> None:
    trial = study.ask()
    overrides = _overrides(trial)
    ends = {2: "failed", 5: "diverged", 11: "running"}.get(number, "finished")
    if number % 3 == 1 and len(objectives) == 1:
        ends = "stopped"
    steps = {"failed": 30, "diverged": 40, "stopped": RUNGS[0]}.get(ends, RUNGS[-1])
    config = load_config("demo", [*overrides, f"schedule.max_steps={RUNGS[-1]}", f"run.name={names.run_name(number)}"])
    values = _write_run(root, config, number, steps)
    trial.set_user_attr(names.STEPS, steps)
    trial.set_user_attr(names.SECONDS, 65.0 + number)
    trial.set_user_attr(names.WHY, REASONS[ends])
    if len(objectives) == 1:
        trial.report(values[RUNGS[0]], RUNGS[0])
    if ends in STATES:
        study.tell(trial, state=STATES[ends])
    elif ends != "running":
        figures = [0.0, 0.0] if ends == "diverged" else [values[steps], 100.0 / trial.params[K]]
        study.tell(trial, figures[: len(objectives)])


def _overrides(trial: Trial) -> list[str]:
    values = {
        K: trial.suggest_categorical(K, [128, 32, 64]),
        MOMENTUM: trial.suggest_float(MOMENTUM, 0.9, 0.999),
        WEIGHT: trial.suggest_float(WEIGHT, 0.1, 10.0, log=True),
    }
    return [f"{name}={value}" for name, value in values.items()]


def _write_run(root: Path, config: Config, number: int, steps: int) -> dict[int, float]:
    """Run folder of a trial; returns its values by step: best for a weight of 1, and for a high momentum."""
    run = Path(names.trial_folder(str(root), number))
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(config.to_dict()))))
    level = 0.6 - 0.1 * abs(math.log10(config.loss.w_scd)) + 0.5 * (config.schedule.ema_momentum - 0.95)
    plan = derive_plan(config, 72)
    log = RunLog(str(run), config, plan, 0, run / "local")
    values = {}
    for step in range(5, steps + 1, 5):
        value = values[step] = level * (1 - math.exp(-step / 20))
        log.metrics(
            {"step": step, "epoch": step / 9, "loss": 10.0 - value, "loss_vid": 4.0, "loss_img": 4.0, "loss_scd": 2.0}
            | {"lr": 1e-3, "grad_norm": 1.5, "rank_me": 12.0, "clips_per_s": 12.5, "data_wait_share": 0.01}
            | {METRIC: value}
        )
    log.close()
    return values
