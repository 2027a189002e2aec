"""The kNN probe while training runs: every rank encodes its share of the videos with the teacher as it is.

Nothing of it touches the stream of clips, the gradient or torch's random numbers, so a run with the probe has the same
losses as one without. The teacher's weights are copied into an encoder of its own, whole also where ZeRO shards them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import ray
import torch
from ray.exceptions import RayError, RayTaskError

from discovr_ray.config import Config, DataConfig
from discovr_ray.data import storage, watchdog
from discovr_ray.data.clip import load_clip
from discovr_ray.data.outage import without_path
from discovr_ray.errors import ClipError, EvaluationError, StorageError
from discovr_ray.evaluate.embedding import embed_clips
from discovr_ray.evaluate.online import knn_balanced_accuracy, probe_videos
from discovr_ray.model.vit import video_spec
from discovr_ray.model.weights import PretrainedEncoder, make_card
from discovr_ray.train import ranks
from discovr_ray.train.engine import Engine

logger = logging.getLogger(__name__)

FIGURE = "knn_balanced_accuracy"
VIDEOS_PER_TASK = 8
LOST = "the process that decoded it died"

Frames = npt.NDArray[np.uint8]


class Loaded(NamedTuple):
    """Middle clips of some videos; `outage`: the storage did not answer, and the rest says nothing."""

    frames: Frames  # [n, T, S, S], zeros where there is a reason
    reasons: list[str]  # [n], why a video cannot be used, or ""
    outage: str = ""


Load = Callable[[Sequence[Mapping[str, Any]], DataConfig], Loaded]  # manifest rows -> clips


class OnlineProbe:
    """One rank's part. Its clips are decoded once and stay in memory, uint8."""

    def __init__(self, config: Config, load: Load | None = None) -> None:
        """`load`: of this rank's videos; None: in Ray tasks beside the stream's.

        Errors:
            ConfigError, ManifestError: as of evaluate.online.probe_videos.
        """
        self._config = config
        self._videos = probe_videos(config)
        self._mine = np.arange(ranks.rank(), len(self._videos.codes), ranks.world_size())
        self._load = load or load_in_tasks
        self._loaded: Loaded | None = None

    def figures(self, engine: Engine) -> dict[str, float]:
        """What the teacher knows now, the same on all ranks, which call it together; empty where there is no answer.

        A probe that cannot be answered is a warning and no reason to end a run; the next one tries again.
        """
        if not self._is_ready():
            return {}
        x = self._features(engine)
        probe = self._config.probe
        try:
            return {FIGURE: knn_balanced_accuracy(self._videos, x, probe.k, probe.temperature)}
        except EvaluationError as error:
            self._warn("no kNN probe: %s", error)
            return {}

    def _is_ready(self) -> bool:
        """Whether every rank has its clips."""
        if self._loaded is None:
            loaded = self._load(self._videos.rows.take(self._mine).to_pylist(), self._config.data)
            outages = [text for text in ranks.gathered(loaded.outage) if text]
            if outages:
                self._warn("no kNN probe this time: %s", outages[0])
                return False
            self._loaded = loaded
            ids = self._videos.rows["clip_id"].to_pylist()
            for row, reason in zip(self._mine, loaded.reasons, strict=True):
                if reason:
                    logger.warning("the kNN probe does without %s: %s", ids[row], reason)
        return True

    def _features(self, engine: Engine) -> npt.NDArray[np.float32]:
        """Of all videos, [n, D]; NaN for those that could not be decoded."""
        assert self._loaded is not None
        config, loaded = self._config, self._loaded
        with torch.random.fork_rng(devices=[]):  # making it draws weights, which are then replaced
            encoder = PretrainedEncoder(make_card(video_spec(config), config.data, b""))
        engine.copy_encoder(encoder.encoder)
        encoder = encoder.to(engine.device).eval()
        good = np.array([not reason for reason in loaded.reasons], bool)
        mine = np.full((len(self._mine), config.model.width), np.nan, np.float32)
        if good.any():
            batch = config.engine.micro_batch
            mine[good] = embed_clips(encoder, loaded.frames[good], batch, config.engine.precision).cls
        x = np.zeros((len(self._videos.codes), config.model.width), np.float32)
        for rank, found in enumerate(ranks.gathered(mine)):
            x[rank :: ranks.world_size()] = found
        return x

    def _warn(self, message: str, *values: object) -> None:
        """For what every rank sees."""
        if ranks.rank() == 0:
            logger.warning(message, *values)


def load_in_tasks(rows: Sequence[Mapping[str, Any]], data: DataConfig) -> Loaded:
    """Decode in Ray tasks, so that a decoder that crashes costs its video alone."""
    blocks = [rows[start : start + VIDEOS_PER_TASK] for start in range(0, len(rows), VIDEOS_PER_TASK)]
    found = [_answer(reference, len(block), data) for reference, block in _start(blocks, data)]
    for place, block in enumerate(blocks):
        if found[place].reasons == [LOST] * len(block) and len(block) > 1:  # which of them was it?
            alone = [_answer(reference, 1, data) for reference, _ in _start([[row] for row in block], data)]
            found[place] = _joined(alone, data)
    return _joined(found, data)


def _start(blocks: Sequence[Sequence[Mapping[str, Any]]], data: DataConfig) -> list[tuple[Any, Any]]:
    """(reference, block) of tasks that run beside the training, not within what Ray has set aside for its workers."""
    task = ray.remote(_load_block).options(
        num_cpus=min(1.0, data.decode_cpus), max_retries=0, scheduling_strategy="SPREAD"
    )
    return [(task.remote(block, data, storage.access(), watchdog.base_limit_s()), block) for block in blocks]


def _answer(reference: Any, count: int, data: DataConfig) -> Loaded:
    try:
        return cast(Loaded, ray.get(reference))
    except RayTaskError:
        raise  # the task itself, not a video
    except RayError:
        return Loaded(_black(count, data), [LOST] * count)


def _load_block(rows: Sequence[Mapping[str, Any]], data: DataConfig, access: storage.Access, limit_s: float) -> Loaded:
    storage.adopt(access)
    watchdog.adopt(limit_s)
    frames, reasons = _black(len(rows), data), [""] * len(rows)
    for place, row in enumerate(rows):
        try:
            with watchdog.end_process_after(watchdog.limit_with_reading_s()):
                frames[place] = load_clip(row, data, 0.5).frames
        except ClipError as error:
            reasons[place] = without_path(error, row["uri"]) or "no reason given"
        except StorageError as error:
            return Loaded(frames, reasons, without_path(error, row["uri"]))
        except Exception as error:  # the task's boundary: whatever a decoder raises, the other videos go on
            reasons[place] = f"{type(error).__name__}: {error}"
    return Loaded(frames, reasons)


def _joined(parts: Sequence[Loaded], data: DataConfig) -> Loaded:
    frames = np.concatenate([_black(0, data), *(part.frames for part in parts)])
    reasons = [reason for part in parts for reason in part.reasons]
    return Loaded(frames, reasons, next((part.outage for part in parts if part.outage), ""))


def _black(count: int, data: DataConfig) -> Frames:
    return np.zeros((count, data.num_frames, data.image_size, data.image_size), np.uint8)
