"""The configuration of a sweep's best trial, as a run of its own that goes on to the end of its schedules."""

from __future__ import annotations

from typing import Any, NamedTuple

import yaml

from discovr_ray.config import parse_config
from discovr_ray.data import storage
from discovr_ray.report.sweep_trials import SweepResults, SweepTrial, pareto_front
from discovr_ray.sweep.folder import BEST_FILE, trial_folder

CONFIG_FILE = "config.yaml"


class BestConfig(NamedTuple):
    """A file that was written beside the page."""

    trial: SweepTrial
    uri: str

    @property
    def command(self) -> str:
        return f"python jobs/pretrain.py --config {self.uri}"


def write_best(sweep: SweepResults) -> list[BestConfig]:
    """best.yaml of the best trial; with several objectives best-<trial>.yaml for each on the Pareto front.

    A trial whose config.yaml is gone has none.

    Errors:
        ConfigError: a trial's configuration is none of this version's. StorageError: the folder cannot be written.
    """
    written = []
    alone = len(sweep.objectives) == 1
    for trial in pareto_front(sweep):
        source = storage.join(trial_folder(sweep.uri, trial.number), CONFIG_FILE)
        if not storage.exists(source):
            continue
        suffix = "" if alone else f"-{trial.number}"
        uri = storage.join(sweep.uri, BEST_FILE.replace(".yaml", f"{suffix}.yaml"))
        values = full_run(yaml.safe_load(storage.read_bytes(source)), sweep, f"{sweep.name}-best{suffix}")
        parse_config(values)
        head = f"# Trial {trial.number} of the sweep {sweep.name}, trained to the end of its schedules\n"
        storage.write_bytes(uri, (head + yaml.safe_dump(values, sort_keys=False)).encode())
        written.append(BestConfig(trial, uri))
    for uri in storage.glob(storage.join(sweep.uri, BEST_FILE.replace(".yaml", "-[0-9]*.yaml"))):
        if uri not in [best.uri for best in written]:
            storage.remove_tree(uri)  # no longer on the front
    return written


def full_run(values: dict[str, dict[str, Any]], sweep: SweepResults, name: str) -> dict[str, dict[str, Any]]:
    """A trial's configuration under a name of its own, beside the sweep, and without the sweep's limits."""
    data = values["data"]
    is_share = data["max_decode_cpus"] == data["decode_cpus"]  # the sweep's own limit, for trials side by side
    parent = sweep.uri.rpartition("/")[0] or "/"
    return {
        **values,
        "data": {**data, "max_decode_cpus": 0.0 if is_share else data["max_decode_cpus"]},
        "schedule": {**values.get("schedule", {}), "max_steps": 0},
        "run": {**values.get("run", {}), "name": name, "storage_path": parent, "resume": False},
    }
