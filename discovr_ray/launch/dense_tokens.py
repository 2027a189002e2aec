"""Patch tokens of chosen moments of videos, of several encoders at once: Ray Data tasks decode, encode and write.

A decoder that dies takes its block along; what is then missing is decoded again, each moment in a process of its own,
whose death names the video and the cause.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayError

from discovr_ray.data import storage, watchdog
from discovr_ray.data.microbatch import COLUMNS
from discovr_ray.errors import StreamError, TooManyBadClipsError
from discovr_ray.evaluate.degradations import DegradedPreprocessing, decode_degraded_moment
from discovr_ray.evaluate.dense import (
    FAILED_FILE,
    WHOLE,
    DecodedMoment,
    DenseFolder,
    DenseSettings,
    Item,
    decode_moment,
    dense_tokens,
    tokens_per_clip,
    tokens_per_frame,
)
from discovr_ray.evaluate.embedding import Preprocessing, preprocessing_of
from discovr_ray.launch.apart import call_apart
from discovr_ray.launch.blocks import map_blocks
from discovr_ray.launch.encode_videos import LOST, EmbedOptions, num_workers
from discovr_ray.launch.progress import Progress
from discovr_ray.launch.ray_session import ray_session

if TYPE_CHECKING:
    from discovr_ray.model.weights import PretrainedEncoder

logger = logging.getLogger(__name__)

ITEMS_PER_BLOCK = 16


class Extracted(NamedTuple):
    """Where tokens are: every item is in each of the folders, or has a reason."""

    folders: dict[str, DenseFolder]  # model -> its tokens
    items: list[Item]
    failed: dict[Item, str]


@dataclass(frozen=True)
class _Task:
    """What every task is told."""

    encoders: Any  # ObjectRef of the encoders, in the order of `folders`
    folders: tuple[DenseFolder, ...]
    clips: Any  # ObjectRef of the table of clips
    preprocessing: Preprocessing
    options: EmbedOptions
    access: storage.Access
    limit_s: float  # watchdog.base_limit_s
    apart: bool = False


def extract(
    encoders: Mapping[str, PretrainedEncoder],
    clips: pa.Table,
    items: Sequence[Item],
    uri: str,
    options: EmbedOptions,
    degraded: bool = False,
) -> Extracted:
    """Tokens of items into uri/<model>/, of which only what is missing is computed.

    Args:
        degraded: clip ids are those of degradations.degraded_id, and say how frames are made worse.
        encoders: model -> encoder; all of one preparation of clips.
        clips: manifest rows of the items' videos.
        items: all frames, or all WHOLE.
    Errors:
        FeaturesError: a folder has tokens of another encoder, or a token is not finite; names the video.
        TooManyBadClipsError: more items failed than allowed (failed.parquet says why).
        ConfigError: the cluster has no room. StreamError: storage that did not answer, or workers that died.
    """
    preprocessing = preprocessing_of(next(iter(encoders.values())).card, 1)
    if degraded:
        preprocessing = DegradedPreprocessing.of(preprocessing)
    folders = {
        name: _folder(encoder, storage.join(uri, name), items, (preprocessing, options))
        for name, encoder in encoders.items()
    }
    done = set.intersection(*(folder.done() for folder in folders.values()))
    missing = [item for item in items if item not in done]
    logger.info("patch tokens of %d moments, %d of them already there", len(items), len(items) - len(missing))
    failed: dict[Item, str] = {}
    if missing:
        with ray_session():
            num_workers(options)
            task = _Task(
                ray.put(list(encoders.values())),
                tuple(folders.values()),
                ray.put(clips.select([name for name in COLUMNS if name in clips.column_names])),
                preprocessing,
                options,
                *(storage.access(), watchdog.base_limit_s()),
            )
            failed = _extract_missing(task, missing)
    for folder in folders.values():
        folder.write_failed(failed)
    if len(failed) > options.failures_allowed(len(items)):
        item, reason = next(iter(failed.items()))
        raise TooManyBadClipsError(
            f"{len(failed)} of {len(items)} moments failed, {options.failures_allowed(len(items))} may; reasons in "
            f"{storage.join(uri, '*', FAILED_FILE)}, such as: {item.clip_id}: {reason}"
        )
    return Extracted(folders, [item for item in items if item not in failed], failed)


def _folder(
    encoder: PretrainedEncoder, uri: str, items: Sequence[Item], how: tuple[Preprocessing, EmbedOptions]
) -> DenseFolder:
    card, (preprocessing, options) = encoder.card, how
    count = tokens_per_clip(encoder) if items and items[0].frame == WHOLE else tokens_per_frame(encoder)
    settings = DenseSettings(card.model_sha256, preprocessing, options.precision, card.encoder.width, count)
    folder = DenseFolder(storage.absolute(uri), settings)
    folder.claim()
    return folder


def _extract_missing(task: _Task, items: Sequence[Item]) -> dict[Item, str]:
    """Why items have no tokens; the others have."""
    progress = Progress("patch tokens of %d of %d moments", len(items))
    answers: dict[int, str] = {}
    for apart in (False, True):
        left = [number for number in range(len(items)) if number not in answers]
        size = 1 if apart else ITEMS_PER_BLOCK
        blocks = [_block(items, left[start : start + size]) for start in range(0, len(left), size)]
        options = task.options
        resources = {"num_cpus": options.cpus_per_worker, "num_gpus": float(options.use_gpu)}
        arguments = [_Task(**{**task.__dict__, "apart": apart})]
        try:
            for block in map_blocks(_work, blocks, arguments, max_retries=0, resources=resources):
                for answer in block.to_pylist():
                    if answer["failure"]:
                        raise StreamError(f"stopped, to be continued by the same command: {answer['failure']}")
                    answers[answer["number"]] = answer["reason"]
                progress.show(len(answers))
        except RayError as error:
            raise StreamError(f"patch tokens: no worker could do its work: {error}") from error
    progress.show(len(answers), last=True)
    reasons = {item: answers.get(number, LOST) for number, item in enumerate(items)}
    return {item: reason for item, reason in reasons.items() if reason}


def _block(items: Sequence[Item], numbers: Sequence[int]) -> pa.Table:
    rows = [{"number": number, **items[number]._asdict()} for number in numbers]
    return pa.Table.from_pylist(rows)


def _work(block: pa.Table, task: _Task) -> pa.Table:
    """One row for each item: number, reason, and what ends the job if anything does."""
    storage.adopt(task.access)
    watchdog.adopt(task.limit_s)
    wanted = block.to_pylist()
    items = [Item(row["clip_id"], row["frame"], row["source_sha256"]) for row in wanted]
    found = [_decode(task, item) for item in items]
    failure = next((of.outage for of in found if of.outage), "")
    if not failure:
        try:
            _encode(task, items, found)
        except Exception as error:  # the task's boundary: no video is to blame, so the driver ends the job
            failure = f"{type(error).__name__}: {error}"
    columns = {"number": [row["number"] for row in wanted], "reason": [of.reason for of in found]}
    return pa.table({**columns, "failure": [failure] * len(wanted)})


def _decode(task: _Task, item: Item) -> DecodedMoment:
    row = _rows(task.clips)[item.clip_id]
    arguments = _decode_watched, row, item.frame, task.preprocessing
    if not task.apart:
        return _decode_watched(*arguments[1:])
    outcome = call_apart(*arguments)
    if outcome.blame == "storage":
        return DecodedMoment(outage=outcome.death)
    return DecodedMoment(reason=outcome.death) if outcome.death else outcome.value


def _decode_watched(row: Mapping[str, Any], frame: int, preprocessing: Preprocessing) -> DecodedMoment:
    with watchdog.end_process_after(watchdog.limit_with_reading_s()):
        try:
            decode = decode_degraded_moment if isinstance(preprocessing, DegradedPreprocessing) else decode_moment
            return decode(row, frame, preprocessing)
        except Exception as error:  # the boundary to the decoders: the other videos go on
            return DecodedMoment(reason=f"{type(error).__name__}: {error}")


def _encode(task: _Task, items: Sequence[Item], found: Sequence[DecodedMoment]) -> None:
    """Tokens of the block's items that have frames, as one part for each encoder."""
    good = [place for place, of in enumerate(found) if of.frames is not None]
    if not good:
        return
    options = task.options
    whole = items[good[0]].frame == WHOLE
    for encoder, folder in zip(
        _encoders(task.encoders, options.use_gpu, options.cpus_per_worker), task.folders, strict=True
    ):
        parts = []
        for start in range(0, len(good), options.batch_size):
            some = [found[place] for place in good[start : start + options.batch_size]]
            frames = np.stack([of.frames for of in some if of.frames is not None])
            parts.append(dense_tokens(encoder, frames, [of.place for of in some], whole, options.precision))
        folder.write_part([items[place] for place in good], np.concatenate(parts))


@lru_cache(maxsize=1)
def _rows(clips: Any) -> dict[str, dict[str, Any]]:
    """Once per process: clip_id -> row."""
    return {row["clip_id"]: row for row in ray.get(clips).to_pylist()}


@lru_cache(maxsize=1)
def _encoders(encoders: Any, use_gpu: bool, cpus: float) -> list[PretrainedEncoder]:
    """Once per process, on its device."""
    import torch

    if not use_gpu:
        torch.set_num_threads(max(1, int(cpus)))
    return [encoder.to("cuda" if use_gpu else "cpu") for encoder in ray.get(encoders)]
