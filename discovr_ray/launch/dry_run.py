"""`--dry-run`: the plan and the memory of a run in words; reads the manifest, starts nothing, writes nothing."""

from __future__ import annotations

from discovr_ray.config import Config, RunPlan, derive_plan
from discovr_ray.data import storage
from discovr_ray.data.synthetic import split_sizes
from discovr_ray.errors import RunExistsError
from discovr_ray.launch.preflight import CONFIG_FILE, load_clips, run_uri
from discovr_ray.train.estimate import estimate_memory

GIB = 2**30


def describe_run(config: Config) -> str:
    """Several lines for people.

    Errors:
        ConfigError, ManifestError, StorageError, RunExistsError: what would also refuse the run itself.
    """
    uri = run_uri(config)
    if storage.exists(storage.join(uri, CONFIG_FILE)) and not config.run.resume:
        raise RunExistsError(f"run.name = {config.run.name!r}: {uri} already holds a run; use run.resume=true")
    return "\n".join([*_plan_lines(config, derive_plan(config, _num_clips(config)), uri), *_memory_lines(config)])


def _num_clips(config: Config) -> int:
    if config.data.manifest != "synthetic":
        return int(load_clips(config).num_rows)
    if not config.data.split:
        return config.data.synthetic_clips
    return split_sizes(config.data.synthetic_clips).get(config.data.split, 0)


def _plan_lines(config: Config, plan: RunPlan, uri: str) -> list[str]:
    engine, run = config.engine, config.run
    device = "GPU" if run.use_gpu else "CPU"
    return [
        f"run          {uri}",
        f"clips        {plan.num_clips} from {config.data.manifest}, {config.data.num_frames} frames of "
        f"{config.data.image_size} px each",
        f"steps        {plan.total_steps} ({plan.steps_per_epoch} an epoch, schedules over {plan.schedule_steps})",
        f"batch        {engine.global_batch} = {run.workers} {device} workers x {engine.micro_batch} clips x "
        f"{plan.accumulation} passes",
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
