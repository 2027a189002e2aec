"""What the ranks of test_loop.py do: the real loop, engine and model on clips made up from the plan, without Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from discovr_ray.config import Config, derive_plan, parse_config
from discovr_ray.data.plan import plan_stream
from discovr_ray.data.stream import ClipFailure, MicroBatch
from discovr_ray.model.discovr import Student, Teacher
from discovr_ray.randomness import clip_key, hash_words
from discovr_ray.train import ranks
from discovr_ray.train.engine import Engine
from discovr_ray.train.health import Health
from discovr_ray.train.loop import train
from discovr_ray.train.quarantine import Quarantine

NUM_CLIPS = 24
TINY: dict[str, dict[str, Any]] = {
    "data": {"num_frames": 4, "image_size": 32, "max_bad_fraction": 0.2},
    "mask": {"video_views": 2, "image_views": 2, "video_ratio": 0.5, "image_ratio": 0.5},
    "model": {
        "size": "tiny",
        "width": 24,
        "depth": 2,
        "heads": 2,
        "decoder_width": 12,
        "decoder_depth": 1,
        "decoder_heads": 2,
        "head_hidden": 32,
        "head_bottleneck": 16,
        "head_outputs": 40,
        "num_prototypes": 20,
    },
    # weights move by up to 1e-2 a step; eps as in test_loop.WEIGHTS
    "optim": {"lr": 1e-2 * 256 / 8, "eps": 1e-4},
    "schedule": {"epochs": 4, "warmup_epochs": 1, "ema_momentum": 0.9},
    "engine": {"zero_stage": 0, "precision": "fp32", "global_batch": 8, "micro_batch": 8},
    "run": {"log_every_steps": 1},
    "checkpoint": {"every_steps": 3},
}


def tiny_config(**sections: dict[str, Any]) -> Config:
    return parse_config({name: {**TINY.get(name, {}), **sections.get(name, {})} for name in TINY | sections})


def frames_of(config: Config, clip_id: str, epoch: int) -> np.ndarray:
    """Pixels that depend on the clip alone, as a decoder's do: a bright bar that moves."""
    size, frames = config.data.image_size, config.data.num_frames
    noise = hash_words(clip_key(clip_id), np.arange(frames * size * size, dtype=np.uint64)) >> np.uint64(58)
    pixels = noise.astype(np.uint8).reshape(frames, size, size)
    for frame in range(frames):
        pixels[frame, (clip_key(clip_id) + frame) % size] = 200
    return pixels


class LocalContext:
    """The loop's context without Ray: clips in the order of the real plan, records kept in memory."""

    def __init__(self, config: Config, bad: Sequence[str] = (), stop_after: int = -1) -> None:
        self.rank, self.world_size, self.device = ranks.rank(), ranks.world_size(), torch.device("cpu")
        self.records: list[dict[str, float]] = []
        self.saved: list[int] = []
        self.failures: list[ClipFailure] = []
        self.quarantined_at: list[int] = []
        self.seen: list[list[str]] = []
        self._config = config
        self._bad = set(bad)
        self._stop_after = stop_after

    def steps(self, start_step: int) -> Iterator[list[MicroBatch]]:
        run_plan = derive_plan(self._config, NUM_CLIPS)
        plan = plan_stream(self._config, run_plan, self.world_size, start_step)
        for step in range(start_step, run_plan.total_steps):
            first = step * plan.micro_batches_per_step
            numbers = range(first + self.rank, first + plan.micro_batches_per_step, self.world_size)
            batches = [self._batch(plan.assignment(number), step) for number in numbers]
            self.seen.append([clip_id for batch in batches for clip_id in batch.clip_ids])
            yield batches

    def _batch(self, assignment: Any, step: int) -> MicroBatch:
        ids = [f"clip-{row}" for row in assignment.rows.tolist()]
        weights = np.array([clip_id not in self._bad for clip_id in ids], np.float32)
        frames = np.stack([frames_of(self._config, clip_id, assignment.epoch) for clip_id in ids])
        frames[weights == 0] = 0
        return MicroBatch(
            frames=torch.from_numpy(frames),
            clip_ids=ids,
            clip_keys=np.array([clip_key(clip_id) for clip_id in ids], np.int64),
            epoch=assignment.epoch,
            step=step,
            weights=weights,
            padded_frames=np.zeros(len(ids), np.int64),
            failures=[ClipFailure(clip_id, "damaged") for clip_id in ids if clip_id in self._bad],
        )

    def stop_requested(self) -> bool:
        return len(self.seen) == self._stop_after

    def notice_due(self) -> bool:
        return False

    def node_leaves(self) -> bool:
        raise AssertionError("asked though no notice was due")

    def record(self, values: dict[str, float]) -> None:
        self.records.append(values)

    def quarantine(self, step: int, failures: Sequence[ClipFailure]) -> None:
        self.failures.extend(failures)
        self.quarantined_at.append(step)

    def hung(self, step: int, stacks: str) -> None:
        raise AssertionError(f"hung after step {step}:\n{stacks}")

    def save(self, step: int) -> None:
        self.saved.append(step)


class Outcome(NamedTuple):
    steps: int
    records: list[dict[str, float]]
    saved: list[int]
    failures: list[ClipFailure]
    student: dict[str, torch.Tensor]
    teacher: dict[str, torch.Tensor]


def build_engine(config: Config) -> Engine:
    torch.set_num_threads(1)
    torch.manual_seed(config.run.seed)
    return Engine(Student(config), Teacher(config), config, ranks.world_size(), torch.device("cpu"))


def train_anew(config: Config, engine: Engine, context: LocalContext, quarantine: Quarantine | None = None) -> int:
    """The whole run, from its first step."""
    plan = derive_plan(config, NUM_CLIPS)
    return train(config, plan, engine, context, 0, quarantine or Quarantine(config, NUM_CLIPS), Health(config, plan))


def run_loop(rank: int, config: Config, bad: Sequence[str] = (), stop_after: int = -1) -> Outcome:
    engine = build_engine(config)
    context = LocalContext(config, bad, stop_after)
    steps = train_anew(config, engine, context)
    return Outcome(
        steps, context.records, context.saved, context.failures, engine.student_state(), engine.teacher_state()
    )
