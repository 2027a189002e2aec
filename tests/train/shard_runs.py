"""What the ranks of test_shards.py do: the tiny model of engine_runs, saved and loaded by other numbers of ranks."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from engine_runs import build, configure, state_of, train

from discovr_ray.config import Config
from discovr_ray.train import checkpoint, ranks
from discovr_ray.train.checkpoint import LocalCheckpoint
from discovr_ray.train.engine import Engine
from discovr_ray.train.shard_files import ShardContent

GLOBAL_BATCH = 12
MICRO_BATCH = {1: 3, 2: 3, 3: 4, 4: 3}  # world size -> clips; passes: 4, 2, 1, 1
SAVED_AT, STEPS = 2, 4
STAGES = range(4)
SAVING, LOADING = (1, 2), (1, 2, 3, 4)  # world sizes


class Trained(NamedTuple):
    """A state, and what training on from there gives."""

    digests: dict[str, str]  # of each whole tensor: weights, moments, teachers, centres; rank 0's
    adamw_steps: int
    losses: list[float]
    norms: list[float]


def sources(world_size: int, stage: int) -> list[tuple[int, int]]:
    """(world size, stage) of the checkpoints that this test loads: one of the same stage, one of another stage.

    test_engine.py has those of as many ranks and the same stage. All pairs of stages occur for some number of ranks.
    """
    other_stage = (stage + 1 + world_size % 3) % 4
    return [(1 if world_size == 2 else 2, stage), (SAVING[(world_size + stage) % 2], other_stage)]


def folder_of(base: Path, world_size: int, stage: int) -> Path:
    return base / f"{world_size}_ranks_stage_{stage}" / checkpoint.folder_name(SAVED_AT)


def save_all(rank: int, base: Path) -> dict[int, Trained]:
    """stage -> state after two steps, which is saved, and two more steps."""
    results = {}
    for stage in STAGES:
        config = configuration(stage)
        engine = build(config)
        train(engine, config, 0, SAVED_AT)
        folder = folder_of(base, ranks.world_size(), stage)
        engine.save(folder)
        copy = engine.snapshot()
        results[stage] = examine(engine, config)
        check_copy(copy, folder)
    return results


def check_copy(copy: list[ShardContent], folder: Path) -> None:
    """What was copied before more steps is what was saved before them."""
    other = folder.with_name("copy")
    other.mkdir(exist_ok=True)
    for content in copy:
        content.write(other)
        assert (other / content.name).read_bytes() == (folder / content.name).read_bytes(), content.name


def load_all(rank: int, base: Path) -> dict[tuple[int, int, int], Trained]:
    """(stage, saved by so many ranks, saved at stage): a model that starts elsewhere, after loading."""
    results = {}
    for stage in STAGES:
        config = configuration(stage)
        for saved_ranks, saved_stage in sources(ranks.world_size(), stage):
            engine = build(config, seed=99)
            state = state_of(config, SAVED_AT, world_size=saved_ranks, zero_stage=saved_stage)
            engine.load(LocalCheckpoint(folder_of(base, saved_ranks, saved_stage), state))
            results[stage, saved_ranks, saved_stage] = examine(engine, config)
    return results


def configuration(stage: int) -> Config:
    config = configure(stage, micro_batch=MICRO_BATCH[ranks.world_size()])
    return dataclasses.replace(config, engine=dataclasses.replace(config.engine, global_batch=GLOBAL_BATCH))


def examine(engine: Engine, config: Config) -> Trained:
    """The state as it is, then two steps."""
    digests, steps = whole_state(engine, config.engine.zero_stage)
    after = train(engine, config, SAVED_AT, STEPS)
    return Trained(digests, steps, after.losses, after.norms)


def whole_state(engine: Engine, stage: int) -> tuple[dict[str, str], int]:
    """Digests of whole tensors, gathered by DeepSpeed's own functions, and AdamW's count of steps."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    optimizer: Any = engine._engine.optimizer
    if stage in (1, 2):
        optimizer._hp_optimizer_states_linked = False  # in its first step DeepSpeed links the first group alone
        optimizer._lazy_init_hp_params_optimizer_state()
    adamw = optimizer.optimizer if stage else optimizer
    tensors = {f"teacher/{name}": tensor for name, tensor in engine.teacher_state().items()}
    for name, parameter in engine.student.named_parameters():
        if stage == 0:
            whole = {"weight": parameter, **adamw.state[parameter]}
            tensors |= {f"{kind}/{name}": whole[kind] for kind in ("weight", "exp_avg", "exp_avg_sq")}
            continue
        tensors[f"weight/{name}"] = safe_get_full_fp32_param(parameter)
        for kind in ("exp_avg", "exp_avg_sq"):
            tensors[f"{kind}/{name}"] = safe_get_full_optimizer_state(parameter, kind)
    # what the forward pass uses, which DeepSpeed keeps beside the fp32 partitions
    tensors |= {f"used/{name}": tensor for name, tensor in engine.student_state().items()}
    (steps,) = {int(state["step"]) for state in adamw.state.values()}
    return {name: digest(tensor) for name, tensor in tensors.items()}, steps


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().flatten().contiguous().numpy().tobytes()).hexdigest()
