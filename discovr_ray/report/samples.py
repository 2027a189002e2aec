"""A few clips with what the model sees in them, stored with the last checkpoint and drawn by the run's page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from discovr_ray.config import Config
from discovr_ray.model.discovr import Teacher, explain
from discovr_ray.model.heads import Prototypes
from discovr_ray.model.masks import normalise

if TYPE_CHECKING:  # the stream imports Ray, which drawing does not need
    from discovr_ray.data.stream import MicroBatch

SAMPLES_FILE = "samples.npz"
NUM_SAMPLES = 4


def write_samples(
    folder: Path, config: Config, teacher_state: dict[str, Tensor], student_state: dict[str, Tensor], batch: MicroBatch
) -> None:
    """Write samples.npz for the first good clips of a micro-batch, computed on the CPU.

    frames uint8 [n, T, H, W]; attention float32 [n, T', h, w]: CLS attention of the video teacher; prototypes int32
    [n, T', h, w]: nearest prototype of the image teacher; clip_ids [n]. T', h, w count tokens.
    """
    good = [place for place, weight in enumerate(batch.weights.tolist()) if weight > 0][:NUM_SAMPLES]
    teacher, prototypes = _models(config, teacher_state, student_state)
    frames = batch.frames[good]
    explanation = explain(teacher, prototypes, normalise(frames, config.data))
    side = config.data.image_size // config.model.patch_size
    shape = (len(good), config.data.num_frames // config.model.tubelet_size, side, side)
    np.savez_compressed(
        folder / SAMPLES_FILE,
        frames=frames.numpy(),
        attention=explanation.attention.reshape(shape).float().numpy(),
        prototypes=explanation.prototypes.reshape(shape).to(torch.int32).numpy(),
        clip_ids=np.array([batch.clip_ids[place] for place in good]),
    )


def _models(
    config: Config, teacher_state: dict[str, Tensor], student_state: dict[str, Tensor]
) -> tuple[Teacher, Prototypes]:
    teacher, prototypes = Teacher(config), Prototypes(config.model)
    teacher.load_state_dict(teacher_state)
    name = "prototypes."
    prototypes.load_state_dict(
        {key[len(name) :]: value for key, value in student_state.items() if key.startswith(name)}
    )
    return teacher.eval(), prototypes
