"""What one accumulation pass costs the teachers, and what it counts."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from loop_runs import NUM_CLIPS, LocalContext, build_engine, tiny_config

from discovr_ray.config import derive_plan
from discovr_ray.train.health import Health
from discovr_ray.train.loop import train
from discovr_ray.train.objective import _nearest_counts
from discovr_ray.train.quarantine import Quarantine


def test_teachers_see_each_clip_and_each_frame_once_a_step() -> None:
    """CLS and patch tokens come from one forward pass, also where the students take a second one for the scores."""
    config = tiny_config(engine={"micro_batch": 4})
    config = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, max_steps=1))
    engine = build_engine(config)
    seen: dict[str, list[int]] = {"video": [], "image": []}
    for branch, sizes in seen.items():

        def note(module: Any, inputs: Any, output: Any, sizes: list[int] = sizes) -> None:
            sizes.append(len(inputs[0]))

        getattr(engine.teacher, branch).register_forward_hook(note)
    plan = derive_plan(config, NUM_CLIPS)
    quarantine, health = Quarantine(config, NUM_CLIPS), Health(config, plan)
    steps = train(config, plan, engine, LocalContext(config), 0, quarantine, health)
    assert steps == 1
    assert seen == {"video": [4, 4], "image": [16, 16]}  # 8 clips of 4 frames in two passes


def test_tokens_are_counted_by_their_nearest_prototype_without_failed_clips() -> None:
    scores = torch.eye(4)[torch.tensor([[0, 1, 1], [3, 3, 3], [2, 1, 0]])]  # three clips, the second failed
    assert _nearest_counts(scores, torch.tensor([1.0, 0.0, 1.0])).tolist() == [2.0, 3.0, 1.0, 0.0]
