"""What the ranks of test_online_probe.py do: the real loop with the real probe, on videos that are made up."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from loop_runs import LocalContext, Outcome, build_engine, frames_of, tiny_config, train_anew

from discovr_ray.config import Config, DataConfig
from discovr_ray.data.manifest import SCHEMA, write_manifest
from discovr_ray.launch.online_probe import Loaded, OnlineProbe
from discovr_ray.train import ranks
from discovr_ray.train.engine import Engine


def probe_config(folder: Path, **sections: dict[str, Any]) -> Config:
    """Probe every 5 of 12 steps, 13 videos of TRAIN and 6 of VAL, of which the stream knows nothing."""
    rows = [
        {"clip_id": f"video-{number}", "uri": "/none", "format": "avi-mjpeg", "num_frames": 100, "fps": 50.0}
        | {"height": 32, "width": 32, "num_bytes": 9, "sha256": f"{number:064x}", "patient_id": f"p{number}"}
        | {"split": "TRAIN" if number < 13 else "VAL", "view": "", "labels": json.dumps({"bright": number % 2})}
        for number in range(19)
    ]
    path = str(folder / "labelled.parquet")
    write_manifest(pa.Table.from_pylist(rows, SCHEMA), path)
    probe = {"every_steps": 5, "label": "bright", "k": 3, "manifest": path}
    return tiny_config(**sections | {"probe": probe})


class ProbedContext(LocalContext):
    """With the probe of Ray's context; `bad` videos cannot be decoded."""

    def __init__(self, config: Config, engine: Engine, bad: Sequence[str] = (), outages: int = 0) -> None:
        super().__init__(config)
        self.asked_at: list[int] = []
        self.figures: list[dict[str, float]] = []
        self._engine, self._bad_videos, self._outages = engine, bad, outages
        self._probe = OnlineProbe(config, self._frames)

    def probe(self, step: int) -> dict[str, float]:
        self.asked_at.append(step)
        before = torch.random.get_rng_state()
        self.figures.append(self._probe.figures(self._engine))
        assert torch.equal(before, torch.random.get_rng_state()), "nobody else's random numbers change"
        return self.figures[-1]

    def _frames(self, rows: Sequence[Mapping[str, Any]], data: DataConfig) -> Loaded:
        ids = [row["clip_id"] for row in rows]
        frames = [frames_of(self._config, clip_id, 0) // (2 - int(clip_id[6:]) % 2) for clip_id in ids]
        reasons = ["damaged" if clip_id in self._bad_videos else "" for clip_id in ids]
        self._outages -= 1
        outage = "no answer" if self._outages >= 0 and ranks.rank() == ranks.world_size() - 1 else ""
        return Loaded(np.stack(frames), reasons, outage)


def run_probed(
    rank: int, config: Config, bad: Sequence[str] = (), outages: int = 0
) -> tuple[Outcome, list[int], list[dict[str, float]]]:
    engine = build_engine(config)
    context = ProbedContext(config, engine, bad, outages)
    steps = train_anew(config, engine, context)
    outcome = Outcome(
        steps, context.records, context.saved, context.failures, engine.student_state(), engine.teacher_state()
    )
    return outcome, context.asked_at, context.figures
