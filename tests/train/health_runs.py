"""What the ranks of test_training_health.py do: the loop of loop_runs.py with steps that go wrong on purpose."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import saver_runs
import torch
from loop_runs import NUM_CLIPS, LocalContext, build_engine, tiny_config, train_anew

from discovr_ray.config import Config, derive_plan
from discovr_ray.config.sections import CheckpointConfig
from discovr_ray.errors import CollapseError, NonFiniteError
from discovr_ray.train import checkpoint, ranks
from discovr_ray.train.checkpoint import TrainState
from discovr_ray.train.engine import Engine
from discovr_ray.train.health import Health
from discovr_ray.train.loop import train
from discovr_ray.train.quarantine import Quarantine
from discovr_ray.train.saver import Saver


class SavingContext(LocalContext):
    """Keeps real checkpoints, and what is trained after every step."""

    def __init__(self, config: Config, engine: Engine, base: Path | None, first: int) -> None:
        super().__init__(config)
        self.health: Health | None = None
        self.trained: dict[int, dict[str, torch.Tensor]] = {}  # step -> students, teachers and centres, on rank 0
        self._engine, self._base, self._first = engine, base, first

    @property
    def step(self) -> int:
        """The one that is being done, from 1."""
        return self._first + len(self.seen)

    def stop_requested(self) -> bool:
        self.remember(self.step - 1)
        return False

    def remember(self, step: int) -> None:
        student = {f"student.{name}": value for name, value in self._engine.student_state().items()}
        self.trained[step] = student | {f"teacher.{n}": v for n, v in self._engine.teacher_state().items()}

    def save(self, step: int) -> None:
        super().save(step)
        if self._base is None:
            return
        folder = self._base / checkpoint.folder_name(step)
        self._engine.save(folder)
        if self.rank == 0:
            assert self.health
            state = TrainState(
                step=step,
                samples_seen=step * self._config.engine.global_batch,
                num_clips=NUM_CLIPS,
                world_size=ranks.world_size(),
                zero_stage=self._config.engine.zero_stage,
                config=self._config.to_dict(),
                skipped_steps=list(self.health.skipped_steps),
            )
            checkpoint.seal(str(folder), checkpoint.describe(folder), state)


class Broken(NamedTuple):
    """How a run with steps that went wrong ended."""

    error: str
    skipped: list[int]
    records: list[dict[str, float]]
    seen: list[list[str]]
    trained: dict[int, dict[str, torch.Tensor]]


def run_broken(
    rank: int,
    config: Config,
    broken: Collection[int],
    factor: float = math.nan,
    base: Path | None = None,
    first: int = 0,
) -> Broken:
    """A run whose video logits of the last rank are multiplied by `factor` in the steps `broken`.

    Continues from the checkpoint of step `first` below `base`, if that is not 0.
    """
    engine = build_engine(config)
    context = SavingContext(config, engine, base, first)
    plan = derive_plan(config, NUM_CLIPS)
    health = Health(config, plan)
    if first:
        assert base
        restored = checkpoint.fetch(checkpoint.read(str(base / checkpoint.folder_name(first))), base, engine.needs)
        engine.load(restored)
        health = Health(config, plan, restored.state.skipped_steps)
    context.health = health
    forward = engine.forward_student

    def break_step(*inputs: torch.Tensor) -> Any:
        output = forward(*inputs)
        if rank == ranks.world_size() - 1 and context.step in broken:
            return output._replace(video_logits=output.video_logits * factor)
        return output

    engine.forward_student = break_step  # type: ignore[method-assign]
    error = ""
    try:
        train(config, plan, engine, context, first, Quarantine(config, NUM_CLIPS), health)
    except (NonFiniteError, CollapseError) as caught:
        error = str(caught)
    context.remember(context.step)
    return Broken(error, health.skipped_steps, context.records, context.seen, context.trained)


def hang(rank: int, folder: Path) -> None:
    """Two steps are done and a save takes its time; then nothing happens any more."""
    from discovr_ray.train import hang as hanging

    hanging.LINGER_S = 0.0

    def keep(step: int, stacks: str) -> None:
        (folder / f"stacks_{step}.txt").write_text(stacks)

    with hanging.HangWatch(1.0, keep) as watch:
        time.sleep(1.5)  # the first step: building, compiling, filling queues
        watch.step_done(1)
        with watch.paused():
            time.sleep(1.5)
        for _ in range(8):
            time.sleep(0.2)
            watch.step_done(2)
        (folder / "alive").write_text("")
        stand_still()


def hang_in_save(folder: Path) -> None:
    """A whole run whose first save is written to a disk that does not answer, as one in the network may."""
    from discovr_ray.train import hang as hanging

    hanging.LINGER_S = 0.0
    os.mkfifo(folder / "disk")

    class Saving(LocalContext):
        saver = Saver(str(folder / "run"), CheckpointConfig(local_folder=str(folder)))

        def save(self, step: int) -> None:
            self.saver.save(saver_runs.state(step), lambda: write_for_ever)

        def hung(self, step: int, stacks: str) -> None:
            (folder / f"stacks_{step}.txt").write_text(stacks)

    def write_for_ever(unused: Path) -> None:
        (folder / "disk").write_bytes(b"nobody reads this")

    config = tiny_config(checkpoint={"every_steps": 1, "hang_timeout_s": 1.0}, storage={"outage_patience_s": 0.5})
    train_anew(config, build_engine(config), Saving(config))


def stand_still() -> None:
    time.sleep(60)
