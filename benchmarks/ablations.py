"""What parts of the method are worth: the same training without each of them, and the encoder asked the same questions.

Each variant has a run and features of its own below DIR/ablations; what is done is not done again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import misaligned
import ray
from trial import Trial, measures_of_encoder, pretrained
from verdicts import ENCODER, Measure

from discovr_ray.config import Config, parse_config
from discovr_ray.launch.ray_session import start_ray
from discovr_ray.report.probe_text import METRICS, with_interval

WHOLE = "whole method"
MISALIGNED = "the reference's misaligned SCD"  # made by benchmarks/misaligned.py in the workers, by no setting


class Variant(NamedTuple):
    name: str
    folder: str
    changes: Mapping[str, Mapping[str, Any]]  # section -> field -> value


class Ablations(NamedTuple):
    table: list[list[str]]  # the first row is the heads
    plain: dict[str, Any]  # for prove.json


def variants_of(config: Config) -> list[Variant]:
    """The paper's ablations at this size, and the reference's mistake."""
    return [
        Variant(WHOLE, "whole", {}),
        Variant("without SCD", "no-scd", {"loss": {"w_scd": 0.0}}),
        Variant("50 % masks", "half-masks", {"mask": {"video_ratio": 0.5, "image_ratio": 0.5}}),
        Variant("short clips (a quarter of the frames)", "short-clips", {"data": {"num_frames": _short(config)}}),
        Variant(MISALIGNED, "misaligned", {}),
    ]


def run_ablations(trial: Trial, epochs: int) -> Ablations:
    """Pretrain and ask every variant; needs an initialised Ray, which is another one afterwards.

    Args:
        epochs: of each variant; 0: as many as the trial's.
    Errors:
        As of trial.pretrained.
    """
    measures = {}
    for variant in variants_of(trial.config):
        print(f"prove: ablation: {variant.name}", flush=True)
        measures[variant.name] = _run(trial, variant, epochs)
        heads, *_, row = _table(measures)
        print("; ".join(f"{head}: {cell}" for head, cell in zip(heads, row, strict=True)), flush=True)
    plain = {
        name: {measure.title: measure.found[ENCODER]._asdict() for measure in found} for name, found in measures.items()
    }
    return Ablations(_table(measures), {"epochs": epochs or trial.config.schedule.epochs, "encoders": plain})


def changed(trial: Trial, variant: Variant, epochs: int) -> Trial:
    """The variant's configuration and folder.

    Errors:
        ConfigError: it cannot be.
    """
    output, values = trial.output / "ablations", trial.config.to_dict()
    for section, fields in variant.changes.items():
        values[section] |= fields
    values["schedule"]["epochs"] = epochs or trial.config.schedule.epochs
    values["run"] |= {"name": variant.folder, "storage_path": str(output)}
    return trial._replace(config=parse_config(values), output=output)


def _run(trial: Trial, variant: Variant, epochs: int) -> list[Measure]:
    own = changed(trial, variant, epochs)
    if variant.name != MISALIGNED:
        return measures_of_encoder(own, pretrained(own))
    with _misaligned_workers():
        run = pretrained(own)
    return measures_of_encoder(own, run)


@contextmanager
def _misaligned_workers() -> Iterator[None]:
    """A Ray of its own, in whose processes tokens are paired as the reference does."""
    ray.cloudpickle.register_pickle_by_value(misaligned)  # workers need not find this folder
    ray.shutdown()
    ray.init(address="local", runtime_env={"worker_process_setup_hook": misaligned.misalign}, logging_level="WARNING")
    try:
        yield
    finally:
        ray.shutdown()
        start_ray(dashboard=True)


def _short(config: Config) -> int:
    """The paper goes from 64 frames to 16."""
    return max(config.model.tubelet_size, config.data.num_frames // 4)


def _table(measures: Mapping[str, list[Measure]]) -> list[list[str]]:
    titles = [f"{measure.title}: {METRICS[measure.metric].title}" for measure in next(iter(measures.values()))]
    rows = [
        [name, *(with_interval(measure.found[ENCODER], measure.metric) for measure in found)]
        for name, found in measures.items()
    ]
    return [["variant (95 % interval)", *titles], *rows]
