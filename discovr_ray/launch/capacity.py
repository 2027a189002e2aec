"""What a run needs past one machine, as arithmetic: docs/scaling.md has the formulas, jobs/plan.py prints the table.

Nothing here was measured on a GPU: how many clips a second one takes is an input.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple

from discovr_ray.config import Config, derive_plan
from discovr_ray.errors import ConfigError
from discovr_ray.train.estimate import FP32, MemoryEstimate, estimate_memory
from discovr_ray.train.goodput import FailureCosts, best_interval_s, expected_goodput

GIB = 2**30
# CPU milliseconds from the file to the uint8 batch, and bytes of one file: docs/data.md, "Speed"
SOURCES: dict[str, tuple[float, float]] = {
    "mjpeg-disk": (4.6, 0.7e6),
    "mjpeg-s3": (7.6, 0.7e6),
    "converted": (5.0, 0.7e6),
    "h264-112": (27.0, 0.1e6),
    "dicom": (76.0, 8.0e6),
    "h264-800x600": (1230.0, 2.0e6),
}
RAY_MS = 1.5  # CPU of Ray and of handing over, a clip (docs/data.md)
DECODE_BUSY = 0.9  # share of the time that a decode CPU decodes
MANIFEST_BYTES = 202  # of a row, in the object store (benchmarks/driver_scale.py)
MIN_READ_AHEAD = 256 * 2**20  # as data/stream/feeder.py
BLOCK_BYTES = 32 * 2**20  # as data/stream/feeder.py
COPY_BYTES_PER_S = 1.8e9  # of the pause of a save (benchmarks/checkpoint.py: 3.55 GB in 2.0 s)
FRAMEWORK_BYTES = 2.5 * GIB  # of a GPU: CUDA, NCCL, buckets; not measured
MIN_MICRO_BATCH = 4  # below, the global batch grows instead


@dataclass(frozen=True)
class Site:
    """What differs from place to place; every number can be given to jobs/plan.py."""

    clips_per_gpu_s: float  # training speed of one GPU, at its best micro-batch
    source: str = "mjpeg-s3"  # of SOURCES
    efficiency: float = 0.9  # share of that speed that is left beside other GPUs; 1 for a single one
    gpu_gib: float = 24.0
    gpus_per_node: int = 4
    gpu_price: float = 1.0  # for an hour, in any currency
    cpu_price: float = 0.03  # of a decode CPU, for an hour
    head_price: float = 0.2  # for an hour
    upload_bytes_per_s: float = 100e6  # of one node, to the storage of the runs
    node_mtbf_h: float = 24.0  # mean time until a node is lost or reclaimed
    restart_s: float = 300.0  # from a loss until training goes on: a node, its packages, loading


class Need(NamedTuple):
    """Of one run."""

    gpus: int
    clips: int
    epochs: int
    global_batch: int
    micro_batch: int
    steps: int
    zero_stage: int
    gpu_bytes: float  # of one GPU
    decode_cpus: int
    object_store_bytes: float  # of all decode nodes together: clips on their way
    manifest_bytes: float  # beside that, in the object store of each node that decodes
    read_bytes_per_s: float  # from the storage of the clips
    node_bytes_per_s: float  # frames into one GPU node
    gradient_bytes_per_s: float  # of one GPU, to the others and back
    checkpoint_bytes: float
    interval_steps: int
    lost_share: float  # of the time: pauses of saves, work done again, restarts
    hours: float  # infinite: nodes are lost faster than a restart takes
    price: float


def needs(config: Config, site: Site, gpus: int, clips: int, epochs: int) -> Need:
    """What a run of `config` needs on `gpus` GPUs over `clips` clips.

    Errors:
        ConfigError: an impossible number, or a model that no ZeRO stage brings into the GPU's memory.
    """
    _check(site, gpus, clips, epochs)
    config = _fitted(config, gpus, clips, epochs)
    config, memory = _smallest_stage(config, site)
    plan, engine = derive_plan(config, clips), config.engine
    rate = gpus * site.clips_per_gpu_s * (site.efficiency if gpus > 1 else 1.0)
    step_s = engine.global_batch / rate
    decode_ms, clip_bytes = SOURCES[site.source]
    decode_cpus = math.ceil(rate * (decode_ms + RAY_MS) / 1000 / DECODE_BUSY)
    frames_bytes = config.data.num_frames * config.data.image_size**2
    saved = _saved_bytes(memory, config)
    nodes = math.ceil(gpus / site.gpus_per_node)
    costs = FailureCosts(
        failure_interval_s=site.node_mtbf_h * 3600 / nodes,
        restart_s=site.restart_s,
        save_pause_s=saved / gpus / COPY_BYTES_PER_S,
        save_delay_s=saved / nodes / site.upload_bytes_per_s,
    )
    interval_steps = max(1, min(plan.total_steps, round(best_interval_s(costs) / step_s)))
    goodput = expected_goodput(interval_steps * step_s, costs)
    hours = plan.total_steps * step_s / 3600 / goodput if goodput else math.inf
    hourly = gpus * site.gpu_price + decode_cpus * site.cpu_price + site.head_price
    return Need(
        gpus=gpus,
        clips=clips,
        epochs=epochs,
        global_batch=engine.global_batch,
        micro_batch=engine.micro_batch,
        steps=plan.total_steps,
        zero_stage=engine.zero_stage,
        gpu_bytes=memory.total + FRAMEWORK_BYTES,
        decode_cpus=decode_cpus,
        object_store_bytes=_read_ahead_bytes(config, frames_bytes, decode_cpus),
        manifest_bytes=clips * MANIFEST_BYTES,
        read_bytes_per_s=rate * clip_bytes,
        node_bytes_per_s=rate / nodes * frames_bytes,
        gradient_bytes_per_s=2 * FP32 * memory.student_parameters * (gpus - 1) / gpus / step_s,
        checkpoint_bytes=saved,
        interval_steps=interval_steps,
        lost_share=1 - goodput,
        hours=hours,
        price=hours * hourly,
    )


def _check(site: Site, gpus: int, clips: int, epochs: int) -> None:
    problems = [f"source = {site.source!r}: one of {', '.join(SOURCES)}"] if site.source not in SOURCES else []
    problems += [
        f"{name} = {value:g}: must be at least 1"
        for name, value in (("gpus", gpus), ("clips", clips), ("epochs", epochs), ("gpus_per_node", site.gpus_per_node))
        if value < 1
    ]
    above = ("clips_per_gpu_s", "efficiency", "gpu_gib", "upload_bytes_per_s", "node_mtbf_h")
    problems += [f"{name} = {getattr(site, name):g}: must be above 0" for name in above if not getattr(site, name) > 0]
    if problems:
        raise ConfigError(problems)


def _fitted(config: Config, gpus: int, clips: int, epochs: int) -> Config:
    """The run on so many GPUs: the same global batch with smaller micro-batches, as long as those are no dwarfs."""
    engine, run = config.engine, config.run
    micro_batch = min(engine.micro_batch, max(MIN_MICRO_BATCH, engine.global_batch // gpus))
    global_batch = max(1, round(engine.global_batch / (gpus * micro_batch))) * gpus * micro_batch
    if global_batch > clips:
        raise ConfigError([f"clips = {clips}: fewer than one global batch of {global_batch} on {gpus} GPUs"])
    return dataclasses.replace(
        config,
        engine=dataclasses.replace(engine, micro_batch=micro_batch, global_batch=global_batch),
        run=dataclasses.replace(run, workers=gpus, use_gpu=True),
        schedule=dataclasses.replace(config.schedule, epochs=epochs, max_steps=0),
    )


def _smallest_stage(config: Config, site: Site) -> tuple[Config, MemoryEstimate]:
    """With the lowest ZeRO stage that fits: each one shards more, and sends more. A single GPU has nothing to shard."""
    room = site.gpu_gib * GIB - FRAMEWORK_BYTES
    for stage in (1, 2, 3) if config.run.max_workers > 1 else (0,):
        found = dataclasses.replace(config, engine=dataclasses.replace(config.engine, zero_stage=stage))
        memory = estimate_memory(found)
        if memory.total <= room:
            return found, memory
    raise ConfigError(
        [
            f"gpu_gib = {site.gpu_gib:g}: the run needs {(memory.total + FRAMEWORK_BYTES) / GIB:.1f} GiB on each of "
            f"{config.run.max_workers} GPUs; smaller with engine.micro_batch or engine.recompute_activations=true"
        ]
    )


def _saved_bytes(memory: MemoryEstimate, config: Config) -> float:
    """Of one checkpoint: weights and two moments of the students, the teachers, and the encoder to take home."""
    whole = dataclasses.replace(config, run=dataclasses.replace(config.run, workers=1))
    teachers = estimate_memory(whole).teachers
    return 3 * FP32 * memory.student_parameters + 1.5 * teachers


def _read_ahead_bytes(config: Config, frames_bytes: int, decode_cpus: int) -> float:
    """Decoded clips that wait or are under way, as the feeder bounds them."""
    micro_batch_bytes = config.engine.micro_batch * frames_bytes
    length = max(1, BLOCK_BYTES // micro_batch_bytes)
    prefetched = math.ceil(config.data.prefetch_batches / length)
    read_ahead = 4 * length * micro_batch_bytes * (config.run.max_workers * prefetched + decode_cpus)
    return max(MIN_READ_AHEAD, read_ahead)
