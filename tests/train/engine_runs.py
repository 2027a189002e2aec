"""What the ranks of test_engine.py do: the real model, tiny, trained on data that follows from the step alone."""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
import resource
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from discovr_ray.config import Config, parse_config
from discovr_ray.errors import CheckpointError
from discovr_ray.model.discovr import Student, Teacher
from discovr_ray.train import checkpoint, deepspeed_config, ranks
from discovr_ray.train.checkpoint import LocalCheckpoint, TrainState
from discovr_ray.train.engine import Engine

GLOBAL_BATCH = 8
STEPS, SAVED_AT = 4, 2
MOMENTUM = 0.9
TINY = {
    "data": {"num_frames": 4, "image_size": 32},
    "mask": {"video_ratio": 0.5, "image_ratio": 0.5},
    "model": {
        "width": 24,
        "depth": 2,
        "heads": 2,
        "decoder_width": 16,
        "decoder_depth": 1,
        "decoder_heads": 2,
        "head_hidden": 20,
        "head_bottleneck": 8,
        "head_outputs": 12,
        "num_prototypes": 5,
    },
    # Adam makes a full step even of a gradient that is all rounding error; eps keeps such steps small
    "optim": {"eps": 1e-4},
    "engine": {"global_batch": GLOBAL_BATCH, "micro_batch": 4},
}


class Result(NamedTuple):
    losses: list[float]
    norms: list[float]
    student: dict[str, torch.Tensor]
    teacher: dict[str, torch.Tensor]


def configure(stage: int, precision: str = "fp32", micro_batch: int = 4, clip: float = 0.0) -> Config:
    config = parse_config(TINY)
    engine = dataclasses.replace(config.engine, zero_stage=stage, precision=precision, micro_batch=micro_batch)
    return dataclasses.replace(config, engine=engine, optim=dataclasses.replace(config.optim, grad_clip_norm=clip))


def build(config: Config, seed: int = 0) -> Engine:
    deepspeed_config.PERSISTENT_ELEMENTS = 40  # so that the tiny matrices are partitioned, and vectors are not
    torch.manual_seed(seed + 10 * ranks.rank())  # ranks must be made equal by the engine
    return Engine(Student(config), Teacher(config), config, ranks.world_size(), torch.device("cpu"))


def train(engine: Engine, config: Config, first: int, last: int) -> Result:
    """Steps first .. last - 1, like the loop: passes, step, teacher, centres."""
    losses, norms = [], []
    size, world = config.engine.micro_batch, ranks.world_size()
    batch = config.engine.global_batch
    passes = batch // (size * world)
    for step in range(first, last):
        clips = torch.randn(batch, 3, 4, 32, 32, generator=torch.Generator().manual_seed(step))
        total = torch.zeros(())
        mine = [clips.split(size)[index * world + ranks.rank()] for index in range(passes)]
        if passes > 1:  # the loop looks at all passes without gradient first
            with torch.no_grad():
                for clips_of_pass in mine:
                    share_of_loss(engine, clips_of_pass, num_views=0)
        for clips_of_pass in mine:
            loss = share_of_loss(engine, clips_of_pass)
            engine.backward(loss * (world * passes))
            total += loss.detach()
        dist.all_reduce(total)
        norms.append(engine.step(1e-2))
        engine.update_teacher(MOMENTUM)
        engine.teacher.video_centre.lerp_(torch.full((12,), float(step)), 0.1)
        losses.append(float(total))
    return Result(losses, norms, engine.student_state(), engine.teacher_state())


def share_of_loss(engine: Engine, clips: torch.Tensor, num_views: int = 1) -> torch.Tensor:
    target = engine.forward_teacher(clips)
    video_visible = torch.tensor([[0, 1, 4, 5], [2, 3, 6, 7]])[:, None].expand(2, len(clips), 4)
    image_visible = torch.tensor([[1, 2]])[:, None].expand(1, 4 * len(clips), 2)
    views = (video_visible[1 - num_views :], image_visible[:num_views])
    output = engine.forward_student(clips, target.image_features, *views)
    if num_views == 0:
        return output.video_scores.sum()
    video = ((output.video_logits.float() - target.video_logits.float().roll(1, -1)) ** 2).sum()
    image = ((output.image_logits.float() - target.image_logits.float().roll(1, -1)) ** 2).sum()
    scores = ((output.video_scores - output.image_scores.roll(1, -1)) ** 2).sum()
    return (video + image + scores) / GLOBAL_BATCH


def folder_of(base: Path, stage: int, passes: int = 1) -> Path:
    return base / f"stage_{stage}_passes_{passes}" / checkpoint.folder_name(SAVED_AT)


def all_stages(rank: int, base: Path) -> dict[Any, Any]:
    """(stage, kind, passes per step): both precisions, clipping, checkpoints, NaN; then what else was seen."""
    results: dict[Any, Any] = {}
    for stage in range(4):
        config = configure(stage, "bf16")
        results[stage, "bf16", 1] = train(build(config), config, 0, STEPS)
        config = dataclasses.replace(config, engine=dataclasses.replace(config.engine, recompute_activations=True))
        results[stage, "recomputed", 1] = train(build(config), config, 0, STEPS)
        for passes in (1, 2):
            config = configure(stage, micro_batch=4 // passes)
            results[stage, "fp32", passes] = train(build(config), config, 0, STEPS)
            config = configure(stage, micro_batch=4 // passes, clip=0.05)
            engine = build(config)
            first = skip_nan(engine, passes)  # before AdamW has any state
            results[stage, "clipped", passes] = train(engine, config, 0, STEPS)
            results[stage, "skipped and clipped", passes] = (first, skip_nan(engine, passes))
            config = configure(stage, micro_batch=4 // passes)
            engine = build(config)
            train(engine, config, 0, SAVED_AT)
            engine.save(folder_of(base, stage, passes))
            results[stage, "skipped", passes] = skip_nan(engine, passes)
            results[stage, "after saving", passes] = train(engine, config, SAVED_AT, STEPS)
    results["built"] = os.path.exists(os.environ["TORCH_EXTENSIONS_DIR"])
    return results


class Skip(NamedTuple):
    norm: float
    weights_stayed: bool
    steps_counted: int


def skip_nan(engine: Engine, passes: int) -> Skip:
    """A step with NaN in rank 0's gradient of the first pass alone."""
    before, counted = engine.student_state(), engine._shards.student.steps()
    for index in range(passes):
        loss = share_of_loss(engine, torch.ones(4 // passes, 3, 4, 32, 32))
        engine.backward(loss * (float("nan") if ranks.rank() == 0 and index == 0 else 1.0))
    norm = engine.step(1e-2)
    after = engine.student_state()
    stayed = all(torch.equal(before[name], after[name]) for name in before)
    return Skip(norm, stayed, engine._shards.student.steps() - counted)


def load_all_stages(rank: int, base: Path) -> dict[tuple[int, int], Result]:
    """(stage, passes), in new processes: a model that starts elsewhere, the checkpoint, and the remaining steps."""
    results = {}
    for stage, passes in itertools.product(range(4), (1, 2)):
        config = configure(stage, micro_batch=4 // passes)
        engine = build(config, seed=99)
        engine.load(LocalCheckpoint(folder_of(base, stage, passes), state_of(config, SAVED_AT)))
        results[stage, passes] = train(engine, config, SAVED_AT, STEPS)
    return results


def accumulations(rank: int) -> dict[tuple[int, int], Result]:
    """(stage, micro batch) on one rank: the same global batch in one, two and four passes."""
    results = {}
    for stage in range(4):
        for micro_batch in (8, 4, 2):
            config = configure(stage, micro_batch=micro_batch)
            results[stage, micro_batch] = train(build(config), config, 0, STEPS)
    return results


def sharded_update(rank: int) -> dict[str, Any]:
    """One stage 3 update against the same formula on gathered tensors, and the collectives that either needs."""
    config = configure(3)
    engine = build(config)
    train(engine, config, 0, 1)
    train(engine, config, 1, 2)
    student, before = engine.student_state(), engine.teacher_state()
    with torch.profiler.profile() as update:
        engine.update_teacher(0.9999)
    with torch.profiler.profile() as gather:
        after = engine.teacher_state()
    return {
        "student": student,
        "before": before,
        "after": after,
        "held": sum(teacher.numel() for teacher, _ in engine._local_pairs()),
        "collectives of the update": collectives(update),
        "collectives of gathering": collectives(gather),
    }


def collectives(profile: torch.profiler.profile) -> list[str]:
    return [event.name for event in profile.events() if event.name.startswith(("c10d::", "gloo:", "nccl:"))]


def save_without_space(rank: int, small_disk: Path | None, base: Path) -> list[str]:
    """Rank 1 has no space for its files; returns the error of each stage."""
    errors = []
    parent = small_disk if rank == 1 and small_disk else base / str(rank)
    if rank == 1 and not small_disk:  # without the right to mount a disk: files cannot grow
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
    for stage in (1, 3):
        config = configure(stage)
        engine = build(config)
        train(engine, config, 0, 1)
        try:
            engine.save(parent / "run" / checkpoint.folder_name(stage))
            errors.append("")
        except CheckpointError as error:
            errors.append(str(error))
    if rank == 1 and not small_disk:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return errors


def misfits(rank: int, base: Path) -> list[str]:
    """Errors of a checkpoint whose files are not there, and of another model's."""
    config = configure(1)
    engine = build(config)
    folder = base / checkpoint.folder_name(1)
    engine.save(folder)
    wider = dataclasses.replace(config, model=dataclasses.replace(config.model, num_prototypes=6))
    deeper = dataclasses.replace(config, model=dataclasses.replace(config.model, depth=3))
    shallower = dataclasses.replace(config, model=dataclasses.replace(config.model, depth=1))
    errors = []
    for other, directory in ((config, base / "nothing"), (wider, folder), (deeper, folder), (shallower, folder)):
        try:
            build(other).load(LocalCheckpoint(directory, state_of(config, 1)))
            errors.append("")
        except CheckpointError as error:
            errors.append(str(error))
    return errors


class Payload:
    """A pickle that leaves a mark when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def open_planted_pickle(rank: int, base: Path) -> dict[str, Any]:
    """Save, seal, plant a pickle in place of a shard, restore and load it; then open it as the control."""
    config = configure(1, micro_batch=8)
    engine = build(config)
    train(engine, config, 0, 1)
    folder = base / "run" / checkpoint.folder_name(1)
    engine.save(folder)
    checkpoint.seal(str(folder), checkpoint.describe(folder), state_of(config, 1))
    whole = checkpoint.restore(str(base / "run"), base / "local", engine.needs)
    shard = folder / "student_zero1_0_of_1.safetensors"
    size = shard.stat().st_size
    torch.save(Payload(base / "opened"), shard, _use_new_zipfile_serialization=False)  # bears bytes after its end
    with open(shard, "ab") as file:
        file.write(bytes(size - shard.stat().st_size))
    restored = checkpoint.restore(str(base / "run"), base / "local", engine.needs)
    error = ""
    try:
        engine.load(LocalCheckpoint(folder, state_of(config, 1)))
    except CheckpointError as caught:
        error = str(caught)
    opened = (base / "opened").exists()
    torch.load(io.BytesIO(shard.read_bytes()), weights_only=False)  # by the name it would read safetensors
    return {
        "whole": whole,
        "restored": restored,
        "error of loading": error,
        "opened": opened,
        "would act": (base / "opened").exists(),
    }


def state_of(config: Config, step: int, **changes: Any) -> TrainState:
    values: dict[str, Any] = {
        "step": step,
        "samples_seen": step * GLOBAL_BATCH,
        "num_clips": 64,
        "world_size": ranks.world_size(),
        "zero_stage": config.engine.zero_stage,
        "config": config.to_dict(),
    }
    return TrainState(**{**values, **changes})
