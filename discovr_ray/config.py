"""The whole configuration of a run: typed sections, loading, and every check that needs no data.

Defaults live here and nowhere else; they are the values of the paper and its released launcher (docs/config.md).
The sections are plain frozen dataclasses, so `model/` and `objective/` can take one without any dependency; pydantic
is used only while a file is loaded.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from discovr_ray.errors import ConfigError

STRICT = {"extra": "forbid", "strict": True}
PRESET_DIR = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class DataConfig:
    """Which clips are read and how a clip becomes `num_frames` frames of `image_size` pixels."""

    __pydantic_config__: ClassVar[Any] = STRICT

    manifest: str = "synthetic"  # path or URI of manifest.parquet; "synthetic" makes the embedded data set first
    split: str = "TRAIN"  # manifest rows of this split are used; "" takes every row
    label_filter: dict[str, str | float | bool] = field(default_factory=dict)  # rows whose labels equal all of these
    synthetic_clips: int = 64  # size of the embedded data set, all splits together
    synthetic_seed: int = 0
    num_frames: int = 64  # T, frames of a clip
    frame_stride: int = 3  # source frames from one taken frame to the next, at reference_fps
    reference_fps: float = 50.0  # the stride scales with fps / reference_fps, so a clip spans the same time; 0: never
    short_clip: Literal["fit_stride", "repeat_last", "loop"] = "fit_stride"  # when the video is shorter than a window
    image_size: int = 112  # H = W, pixels
    crop_scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)  # side of the random crop, as a share of image_size
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of ImageNet, for grey repeated to 3 channels
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    decoder: Literal["auto", "decord"] = "auto"  # auto: simplejpeg for Motion-JPEG, decord for the rest
    max_bad_fraction: float = 0.001  # share of the manifest's clips that may fail before the run stops
    decode_cpus: float = 1.0  # CPUs that must stay free for decoding
    prefetch_batches: int = 4  # micro-batches decoded ahead, per worker


@dataclass(frozen=True)
class MaskConfig:
    """Masked views of the students (section 3 of the paper)."""

    __pydantic_config__: ClassVar[Any] = STRICT

    video_views: int = 4  # V of the video branch; semantic cluster distillation takes one more
    image_views: int = 4  # V of the image branch
    video_ratio: float = 0.9  # share of patches hidden in every tubelet slice (tube masks)
    image_ratio: float = 0.9  # share of patches hidden in a frame


@dataclass(frozen=True)
class ModelConfig:
    """Encoders, decoder, heads and prototypes. width, depth and heads of 0 are taken from `size`."""

    __pydantic_config__: ClassVar[Any] = STRICT

    size: Literal["tiny", "small", "base", "large", "huge", "giant"] = "base"
    width: int = 0  # D
    depth: int = 0
    heads: int = 0
    mlp_ratio: float = 0.0
    patch_size: int = 16  # pixels
    tubelet_size: int = 2  # frames in one video token
    video_qkv_bias: bool = True  # q and v only; keys never have a bias
    image_qkv_bias: bool = False
    video_norm_eps: float = 1e-6
    image_norm_eps: float = 1e-5
    decoder_width: int = 384
    decoder_depth: int = 4
    decoder_heads: int = 6
    head_hidden: int = 2048
    head_bottleneck: int = 256
    head_outputs: int = 16384  # L
    num_prototypes: int = 3000  # K


# width, depth, heads, MLP ratio: the sizes that ViT papers use under these names
MODEL_SIZES: dict[str, tuple[int, int, int, float]] = {
    "tiny": (192, 12, 3, 4.0),
    "small": (384, 12, 6, 4.0),
    "base": (768, 12, 12, 4.0),
    "large": (1024, 24, 16, 4.0),
    "huge": (1280, 32, 16, 4.0),
    "giant": (1408, 40, 16, 48 / 11),
}


@dataclass(frozen=True)
class LossConfig:
    """Weights, temperatures and the assignment (sections 3.1-3.3 of the paper)."""

    __pydantic_config__: ClassVar[Any] = STRICT

    w_vid: float = 1.0
    w_img: float = 1.0
    w_scd: float = 1.0  # swept
    student_temperature: float = 0.1
    teacher_temperature_start: float = 0.04
    teacher_temperature: float = 0.07  # reached after schedule.teacher_temperature_epochs
    centre_momentum: float = 0.9
    scd_temperature: float = 0.1
    sinkhorn_epsilon: float = 0.05
    sinkhorn_iterations: int = 10


@dataclass(frozen=True)
class OptimConfig:
    """AdamW."""

    __pydantic_config__: ClassVar[Any] = STRICT

    lr: float = 1.5e-4  # peak, per 256 clips of global batch
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.05  # not on biases, norms, tokens and prototypes
    grad_clip_norm: float = 0.0  # L2 over all parameters; 0: no clipping


@dataclass(frozen=True)
class ScheduleConfig:
    """Length of the run and everything that changes with the step."""

    __pydantic_config__: ClassVar[Any] = STRICT

    epochs: int = 400
    max_steps: int = 0  # stop after this many optimiser steps; 0: after `epochs`. Schedules keep following `epochs`
    warmup_epochs: float = 40.0  # linear, then cosine to min_lr
    min_lr: float = 1e-6
    teacher_temperature_epochs: float = 30.0
    ema_momentum: float = 0.996  # swept; cosine to ema_momentum_end
    ema_momentum_end: float = 1.0


@dataclass(frozen=True)
class EngineConfig:
    """How a step is spread over workers. Accumulation = global_batch / (run.workers x micro_batch)."""

    __pydantic_config__: ClassVar[Any] = STRICT

    zero_stage: Literal[0, 1, 2, 3] = 1
    precision: Literal["bf16", "fp32"] = "bf16"  # of the computation; weights, moments and teachers are always fp32
    global_batch: int = 256  # clips per optimiser step
    micro_batch: int = 8  # clips per worker and forward pass
    recompute_activations: bool = False  # less memory for about a third more time in the students


@dataclass(frozen=True)
class CheckpointConfig:
    __pydantic_config__: ClassVar[Any] = STRICT

    every_steps: int = 500
    keep: int = 3  # newest complete checkpoints that stay


@dataclass(frozen=True)
class RunConfig:
    """Name, place and resources of the run."""

    __pydantic_config__: ClassVar[Any] = STRICT

    name: str = "pretrain"
    storage_path: str = "runs"  # local path or URI; must be shared by all nodes
    resume: bool = False  # continue the run of this name; without it an existing name is refused
    seed: int = 0
    workers: int = 1
    use_gpu: bool = False
    cpus_per_worker: float = 1.0
    threads_per_worker: int = 0  # torch threads; 0: the node's cores shared by its workers
    log_every_steps: int = 10
    max_failures: int = 3  # worker-group restarts before the run fails


@dataclass(frozen=True)
class Config:
    """All sections. Frozen: use `dataclasses.replace` or `load_config(..., overrides)`."""

    __pydantic_config__: ClassVar[Any] = STRICT

    data: DataConfig = field(default_factory=DataConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain nested dict, as stored in checkpoints and accepted by `parse_config`."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class RunPlan:
    """What follows from a config and the number of clips; nothing here can be set."""

    num_clips: int
    steps_per_epoch: int
    total_steps: int  # where the run stops
    schedule_steps: int  # where the schedules end: epochs * steps_per_epoch
    accumulation: int
    peak_lr: float


def load_config(source: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a preset name or a YAML file, apply `section.field=value` overrides, check everything.

    Errors:
        ConfigError: the file cannot be read, or any key, type or combination is wrong; lists all of them.
    """
    values = _read_yaml(source)
    problems: list[str] = []
    for override in overrides:
        key, separator, text = override.partition("=")
        parts = key.split(".")
        if not separator or len(parts) != 2:
            problems.append(f"override {override!r}: must have the form section.field=value")
            continue
        try:
            value = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError as error:
            problems.append(f"override {override!r}: value is not valid YAML: {error}")
            continue
        section = values.setdefault(parts[0], {})
        if isinstance(section, dict):
            section[parts[1]] = value
    if problems:
        raise ConfigError(problems)
    return parse_config(values)


def parse_config(values: Mapping[str, Any]) -> Config:
    """Nested dict -> resolved, checked Config.

    Errors:
        ConfigError: unknown keys (with the nearest valid name), wrong types, impossible combinations; all together.
    """
    from pydantic import TypeAdapter, ValidationError  # only needed to load, so that model code runs without it

    try:
        # JSON mode: strict about types, yet a list is accepted where a tuple is declared
        config = TypeAdapter(Config).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise ConfigError([_explain(item) for item in error.errors()]) from None
    except TypeError as error:
        raise ConfigError(
            [f"configuration holds a value that is no plain number, text, list or mapping: {error}"]
        ) from None
    resolved = _resolve(config)
    problems = check_config(resolved)
    if problems:
        raise ConfigError(problems)
    return resolved


def check_config(config: Config) -> list[str]:
    """Every rule that can be checked without data or cluster; returns one line per violation."""
    return [*_check_ranges(config), *_check_shapes(config), *_check_batches(config)]


def check_clips(config: Config, num_clips: int) -> list[str]:
    """Rules that need the number of clips."""
    if num_clips < config.engine.global_batch:
        return [
            f"engine.global_batch = {config.engine.global_batch}: the manifest has only {num_clips} clips after "
            f"data.split = {config.data.split!r} and data.label_filter; one global batch needs more clips than that"
        ]
    return []


def check_resources(config: Config, cpus: float, gpus: float) -> list[str]:
    """Rules that need the size of the cluster: CPUs and GPUs that Ray manages."""
    problems = []
    training = config.run.workers * config.run.cpus_per_worker
    if training + config.data.decode_cpus > cpus + 1e-6:
        problems.append(
            f"run.workers x run.cpus_per_worker = {training:g} CPUs plus data.decode_cpus = {config.data.decode_cpus:g}: "
            f"the cluster has {cpus:g}; without CPUs left for decoding the workers would wait for ever"
        )
    if config.run.use_gpu and config.run.workers > gpus:
        problems.append(f"run.workers = {config.run.workers}: each needs a GPU and the cluster has {gpus:g}")
    return problems


def derive_plan(config: Config, num_clips: int) -> RunPlan:
    """Steps, accumulation and peak learning rate of a run over `num_clips` clips.

    Errors:
        ConfigError: there are fewer clips than one global batch.
    """
    problems = check_clips(config, num_clips)
    if problems:
        raise ConfigError(problems)
    engine, schedule = config.engine, config.schedule
    steps_per_epoch = num_clips // engine.global_batch
    schedule_steps = steps_per_epoch * schedule.epochs
    total_steps = min(schedule_steps, schedule.max_steps) if schedule.max_steps else schedule_steps
    return RunPlan(
        num_clips=num_clips,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        schedule_steps=schedule_steps,
        accumulation=engine.global_batch // (config.run.workers * engine.micro_batch),
        peak_lr=config.optim.lr * engine.global_batch / 256,
    )


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESET_DIR.glob("*.yaml"))


def _resolve(config: Config) -> Config:
    width, depth, heads, mlp_ratio = MODEL_SIZES[config.model.size]
    model = dataclasses.replace(
        config.model,
        width=config.model.width or width,
        depth=config.model.depth or depth,
        heads=config.model.heads or heads,
        mlp_ratio=config.model.mlp_ratio or mlp_ratio,
    )
    return dataclasses.replace(config, model=model)


# field -> (lowest value, highest value); a bound of None is open
_RANGES: dict[str, tuple[float | None, float | None]] = {
    "data.synthetic_clips": (1, None),
    "data.num_frames": (1, None),
    "data.frame_stride": (1, None),
    "data.reference_fps": (0, None),
    "data.image_size": (1, None),
    "data.max_bad_fraction": (0, 1),
    "data.decode_cpus": (0.1, None),
    "data.prefetch_batches": (1, None),
    "mask.video_views": (1, None),
    "mask.image_views": (1, None),
    "model.width": (4, None),
    "model.depth": (1, None),
    "model.heads": (1, None),
    "model.patch_size": (1, None),
    "model.tubelet_size": (1, None),
    "model.decoder_width": (4, None),
    "model.decoder_depth": (1, None),
    "model.decoder_heads": (1, None),
    "model.head_hidden": (1, None),
    "model.head_bottleneck": (1, None),
    "model.head_outputs": (2, None),
    "model.num_prototypes": (2, None),
    "loss.w_vid": (0, None),
    "loss.w_img": (0, None),
    "loss.w_scd": (0, None),
    "loss.centre_momentum": (0, 1),
    "loss.sinkhorn_iterations": (1, None),
    "optim.lr": (0, None),
    "optim.beta1": (0, 1),
    "optim.beta2": (0, 1),
    "optim.weight_decay": (0, None),
    "optim.grad_clip_norm": (0, None),
    "schedule.epochs": (1, None),
    "schedule.max_steps": (0, None),
    "schedule.warmup_epochs": (0, None),
    "schedule.min_lr": (0, None),
    "schedule.teacher_temperature_epochs": (0, None),
    "schedule.ema_momentum": (0, 1),
    "schedule.ema_momentum_end": (0, 1),
    "engine.global_batch": (1, None),
    "engine.micro_batch": (1, None),
    "checkpoint.every_steps": (1, None),
    "checkpoint.keep": (1, None),
    "run.workers": (1, None),
    "run.cpus_per_worker": (0.01, None),
    "run.threads_per_worker": (0, None),
    "run.log_every_steps": (1, None),
    "run.max_failures": (0, None),
}
_POSITIVE = (
    "model.mlp_ratio model.video_norm_eps model.image_norm_eps loss.student_temperature loss.teacher_temperature_start "
    "loss.teacher_temperature loss.scd_temperature loss.sinkhorn_epsilon optim.eps"
).split()


def _value(config: Config, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def _check_ranges(config: Config) -> list[str]:
    problems = []
    for key, (low, high) in _RANGES.items():
        value = _value(config, key)
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            rule = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
            problems.append(f"{key} = {value}: must be {rule}")
    problems += [f"{key} = {_value(config, key)}: must be above 0" for key in _POSITIVE if not _value(config, key) > 0]
    problems += [
        f"data.crop_scales = {list(config.data.crop_scales)}: each must be above 0 and at most 1, and there must be one"
        for _ in [0]
        if not config.data.crop_scales or not all(0 < scale <= 1 for scale in config.data.crop_scales)
    ]
    if not all(value > 0 for value in config.data.std):
        problems.append(f"data.std = {list(config.data.std)}: each must be above 0")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", config.run.name):
        problems.append(
            f"run.name = {config.run.name!r}: must be letters, digits, '.', '_' and '-' (it names a folder)"
        )
    return problems


def _check_shapes(config: Config) -> list[str]:
    data, mask, model = config.data, config.mask, config.model
    problems = []
    if data.num_frames % model.tubelet_size:
        problems.append(f"model.tubelet_size = {model.tubelet_size}: must divide data.num_frames = {data.num_frames}")
    if data.image_size % model.patch_size:
        problems.append(f"model.patch_size = {model.patch_size}: must divide data.image_size = {data.image_size}")
    if model.width % model.heads:
        problems.append(f"model.heads = {model.heads}: must divide model.width = {model.width}")
    if model.decoder_width % model.decoder_heads:
        problems.append(
            f"model.decoder_heads = {model.decoder_heads}: must divide model.decoder_width = {model.decoder_width}"
        )
    patches = (data.image_size // max(model.patch_size, 1)) ** 2
    for key, ratio in (("mask.video_ratio", mask.video_ratio), ("mask.image_ratio", mask.image_ratio)):
        hidden = int(ratio * patches)
        if not 0 < hidden < patches:
            problems.append(
                f"{key} = {ratio}: hides {hidden} of {patches} patches; at least one must be hidden and one visible"
            )
    return problems


def _check_batches(config: Config) -> list[str]:
    engine, run = config.engine, config.run
    per_pass = run.workers * engine.micro_batch
    if per_pass > 0 and engine.global_batch % per_pass:
        return [
            f"engine.global_batch = {engine.global_batch}: must be a multiple of run.workers x engine.micro_batch = "
            f"{run.workers} x {engine.micro_batch} = {per_pass} (the multiple is the number of accumulated passes)"
        ]
    return []


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes 1e-6 for text; this loader reads it as the number that everyone means."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _read_yaml(source: str | Path) -> dict[str, Any]:
    path = PRESET_DIR / f"{source}.yaml" if str(source) in preset_names() else Path(source)
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(
            [
                f"config {str(source)!r}: neither a preset ({', '.join(preset_names())}) nor a readable file: {error.strerror}"
            ]
        ) from None
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError([f"config {str(source)!r}: not valid YAML: {error}"]) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError([f"config {str(source)!r}: must be a mapping of sections, got {type(values).__name__}"])
    return values


def _explain(item: Any) -> str:
    """One pydantic error -> our one line: field, value, rule."""
    location = [str(part) for part in item["loc"]]
    key = ".".join(location)
    if item["type"] == "extra_forbidden" or item["type"] == "unexpected_keyword_argument":
        return f"{key}: unknown {'section' if len(location) == 1 else 'field'}{_nearest(location)}"
    message = item["msg"][0].lower() + item["msg"][1:]
    return f"{key} = {item['input']!r}: {message}"


def _nearest(location: list[str]) -> str:
    sections = {section.name: section for section in fields(Config)}
    if len(location) == 1:
        valid = list(sections)
    elif location[0] in sections:
        valid = [item.name for item in fields(getattr(Config(), location[0]))]
    else:
        return ""
    matches = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]}?" if matches else f"; valid names: {', '.join(valid)}"
