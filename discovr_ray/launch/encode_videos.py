"""Features of many videos: Ray Data decodes, actors with the encoders take what is decoded, and write.

A decoder that dies takes its block along; what is then missing is decoded again, each video in a process of its own,
whose death names the video and the cause.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayError

from discovr_ray.data import storage, watchdog
from discovr_ray.errors import ConfigError, FeaturesError, StreamError
from discovr_ray.evaluate.embedding import Decoded, Preprocessing, decode_video, embed_clips
from discovr_ray.evaluate.feature_folder import FeatureFolder, FolderSettings
from discovr_ray.launch.apart import call_apart
from discovr_ray.launch.blocks import set_up
from discovr_ray.launch.progress import Progress

if TYPE_CHECKING:  # decode processes import this file and need no torch
    from discovr_ray.model.weights import PretrainedEncoder

logger = logging.getLogger(__name__)

BLOCK_BYTES = 64 * 2**20  # of decoded frames, which one task makes and one part of the table comes from
MAX_VIDEOS_PER_BLOCK = 64  # so much is done again after a crash
BLOCKS_PER_WORKER = 8  # where there are few videos, so that nobody waits for the last block
Decode = Callable[[Mapping[str, Any], Preprocessing], Decoded]  # as decode_video
OF_CLIPS = ("first_frame", "padded_frames")  # columns of a decoded block
LOST = "the process that decoded this video was lost twice (out of memory?)"


@dataclass(frozen=True)
class EmbedOptions:
    """How videos are embedded, and on what."""

    clips_per_video: int = 4  # temporal clips, evenly spread, whose features are averaged
    batch_size: int = 8  # clips in one forward pass
    precision: Literal["bf16", "fp32"] = "fp32"  # of the computation; features are always fp32
    workers: int = 0  # actors with the encoder; 0: as many as the cluster has room for
    use_gpu: bool = False  # one GPU for each
    cpus_per_worker: float = 1.0  # that Ray sets aside for each, and its torch threads
    allow_failed: float = 0.0  # videos that may fail; below 1 as a share of all
    allow_enlarged: bool = False  # videos with fewer pixels a side than the encoder takes

    def __post_init__(self) -> None:
        rules = {
            f"clips_per_video = {self.clips_per_video}: must be above 0": self.clips_per_video > 0,
            f"batch_size = {self.batch_size}: must be above 0": self.batch_size > 0,
            f"precision = {self.precision!r}: must be bf16 or fp32": self.precision in ("bf16", "fp32"),
            f"workers = {self.workers}: must be 0 (as many as fit) or more": self.workers >= 0,
            f"cpus_per_worker = {self.cpus_per_worker}: must be above 0": self.cpus_per_worker > 0,
            f"allow_failed = {self.allow_failed}: must be at least 0; a whole number, or a share below 1": (
                self.allow_failed >= 0 and (self.allow_failed < 1 or float(self.allow_failed).is_integer())
            ),
        }
        if problems := [rule for rule, kept in rules.items() if not kept]:
            raise ConfigError(problems)

    def failures_allowed(self, num_videos: int) -> int:
        return int(self.allow_failed if self.allow_failed >= 1 else self.allow_failed * num_videos)


@dataclass(frozen=True)
class _Task:
    """What every decode task and every actor is told."""

    encoders: Any  # ObjectRef of the encoders, in the order of `folders`
    videos: Any  # ObjectRef of the table of videos of this pass: microbatch.COLUMNS, source_sha256 and index
    per_block: int  # videos
    folders: tuple[FeatureFolder, ...]
    options: EmbedOptions
    decode: Decode
    access: storage.Access
    limit_s: float  # watchdog.base_limit_s
    apart: bool = False  # decode each video in a process of its own

    def adopt(self) -> None:
        storage.adopt(self.access)
        watchdog.adopt(self.limit_s)


def encode_videos(
    encoders: Mapping[FeatureFolder, PretrainedEncoder],
    videos: pa.Table,
    options: EmbedOptions,
    decode: Decode = decode_video,
) -> list[str]:
    """Write the features of videos into parts of folders; for each video "" then, else why it has none.

    Needs an initialised Ray. A video is decoded once for all encoders.

    Args:
        encoders: folder of its features -> encoder; all of one preparation of clips.
        videos: manifest rows with microbatch.COLUMNS and source_sha256.
    Errors:
        ConfigError: the cluster has no room for the workers.
        FeaturesError: the encoder gave a value that is not finite; names the video.
        StreamError: storage that did not answer, or workers that could not work. What is done stays done.
    """
    workers = num_workers(options)
    for folder in encoders:
        folder.reopen()
    folders, in_store = tuple(encoders), ray.put(list(encoders.values()))
    videos = videos.append_column("index", pa.array(range(videos.num_rows), pa.int64()))
    per_block = _videos_per_block(folders[0].settings, videos.num_rows, workers)
    logger.info("embedding %d videos, %d at a time, on %d workers", videos.num_rows, per_block, workers)
    progress = Progress("embedded %d of %d videos", videos.num_rows)
    answers: dict[int, str] = {}
    for apart in (False, True):
        missing = pa.array([index for index in range(videos.num_rows) if index not in answers], pa.int64())
        if not len(missing):
            break
        in_pass = ray.put(videos.take(missing))
        limits = storage.access(), watchdog.base_limit_s()
        task = _Task(in_store, in_pass, per_block, folders, options, decode, *limits, apart)
        num_blocks = math.ceil(len(missing) / per_block)
        # not one block came back of many: most likely no video's fault, so the next loss ends it with its cause
        max_lost = 0 if apart and not answers and num_blocks > 1 else -1
        for index, reason in _one_pass(task, num_blocks, workers, max_lost):
            answers[index] = reason
            progress.show(len(answers))
    progress.show(len(answers), last=True)
    return [answers.get(index, LOST) for index in range(videos.num_rows)]


def num_workers(options: EmbedOptions) -> int:
    """Actors to start; one CPU is kept for decoding.

    Errors:
        ConfigError: the cluster has no room for them.
    """
    have = ray.cluster_resources()
    cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
    fitting = math.floor((cpus - 1) / options.cpus_per_worker + 1e-6)
    if options.use_gpu:
        fitting = min(fitting, int(gpus))
    workers = options.workers or max(1, fitting)
    if workers > fitting:
        wanted = f"{workers} workers with {options.cpus_per_worker:g} CPUs" + (" and a GPU" * options.use_gpu)
        raise ConfigError([f"{wanted} each and a CPU for decoding: the cluster has {cpus:g} CPUs and {gpus:g} GPUs"])
    return workers


def _videos_per_block(settings: FolderSettings, num_videos: int, workers: int) -> int:
    preprocessing = settings.preprocessing
    video_bytes = preprocessing.clips_per_video * preprocessing.num_frames * preprocessing.image_size**2
    few = math.ceil(num_videos / (BLOCKS_PER_WORKER * workers))
    return max(1, min(BLOCK_BYTES // video_bytes, MAX_VIDEOS_PER_BLOCK, few))


def _one_pass(task: _Task, num_blocks: int, workers: int, max_lost_blocks: int) -> Iterator[tuple[int, str]]:
    """(index, reason or "") of the videos whose block came back, as they come."""
    retries = int(task.apart)
    options = task.options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray 2.60 has no other way to bound the retries
        decoded = ray.data.range(num_blocks, override_num_blocks=num_blocks).map_batches(
            _decode_block,
            batch_size=None,
            batch_format="numpy",
            fn_args=[task],
            ray_remote_args_fn=lambda: {"max_retries": retries},
        )
        found = decoded.map_batches(
            _Encode,
            batch_size=task.per_block,
            batch_format="numpy",
            fn_constructor_args=[task],
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=options.cpus_per_worker,
            num_gpus=1 if options.use_gpu else 0,
            max_restarts=-1,  # a node may go
            max_task_retries=1,  # a block that kills its actor twice is lost
        )
    set_up(found, max_lost_blocks)
    try:
        for block in found.iter_batches(batch_size=None, batch_format="pyarrow"):
            for answer in block.to_pylist():
                if answer["failure"]:
                    _raise(answer["kind"], answer["failure"])
                yield answer["index"], answer["reason"]
    except RayError as error:
        raise StreamError(f"embedding stopped: no worker could do its work: {error}") from error


def _raise(kind: str, failure: str) -> None:
    if kind == FeaturesError.__name__:
        raise FeaturesError(failure)
    raise StreamError(f"embedding stopped, to be continued by the same command: {failure}")


def _decode_block(block: Mapping[str, Any], task: _Task) -> dict[str, Any]:
    """Temporal clips of the videos of one block, one row each.

    Returns columns: row int64 (of task.videos), frames uint8 [n, K, T, S, S] (K = clips_per_video) of which the first
    `count` are the video's, first_frame and padded_frames [n, K], reason (why count is 0), outage.
    """
    task.adopt()
    preprocessing = task.folders[0].settings.preprocessing
    number, size = preprocessing.clips_per_video, preprocessing.image_size
    firsts = (block["id"] * task.per_block).tolist()
    videos = [_table(task.videos).slice(first, task.per_block) for first in firsts]
    rows = [row for first, part in zip(firsts, videos, strict=True) for row in range(first, first + part.num_rows)]
    decoded = [_decode(task, video) for part in videos for video in part.to_pylist()]
    frames = np.zeros((len(rows), number, preprocessing.num_frames, size, size), np.uint8)
    of_clips = {name: np.zeros((len(rows), number), np.int32) for name in OF_CLIPS}
    for place, video in enumerate(decoded):
        if video.frames is not None:
            count = len(video.frames)
            frames[place, :count] = video.frames
            of_clips["first_frame"][place, :count] = video.first_frames
            of_clips["padded_frames"][place, :count] = video.padded_frames
    return {
        "row": np.array(rows, np.int64),
        "count": np.array([len(video.first_frames) for video in decoded]),
        "frames": frames,
        **of_clips,
        "reason": np.array([video.reason for video in decoded], object),
        "outage": np.array([video.outage for video in decoded], object),
    }


def _decode(task: _Task, row: Mapping[str, Any]) -> Decoded:
    arguments = task.decode, row, task.folders[0].settings.preprocessing
    if not task.apart:
        return _decode_watched(*arguments)
    outcome = call_apart(_decode_watched, *arguments)
    if outcome.blame == "storage":
        return Decoded(outage=outcome.death)
    return Decoded(reason=outcome.death) if outcome.death else outcome.value


def _decode_watched(decode: Decode, row: Mapping[str, Any], preprocessing: Preprocessing) -> Decoded:
    with watchdog.end_process_after(watchdog.limit_with_reading_s()):
        try:
            return decode(row, preprocessing)
        except Exception as error:  # the task's boundary: whatever a decoder raises, the other videos go on
            return Decoded(reason=f"{type(error).__name__}: {error}")


@lru_cache(maxsize=1)
def _table(reference: Any) -> pa.Table:
    """Mapped from the object store once per process."""
    return ray.get(reference)


class _Encode:
    """Actor with the encoders: features of a block's clips, written as a part of each one's table."""

    def __init__(self, task: _Task) -> None:
        import torch

        task.adopt()
        self._task = task
        if not task.options.use_gpu:
            torch.set_num_threads(max(1, int(task.options.cpus_per_worker)))
        device = "cuda" if task.options.use_gpu else "cpu"
        self._encoders = [encoder.to(device) for encoder in ray.get(task.encoders)]

    def __call__(self, block: Mapping[str, Any]) -> dict[str, Any]:
        """One row for each video of the block: index, reason, and what ends the job if anything does."""
        kind, failure = "", next((text for text in block["outage"] if text), "")
        if not failure:
            try:
                self._write(block)
            except Exception as error:  # the actor's boundary: no video is to blame, so the driver ends the job
                kind = type(error).__name__
                failure = str(error) if kind == FeaturesError.__name__ else f"{kind}: {error}"
        videos = _table(self._task.videos).take(pa.array(block["row"]))
        count = videos.num_rows
        answers = {"reason": block["reason"], "kind": [kind] * count, "failure": [failure] * count}
        return {"index": videos["index"].to_numpy(), **answers}

    def _write(self, block: Mapping[str, Any]) -> None:
        """Features of the block's videos that have clips, as one part of each folder."""
        options, counts = self._task.options, block["count"].tolist()
        frames = block["frames"][np.arange(block["frames"].shape[1]) < block["count"][:, None]]  # the clips of all
        if not len(frames):
            return
        videos = _table(self._task.videos).select(["clip_id", "source_sha256"]).take(pa.array(block["row"])).to_pylist()
        for encoder, folder in zip(self._encoders, self._task.folders, strict=True):
            features = embed_clips(encoder, frames, options.batch_size, options.precision)
            tables, end = [], 0
            for place, (video, count) in enumerate(zip(videos, counts, strict=True)):
                part, end = slice(end, end + count), end + count
                if count:
                    clips = Decoded(None, *(block[name][place, :count].tolist() for name in OF_CLIPS))
                    of_part = features.cls[part], features.patches[part]
                    tables.append(folder.rows_of(video["clip_id"], video["source_sha256"], clips, *of_part))
            folder.write_part(tables)
