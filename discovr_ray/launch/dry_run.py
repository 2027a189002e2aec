"""`--dry-run`: the plan and the memory of a run in words; reads the manifest, starts nothing, writes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable

import pyarrow as pa

from discovr_ray.config import Config, RunPlan, derive_plan
from discovr_ray.data.manifest import select_clips
from discovr_ray.data.synthetic import labels_of
from discovr_ray.errors import ConfigError
from discovr_ray.launch.preflight import absolute_paths, check_resume, load_clips, refuse_taken_name, run_uri
from discovr_ray.launch.start_weights import check_start_weights
from discovr_ray.train.estimate import estimate_memory

GIB = 2**30


def describe_run(config: Config) -> str:
    """Several lines for people.

    Errors:
        ConfigError, ManifestError, StorageError, RunExistsError: what would also refuse the run itself, but for the
            cluster's size, which only a running Ray knows.
    """
    config = absolute_paths(config)
    refuse_taken_name(config)
    num_clips = number_of_clips(config, check_resume)
    check_start_weights(config, run_uri(config))
    return "\n".join([*_plan_lines(config, derive_plan(config, num_clips), run_uri(config)), *_memory_lines(config)])


def number_of_clips(config: Config, check: Callable[[Config, pa.Table], None] = lambda config, clips: None) -> int:
    """That the run uses, without making any; `check` is called with those that are there.

    Errors:
        ConfigError, ManifestError: see `load_clips`.
    """
    if config.data.manifest == "synthetic":
        return _num_embedded_clips(config)
    clips = load_clips(config)
    check(config, clips)
    return int(clips.num_rows)


def _num_embedded_clips(config: Config) -> int:
    """Clips that the filters leave of the embedded data set, which need not be made for that."""
    seed = config.data.synthetic_seed
    rows = [labels_of(seed, index) for index in range(config.data.synthetic_clips)]
    labels = {label for row in rows for label in row.labels}
    if config.probe.every_steps and not config.probe.manifest and config.probe.label not in labels:
        problem = f"probe.label = {config.probe.label!r}: the synthetic clips have {', '.join(sorted(labels))}"
        raise ConfigError([problem])
    table = pa.table({"split": [row.file["Split"] for row in rows], "labels": [json.dumps(row.labels) for row in rows]})
    return int(select_clips(table, config.data.split, config.data.label_filter).num_rows)


def _plan_lines(config: Config, plan: RunPlan, uri: str) -> list[str]:
    engine, run = config.engine, config.run
    device = "GPU" if run.use_gpu else "CPU"
    fewer = f", or {run.min_workers} workers and more passes" if run.min_workers < run.max_workers else ""
    return [
        f"run          {uri}",
        f"clips        {plan.num_clips} from {config.data.manifest}, {config.data.num_frames} frames of "
        f"{config.data.image_size} px each",
        f"steps        {plan.total_steps} ({plan.steps_per_epoch} an epoch, schedules over {plan.schedule_steps})",
        f"batch        {engine.global_batch} = {run.max_workers} {device} workers x {engine.micro_batch} clips x "
        f"{plan.accumulation} passes{fewer}",
        f"engine       DeepSpeed ZeRO stage {engine.zero_stage}, {engine.precision}",
        f"peak lr      {plan.peak_lr:.3g}",
        f"checkpoints  every {config.checkpoint.every_steps} steps, the newest {config.checkpoint.keep} kept",
    ]


def _memory_lines(config: Config) -> list[str]:
    memory = estimate_memory(config)
    parts = ("weights", "gradients", "optimizer", "teachers", "activations")
    split = ", ".join(f"{name} {getattr(memory, name) / GIB:.2f}" for name in parts)
    return [
        f"parameters   {memory.student_parameters / 1e6:.1f} M trained",
        f"memory       about {memory.total / GIB:.2f} GiB a worker ({split})",
    ]
