"""What the ranks of test_elastic.py do: a part of a run of the real loop, between two checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from loop_runs import NUM_CLIPS, LocalContext, build_engine

from discovr_ray.config import Config, derive_plan
from discovr_ray.train import checkpoint, ranks
from discovr_ray.train.checkpoint import TrainState
from discovr_ray.train.health import Health
from discovr_ray.train.loop import train
from discovr_ray.train.quarantine import Quarantine


class Part(NamedTuple):
    """What one rank did: records are rank 0's alone."""

    records: list[dict[str, float]]
    clips: list[list[list[str]]]  # ids by step and micro-batch


def run_part(rank: int, config: Config, first: int, last: int, base: Path) -> Part:
    """Steps first + 1 .. last, from the checkpoint of step `first` if that is not 0, to one of step `last`."""
    engine, context = build_engine(config), LocalContext(config, stop_after=last - first)
    plan = derive_plan(config, NUM_CLIPS)
    if first:
        before = checkpoint.read(str(base / checkpoint.folder_name(first)))
        engine.load(checkpoint.fetch(before, base, engine.needs))
    train(config, plan, engine, context, first, Quarantine(config, NUM_CLIPS), Health(config, plan))
    folder = base / checkpoint.folder_name(last)
    engine.save(folder)
    if rank == 0:
        state = TrainState(
            step=last,
            samples_seen=last * config.engine.global_batch,
            num_clips=NUM_CLIPS,
            world_size=ranks.world_size(),
            zero_stage=config.engine.zero_stage,
            config=config.to_dict(),
        )
        checkpoint.seal(str(folder), checkpoint.describe(folder), state)
    size = config.engine.micro_batch
    clips = [[ids[start : start + size] for start in range(0, len(ids), size)] for ids in context.seen]
    return Part(context.records, clips)
