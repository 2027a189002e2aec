"""The trial again with something changed, and its encoder asked the same questions.

Each variant has a run and features of its own below a folder of the trial's; what is done is not done again.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import ray
from trial import Spread, Trial, measures_of_encoder, pretrained
from verdicts import ENCODER, Measure

from discovr_ray.config import parse_config
from discovr_ray.data import storage
from discovr_ray.launch.ray_session import start_ray
from discovr_ray.report.probe_text import METRICS, with_interval

LOSSES = ("loss_vid", "loss_img", "loss_scd")
METRICS_FILE = "metrics.jsonl"
HEADS = ("variance in one direction, its correlation with gain", "losses at the end: video, image, SCD")


class Variant(NamedTuple):
    name: str
    folder: str
    changes: Mapping[str, Mapping[str, Any]]  # section -> field -> value
    learn: Callable[[Trial], str] = pretrained  # returns the folder of the encoder


class Found(NamedTuple):
    measures: list[Measure]  # of the encoder alone
    spread: Spread
    losses: dict[str, float]  # LOSSES at the end; empty where it was taught by something else


def run_variants(trial: Trial, variants: Sequence[Variant], folder: str, epochs: int = 0) -> dict[str, Found]:
    """Train and ask every variant; needs an initialised Ray, which may be another one afterwards.

    Args:
        folder: of all of them, below the trial's.
        epochs: of each variant; 0: as many as the trial's, or the variant's.
    Errors:
        As of trial.pretrained.
    """
    found = {}
    for variant in variants:
        print(f"prove: {folder}: {variant.name}", flush=True)
        own = changed(trial, variant, folder, epochs)
        run = variant.learn(own)
        found[variant.name] = Found(*measures_of_encoder(own, run), losses_of(run))
        heads, row = table({variant.name: found[variant.name]})
        print("; ".join(f"{head}: {cell}" for head, cell in zip(heads, row, strict=True)), flush=True)
    return found


def changed(trial: Trial, variant: Variant, folder: str, epochs: int) -> Trial:
    """The variant's configuration and folder.

    Errors:
        ConfigError: it cannot be.
    """
    output, values = trial.output / folder, trial.config.to_dict()
    for section, fields in variant.changes.items():
        values[section] |= fields
    if epochs:
        values["schedule"]["epochs"] = epochs
    values["run"] |= {"name": variant.folder, "storage_path": str(output)}
    return trial._replace(config=parse_config(values), output=output)


def in_changed_workers(change: Callable[[], None]) -> Callable[[Trial], str]:
    """Pretraining in a Ray of its own, each of whose processes calls `change` first."""

    def learn(trial: Trial) -> str:
        with _changed_workers(change):
            return pretrained(trial)

    return learn


@contextmanager
def _changed_workers(change: Callable[[], None]) -> Iterator[None]:
    ray.cloudpickle.register_pickle_by_value(inspect.getmodule(change))  # workers need not find this folder
    ray.shutdown()
    ray.init(address="local", runtime_env={"worker_process_setup_hook": change}, logging_level="WARNING")
    try:
        yield
    finally:
        ray.shutdown()
        start_ray(dashboard=True)


def losses_of(run: str) -> dict[str, float]:
    """Of the last record of a run's log; empty where it has none."""
    log = storage.join(run, METRICS_FILE)
    if not storage.exists(log):
        return {}
    last = json.loads(storage.read_bytes(log).splitlines()[-1])
    return {name: last[name] for name in LOSSES}


def table(found: Mapping[str, Found]) -> list[list[str]]:
    """Rows of text, the first one their heads."""
    titles = [f"{item.title}: {METRICS[item.metric].title}" for item in next(iter(found.values())).measures]
    rows = [
        [
            name,
            *(with_interval(item.found[ENCODER], item.metric) for item in of.measures),
            f"{of.spread.first:.0%}, {of.spread.gain:.2f}",
            ", ".join(f"{value:.2f}" for value in of.losses.values()),
        ]
        for name, of in found.items()
    ]
    return [["variant (95 % interval)", *titles, *HEADS], *rows]


def plain(found: Mapping[str, Found]) -> dict[str, Any]:
    """What prove.json holds of them."""
    return {
        name: {
            **{item.title: item.found[ENCODER]._asdict() for item in of.measures},
            "spread": of.spread._asdict(),
            "losses": of.losses,
        }
        for name, of in found.items()
    }
