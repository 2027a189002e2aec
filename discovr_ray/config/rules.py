"""Every rule a configuration must keep. Each check returns one line per violation: field, value, rule."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

from discovr_ray.config.nodes import NodeRoom, select_nodes, total_cpus
from discovr_ray.config.sections import Config

# field -> (lowest value, highest value); a bound of None is open
RANGES: dict[str, tuple[float | None, float | None]] = {
    "data.synthetic_clips": (1, None),
    "data.synthetic_seed": (0, 2**63 - 1),
    "data.num_frames": (1, None),
    "data.frame_stride": (1, None),
    "data.reference_fps": (0, None),
    "data.image_size": (1, None),
    "data.max_bad_fraction": (0, 1),
    "data.decode_cpus": (0.1, None),
    "data.max_decode_cpus": (0, None),
    "data.prefetch_batches": (1, None),
    "storage.attempts": (1, 20),
    "storage.outage_patience_s": (0, None),
    "mask.video_views": (1, None),
    "mask.image_views": (1, None),
    "mask.video_ratio": (0, 1),
    "mask.image_ratio": (0, 1),
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
    "checkpoint.max_failed_saves": (1, None),
    "health.max_skipped_in_row": (0, None),
    "health.patience_steps": (1, None),
    "health.early_share": (0, 1),
    "health.min_feature_std": (0, 1),
    "health.min_rank_me": (0, None),
    "health.min_prototype_share": (0, 1),
    "health.min_entropy_share": (0, 1),
    "health.max_entropy_share": (0, 1),
    "health.spike_factor": (1, None),
    "health.spike_window_steps": (2, None),
    "probe.every_steps": (0, None),
    "probe.k": (1, None),
    "probe.max_train": (2, None),
    "probe.max_val": (2, None),
    "run.seed": (0, 2**63 - 1),  # a 64-bit word of randomness.hash_words
    "run.workers": (1, None),
    "run.resize_interval_s": (1, None),
    "run.cpus_per_worker": (0.01, None),
    "run.gpus_per_worker": (0.01, 1),
    "run.threads_per_worker": (0, None),
    "run.log_every_steps": (1, None),
    "run.price_per_hour": (0, None),
    "run.max_failures": (-1, None),
    "run.max_failures_per_step": (0, None),
    "run.hang_timeout_s": (0, None),
    "run.claim_timeout_s": (3, None),
    "checkpoint.hang_timeout_s": (0, None),
}
ABOVE_ZERO = (
    "storage.read_timeout_s",
    "storage.connect_timeout_s",
    "storage.write_timeout_s",
    "model.mlp_ratio",
    "model.video_norm_eps",
    "model.image_norm_eps",
    "loss.student_temperature",
    "loss.teacher_temperature_start",
    "loss.teacher_temperature",
    "loss.scd_temperature",
    "loss.sinkhorn_epsilon",
    "optim.eps",
    "probe.temperature",
)
LABEL_VALUE = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"  # Ray's own rule, without its operators such as !in()
LABEL_KEY = rf"({LABEL_VALUE}/)?{LABEL_VALUE}"
BELOW_ONE = ("optim.beta1", "optim.beta2")  # AdamW divides by 1 - beta


def check_config(config: Config) -> list[str]:
    """Every rule that can be checked without data or cluster; `config` is resolved (no width of 0)."""
    return [*_check_ranges(config), *_check_values(config), *_check_shapes(config), *_check_batches(config)]


def check_clips(config: Config, num_clips: int) -> list[str]:
    """Rules that need the number of clips."""
    if num_clips < config.engine.global_batch:
        return [
            f"engine.global_batch = {config.engine.global_batch}: the manifest has only {num_clips} clips after "
            f"data.split = {config.data.split!r} and data.label_filter; an epoch must hold at least one global batch"
        ]
    return []


def check_resources(config: Config, nodes: Sequence[NodeRoom]) -> list[str]:
    """Rules that need the nodes of the cluster."""
    run, data, problems = config.run, config.data, []
    training, decoding = run.min_workers * run.cpus_per_worker, data.decode_cpus
    workers = select_nodes(nodes, run.worker_node_labels)
    for name, needed, labels in (
        ("run.workers x run.cpus_per_worker", training, run.worker_node_labels),
        ("data.decode_cpus", decoding, data.decode_node_labels),
    ):
        there = total_cpus(select_nodes(nodes, labels))
        if labels and needed > there + 1e-6:
            problems.append(f"{name} = {needed:g} CPUs: nodes with {dict(labels)} have {there:g}")
    cpus = total_cpus(
        node for node in nodes if node.matches(run.worker_node_labels) or node.matches(data.decode_node_labels)
    )
    if not problems and training + decoding > cpus + 1e-6:
        problems.append(
            f"run.workers x run.cpus_per_worker = {training:g} CPUs plus data.decode_cpus = "
            f"{decoding:g}: the cluster has {cpus:g}; without CPUs left for decoding the workers "
            "would wait for ever"
        )
    gpus = sum(node.gpus for node in workers)
    if run.use_gpu and run.min_workers * run.gpus_per_worker > gpus + 1e-6:
        each = "a GPU" if run.gpus_per_worker == 1 else f"{run.gpus_per_worker:g} GPUs"
        problems.append(f"run.workers = {run.min_workers}: each needs {each} and the cluster has {gpus:g}")
    return problems


def _value(config: Config, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def _check_ranges(config: Config) -> list[str]:
    problems = []
    for key, (low, high) in RANGES.items():
        value = _value(config, key)
        lowest, highest = value if isinstance(value, tuple) else (value, value)
        if (low is not None and not lowest >= low) or (high is not None and not highest <= high):
            rule = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
            problems.append(f"{key} = {value}: must be {rule}")
    problems += [f"{key} = {_value(config, key)}: must be above 0" for key in ABOVE_ZERO if not _value(config, key) > 0]
    problems += [f"{key} = 1: must be below 1" for key in BELOW_ONE if _value(config, key) == 1]
    return problems


def _check_values(config: Config) -> list[str]:
    data, loss = config.data, config.loss
    problems = [
        f"{section}.{name} = {value}: must be a finite number"
        for section, values in dataclasses.asdict(config).items()
        for name, value in values.items()
        if isinstance(value, float) and math.isinf(value)
    ]
    if not data.crop_scales or not all(0 < scale <= 1 for scale in data.crop_scales):
        problems.append(
            f"data.crop_scales = {list(data.crop_scales)}: each must be above 0 and at most 1, and there must be one"
        )
    if not all(math.isfinite(value) for value in data.mean):
        problems.append(f"data.mean = {list(data.mean)}: each must be a finite number")
    if not all(0 < value < math.inf for value in data.std):
        problems.append(f"data.std = {list(data.std)}: each must be above 0")
    for key in ("data.decode_node_labels", "run.worker_node_labels"):
        problems += [
            f"{key} = {{{name}: {value!r}}}: must be a plain label (letters, digits, '.', '_' and '-'); nodes match "
            "when they have the same"
            for name, value in _value(config, key).items()
            if not (re.fullmatch(LABEL_KEY, name) and re.fullmatch(LABEL_VALUE, value))
        ]
    folder = config.checkpoint.local_folder
    if folder and not folder.startswith("/"):
        problems.append(f"checkpoint.local_folder = {folder!r}: must be an absolute path on the workers' own disks")
    if loss.w_vid == loss.w_img == loss.w_scd == 0:
        problems.append("loss.w_vid = loss.w_img = loss.w_scd = 0: at least one must be above 0")
    if config.probe.every_steps > 0 and not config.probe.label:
        problems.append(f"probe.label = '': must name a label where probe.every_steps = {config.probe.every_steps}")
    if 0 < data.max_decode_cpus < data.decode_cpus:
        problems.append(
            f"data.max_decode_cpus = {data.max_decode_cpus:g}: must be 0 or at least data.decode_cpus = "
            f"{data.decode_cpus:g}"
        )
    if config.run.gpus_per_worker < 1 and config.run.max_workers > 1:
        problems.append(
            f"run.gpus_per_worker = {config.run.gpus_per_worker:g}: must be 1 where run.workers = "
            f"{config.run.workers}; NCCL takes no two workers of a run on one GPU"
        )
    patience_s = config.storage.outage_patience_s
    problems += [
        f"{key} = {_value(config, key):g}: must be 0 or above storage.outage_patience_s = {patience_s:g}; a storage "
        "that pauses is waited for"
        for key in ("run.hang_timeout_s", "checkpoint.hang_timeout_s")
        if 0 < _value(config, key) <= patience_s
    ]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", config.run.name):
        problems.append(
            f"run.name = {config.run.name!r}: must be letters, digits, '.', '_' and '-' (it names a folder)"
        )
    return problems


def _check_shapes(config: Config) -> list[str]:
    problems = []
    for divisor_key, key in (
        ("model.tubelet_size", "data.num_frames"),
        ("model.patch_size", "data.image_size"),
        ("model.heads", "model.width"),
        ("model.decoder_heads", "model.decoder_width"),
    ):
        divisor, value = _value(config, divisor_key), _value(config, key)
        if divisor > 0 and value % divisor:  # a divisor below 1 is out of its range already
            problems.append(f"{divisor_key} = {divisor}: must divide {key} = {value}")
    patches = (config.data.image_size // max(config.model.patch_size, 1)) ** 2
    for key in ("mask.video_ratio", "mask.image_ratio"):
        ratio = _value(config, key)
        if 0 <= ratio <= 1 and not 0 < int(ratio * patches) < patches:
            problems.append(
                f"{key} = {ratio}: hides {int(ratio * patches)} of {patches} patches; "
                "at least one must be hidden and one visible"
            )
    return problems


def _check_batches(config: Config) -> list[str]:
    engine, run = config.engine, config.run
    if run.min_workers > run.max_workers:
        return [f"run.workers = {run.workers}: must be [min, max], the smaller number first"]
    for workers in range(run.min_workers, run.max_workers + 1):  # a run may find itself with any of them
        per_pass = workers * engine.micro_batch
        if per_pass > 0 and engine.global_batch % per_pass:
            return [
                f"engine.global_batch = {engine.global_batch}: must be a multiple of run.workers x engine.micro_batch "
                f"= {workers} x {engine.micro_batch} = {per_pass} (the multiple is the number of accumulated passes)"
            ]
    return []
