"""The trial's encoder taught by the labels of the videos that pretraining sees: the ceiling of what the steps can do.

A linear layer on the mean patch feature tells the ejection fraction and whether the heart is abnormal; it is thrown
away, and the frozen encoder is then asked as every other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from trial import Trial

from discovr_ray.config import Config, derive_plan
from discovr_ray.data.clip import Clip, load_clip
from discovr_ray.data.manifest import read_manifest
from discovr_ray.errors import ConfigError
from discovr_ray.model.masks import normalise
from discovr_ray.model.vit import Encoder, video_spec
from discovr_ray.model.weights import CARD_FILE, load_encoder, make_card, pack, write_encoder

RATE, WEIGHT_DECAY, WARMUP_STEPS = 1e-3, 0.05, 50
THREADS = 2


class Batch(NamedTuple):
    clips: Tensor  # [B, 3, T, H, W], normalised
    ef: Tensor  # [B], in deviations from the mean
    abnormal: Tensor  # [B], 0 or 1


def taught(trial: Trial) -> str:
    """Folder of the encoder, after as many steps and clips as pretraining has; what is done is not done again.

    Errors:
        ConfigError: the encoder that is there was taught for another number of steps.
    """
    config = trial.config
    folder = trial.output / config.run.name
    rows = read_manifest(config.data.manifest).to_pylist()
    num_steps = derive_plan(config, len(rows)).total_steps
    if (folder / CARD_FILE).exists():  # written last
        if (there := load_encoder(folder).card.step) != num_steps:
            raise ConfigError([f"{folder} is finished: {there} steps, not {num_steps}; choose another folder"])
        return str(folder)
    torch.manual_seed(config.run.seed)
    encoder, head = Encoder(video_spec(config)), nn.Linear(config.model.width, 2)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1, (step + 1) / WARMUP_STEPS) * (1 + math.cos(math.pi * step / num_steps)) / 2
    )
    for step, batch in enumerate(_batches(config, rows, num_steps), start=1):
        ef, abnormal = head(encoder(batch.clips).patches.mean(dim=1)).unbind(dim=1)
        loss = functional.mse_loss(ef, batch.ef) + functional.binary_cross_entropy_with_logits(abnormal, batch.abnormal)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == num_steps:
            print(f"taught by labels: step {step}/{num_steps}, loss {loss.item():.3f}", flush=True)
    weights = pack(encoder.state_dict())
    folder.mkdir(parents=True, exist_ok=True)
    write_encoder(
        folder, make_card(video_spec(config), config.data, weights, step=num_steps, origin="taught by labels"), weights
    )
    return str(folder)


def _batches(config: Config, rows: list[dict[str, Any]], num_steps: int) -> Iterator[Batch]:
    """Every epoch shows each video once, in an order and with a window of its own."""
    labels = [json.loads(row["labels"]) for row in rows]
    ef = torch.tensor([of["ef"] for of in labels], dtype=torch.float32)
    abnormal = torch.tensor([float(of["abnormal"]) for of in labels])
    generator = np.random.default_rng(config.run.seed)
    size = min(config.engine.global_batch, len(rows))
    with ThreadPoolExecutor(THREADS) as pool:

        def read(row: int) -> Future[Clip]:
            return pool.submit(load_clip, rows[row], config.data, generator.random())

        chosen = islice(_orders(len(rows), size, generator), num_steps + 1)
        decoding = ((some, [read(row) for row in some]) for some in chosen)
        for (some, waiting), _ in pairwise(decoding):  # the next ones are decoded meanwhile
            frames = torch.from_numpy(np.stack([item.result().frames for item in waiting]))
            yield Batch(normalise(frames, config.data), (ef[some] - ef.mean()) / ef.std(), abnormal[some])


def _orders(count: int, size: int, generator: np.random.Generator) -> Iterator[list[int]]:
    """Without end: `size` of `count` rows, each once an epoch but for an incomplete last batch."""
    while True:
        order = generator.permutation(count).tolist()
        yield from (order[start : start + size] for start in range(0, count - size + 1, size))
