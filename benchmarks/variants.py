"""The trial again with something changed, and its encoder asked the same questions.

Each variant has a run and features of its own below the trial's; what is done is not done again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import ray
from trial import Asked, Trial, ask_encoder, pretrained
from verdicts import ENCODER

from discovr_ray.config import Config, parse_config
from discovr_ray.launch.ray_session import start_ray
from discovr_ray.report.probe_text import METRICS, with_interval
from discovr_ray.report.run_files import read_run

FOLDER = "variants"  # below the trial's
LOSSES = ("loss_vid", "loss_img", "loss_scd")
HEADS = ("variance in one direction, its correlation with gain", "losses at the end: video, image, SCD")

Changes = Mapping[str, Mapping[str, Any]]  # section -> field -> value


class Variant(NamedTuple):
    name: str
    folder: str
    changes: Changes | Callable[[Config], Changes]
    learn: Callable[[Trial], str] = pretrained  # returns the folder of the encoder


WHOLE = Variant("whole method", "whole", {})


class Found(NamedTuple):
    asked: Asked
    losses: dict[str, float]  # LOSSES at the end; empty where it was taught by something else


def finished(trial: Trial, run: str) -> Variant:
    """The trial's own run, to stand beside the others."""
    return Variant(f"the run above, {trial.config.schedule.epochs} epochs", "run", {}, lambda _: run)


def run_variants(trial: Trial, variants: Sequence[Variant], epochs: int = 0) -> dict[str, Found]:
    """Train and ask every variant; needs an initialised Ray, which may be another one afterwards.

    Args:
        epochs: of each variant that does not say; 0: as many as the trial's.
    Errors:
        As of trial.pretrained.
    """
    found = {}
    for variant in variants:
        print(f"prove: variant: {variant.name}", flush=True)
        own = changed(trial, variant, epochs)
        run = variant.learn(own)
        found[variant.name] = Found(ask_encoder(own, run), losses_of(run))
        heads, row = table({variant.name: found[variant.name]})
        print("; ".join(f"{head}: {cell}" for head, cell in zip(heads, row, strict=True)), flush=True)
    return found


def changed(trial: Trial, variant: Variant, epochs: int) -> Trial:
    """The variant's configuration and folder.

    Errors:
        ConfigError: it cannot be.
    """
    output, values = trial.output / FOLDER, trial.config.to_dict()
    if epochs:
        values["schedule"]["epochs"] = epochs
    changes = variant.changes(trial.config) if callable(variant.changes) else variant.changes
    for section, fields in changes.items():
        values[section] |= fields
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
    """Of the last logged step of a run; empty where it has none."""
    records = read_run(run).metrics
    return {name: records[-1][name] for name in LOSSES} if records else {}


def table(found: Mapping[str, Found]) -> list[list[str]]:
    """Rows of text, the first one their heads."""
    titles = [f"{item.title}: {METRICS[item.metric].title}" for item in next(iter(found.values())).asked.measures]
    rows = [
        [
            name,
            *(with_interval(item.found[ENCODER], item.metric) for item in of.asked.measures),
            f"{of.asked.spread.first:.0%}, {of.asked.spread.gain:.2f}",
            ", ".join(f"{value:.2f}" for value in of.losses.values()),
        ]
        for name, of in found.items()
    ]
    return [["variant (95 % interval)", *titles, *HEADS], *rows]


def plain(found: Mapping[str, Found]) -> dict[str, Any]:
    """What prove.json holds of them."""
    return {
        name: {
            **{item.title: item.found[ENCODER]._asdict() for item in of.asked.measures},
            "spread": of.asked.spread._asdict(),
            "losses": of.losses,
            "knows": of.asked.knows,
        }
        for name, of in found.items()
    }
