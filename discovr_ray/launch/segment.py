"""Segmentation of a manifest's outlined frames, with several encoders: tokens, heads, masks and what they are worth."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load, save

from discovr_ray.data import storage
from discovr_ray.data.manifest import SPLITS, read_labels
from discovr_ray.errors import ClipError, EvaluationError, TooManyBadClipsError
from discovr_ray.evaluate.bootstrap import Estimate
from discovr_ray.evaluate.dense import Item
from discovr_ray.evaluate.embedding import sources_of
from discovr_ray.evaluate.evaluation import NO_FEATURES
from discovr_ray.evaluate.kept import KeptResults, Kind, library_versions
from discovr_ray.evaluate.outlines import Labelled, LabelledFrame, Mask, draw_mask, read_labelled
from discovr_ray.evaluate.segmentation import Drawn, Head, TokenArray, fit_head, mean_mask, predict
from discovr_ray.evaluate.segmentation_scores import (
    LEFT_VENTRICLE,
    Hearts,
    Scored,
    SegmentationResult,
    draws_of,
    ef_metrics,
    ejection_fractions,
    mask_metrics,
    score_masks,
    segmentation_from_plain,
)
from discovr_ray.evaluate.settings import DEFAULT_NUMBER, ProbeSettings
from discovr_ray.evaluate.splits import Videos, check_patients
from discovr_ray.launch.dense_tokens import Extracted, extract
from discovr_ray.launch.encode_videos import EmbedOptions

if TYPE_CHECKING:
    from discovr_ray.model.weights import PretrainedEncoder

logger = logging.getLogger(__name__)

VERSION = 2  # of what is computed here; another one makes kept results worthless
KIND = Kind("segmentation", segmentation_from_plain)
TOKENS_FOLDER, ANSWERS_FOLDER, HEAD_FILE = "frame_tokens", "answers", "segmentation_head.safetensors"
DRAW_THREADS = 8  # masks read at once


class Task(NamedTuple):
    """What is to be segmented, with what, and where it is kept."""

    manifest: str  # uri; traces.parquet lies beside it
    clips: pa.Table  # its rows
    encoders: Mapping[str, PretrainedEncoder]  # model -> encoder; all of one preparation of clips
    output: str  # folder
    settings: ProbeSettings
    options: EmbedOptions


class Segmented(NamedTuple):
    """What came out. Masks and lists are of the test frames, in one order for all models."""

    structures: tuple[str, ...]
    results: dict[str, SegmentationResult]  # model, or NO_FEATURES for the mean of the training masks -> result
    masks: dict[str, Mask]  # likewise: predicted, [n, S, S]
    heads: dict[str, Head]  # model -> what was fitted
    truth: Mask
    clip_ids: list[str]
    frames: list[int]
    experts_ef: dict[str, Estimate]  # metrics of the experts' own outlines by the same rule: what it can reach
    experts: Hearts  # what they are of
    counts: dict[str, int]  # split -> frames
    left_out: dict[str, int]  # reason -> frames
    failed: dict[str, str]  # clip, frame -> reason


class _Frames(NamedTuple):
    """Outlined frames, drawn; of all splits, or of one."""

    labelled: list[LabelledFrame]
    masks: Mask  # [n, S, S]
    splits: list[str]
    patients: list[str]

    def of(self, rows: list[int]) -> _Frames:
        splits, patients = ([of[row] for row in rows] for of in (self.splits, self.patients))
        return _Frames([self.labelled[row] for row in rows], self.masks[rows], splits, patients)

    def rows(self, split: str) -> list[int]:
        return [row for row, name in enumerate(self.splits) if name == split]


def segment(task: Task) -> Segmented | str:
    """Fit a head for each encoder on TRAIN, choose on VAL, and say how good it is on TEST; or why nothing is asked.

    What is done stays in task.output, and is not computed again.

    Errors:
        EvaluationError: patients in two splits, a split without outlined frames, or outlines of frames that are none.
        FeaturesError, StreamError, ConfigError: as of launch.dense_tokens.extract.
        TooManyBadClipsError: more outlines or frames than options.allow_failed cannot be used.
    """
    check_patients(Videos(*(task.clips[name].to_pylist() for name in ("clip_id", "patient_id", "split"))))
    labelled = read_labelled(storage.absolute(task.manifest), task.clips)
    if isinstance(labelled, str):
        return labelled
    frames, failed = _draw(task, labelled)
    sources = sources_of(task.clips)
    items = {Item(of.clip_id, of.frame, sources[of.clip_id]): row for row, of in enumerate(frames.labelled)}
    extracted = extract(
        task.encoders, task.clips, list(items), storage.join(storage.absolute(task.output), TOKENS_FOLDER), task.options
    )
    frames = frames.of([items[item] for item in extracted.items])
    _check_splits(frames)
    failed |= {f"{item.clip_id}, frame {item.frame}": reason for item, reason in extracted.failed.items()}
    return _answer(task, labelled, frames, extracted)._replace(failed=failed)


def _draw(task: Task, labelled: Labelled) -> tuple[_Frames, dict[str, str]]:
    """The masks of frames in a split, and why others have none."""
    rows = {row["clip_id"]: row for row in task.clips.to_pylist()}
    size = next(iter(task.encoders.values())).card.encoder.image_size
    wanted = [of for of in labelled.frames if rows[of.clip_id]["split"] in SPLITS[:3]]

    def draw(of: LabelledFrame) -> Mask | str:
        try:
            return draw_mask(of, rows[of.clip_id], size)
        except ClipError as error:
            return str(error)

    with ThreadPoolExecutor(DRAW_THREADS) as pool:
        drawn = list(pool.map(draw, wanted))
    failed = {
        f"{of.clip_id}, frame {of.frame}": mask for of, mask in zip(wanted, drawn, strict=True) if isinstance(mask, str)
    }
    if len(failed) > task.options.failures_allowed(len(wanted)):
        name, reason = next(iter(failed.items()))
        raise TooManyBadClipsError(
            f"segmentation: {len(failed)} of {len(wanted)} outlined frames cannot be used, "
            f"{task.options.failures_allowed(len(wanted))} may fail, such as {name}: {reason}"
        )
    good = [(of, mask) for of, mask in zip(wanted, drawn, strict=True) if not isinstance(mask, str)]
    frames = _Frames(
        [of for of, _ in good],
        np.stack([mask for _, mask in good]) if good else np.zeros((0, size, size), np.uint8),
        [rows[of.clip_id]["split"] for of, _ in good],
        [rows[of.clip_id]["patient_id"] for of, _ in good],
    )
    _check_splits(frames)
    return frames, failed


def check_outlined(clips: pa.Table, labelled: Labelled) -> None:
    """Refuse a split without outlined frames, before a video is opened.

    Errors:
        EvaluationError: names the split.
    """
    splits = dict(zip(clips["clip_id"].to_pylist(), clips["split"].to_pylist(), strict=True))
    _check_splits(_Frames([], np.zeros((0, 1, 1), np.uint8), [splits[of.clip_id] for of in labelled.frames], []))


def _check_splits(frames: _Frames) -> None:
    for split in SPLITS[:3]:
        if not frames.rows(split):
            counts = ", ".join(f"{name} {len(frames.rows(name))}" for name in SPLITS[:3])
            raise EvaluationError(f"segmentation: split {split} has no outlined frame (of {counts})")


def _answer(task: Task, labelled: Labelled, frames: _Frames, extracted: Extracted) -> Segmented:
    test = frames.of(frames.rows("TEST"))
    results: dict[str, SegmentationResult] = {}
    masks: dict[str, Mask] = {}
    heads: dict[str, Head] = {}
    for model in (*task.encoders, NO_FEATURES):
        tokens = np.zeros((len(frames.labelled), 1, 1), np.float16)  # of no features
        if model in extracted.folders:
            tokens = extracted.folders[model].read(extracted.items)
        results[model], masks[model], head = _one_model(task, labelled, frames, (model, tokens))
        if head is not None:
            heads[model] = head
        dice = next(iter(results[model].metrics.values()))["dice"].value
        logger.info("segmentation of %s: Dice of %s %.3f", model, labelled.structures[0], dice)
    ids = [of.clip_id for of in test.labelled]
    return Segmented(
        labelled.structures,
        results,
        masks,
        heads,
        test.masks,
        ids,
        [of.frame for of in test.labelled],
        *_ef(task, labelled, test, test.masks),
        {split: len(frames.rows(split)) for split in SPLITS[:3]},
        labelled.left_out,
        {},
    )


def _one_model(
    task: Task, labelled: Labelled, frames: _Frames, answered: tuple[str, TokenArray]
) -> tuple[SegmentationResult, Mask, Head | None]:
    """Kept from an earlier time, or fitted: result, masks of the test frames, and the head where there is one."""
    model, tokens = answered
    answers = storage.join(storage.absolute(task.output), ANSWERS_FOLDER)
    kept, head_uri = KeptResults(answers), storage.join(answers, model, HEAD_FILE)
    key = _key(task, labelled, frames, tokens)
    train, val, test = (frames.rows(split) for split in SPLITS[:3])
    count, size = len(labelled.structures), frames.masks.shape[1]
    to_fit, to_choose = (Drawn(tokens[rows], frames.masks[rows]) for rows in (train, val))
    if model == NO_FEATURES:
        predicted = np.repeat(mean_mask(to_fit, count)[None], len(test), axis=0)
        return _result(task, labelled, frames.of(test), predicted, ({}, {})), predicted, None
    result = kept.get(model, KIND, key)
    if result is not None and storage.exists(head_uri):
        head = Head(**load(storage.read_bytes(head_uri)))
        return result, predict(head, tokens[test], size), head
    fitted = fit_head(to_fit, to_choose, count, task.settings.seed)
    predicted = predict(fitted.head, tokens[test], size)
    chosen = {"weight_decay": fitted.weight_decay, "step": float(fitted.step)}
    result = _result(task, labelled, frames.of(test), predicted, (chosen, fitted.validation))
    storage.remove_tree(kept.uri_of(model, KIND))  # else, killed here, an earlier result would find this head
    storage.write_bytes(head_uri, save(fitted.head._asdict()))
    kept.put(model, KIND, key, result)
    return result, predicted, fitted.head


def _result(
    task: Task, labelled: Labelled, test: _Frames, predicted: Mask, fit: tuple[dict[str, float], dict[str, float]]
) -> SegmentationResult:
    """What masks of the test frames are worth. `fit`: what was chosen, and from what."""
    structures = list(labelled.structures)
    ids, numbers = [of.clip_id for of in test.labelled], [of.frame for of in test.labelled]
    scored = Scored(ids, numbers, *score_masks(predicted, test.masks, len(structures)))
    draws = draws_of(test.patients, task.settings.draws, task.settings.seed)
    ef, hearts = _ef(task, labelled, test, predicted)
    return SegmentationResult(
        structures=structures,
        metrics=mask_metrics(scored, structures, draws),
        nothing_predicted={
            name: int((~(predicted == value).any(axis=(1, 2))).sum()) for value, name in enumerate(structures, start=1)
        },
        ejection_fraction=ef,
        num_hearts=len(hearts.clip_ids),
        chosen=fit[0],
        validation=fit[1],
        no_ejection_fraction=hearts.left_out,
        clip_ids=ids,
        frames=numbers,
        dice=np.round(scored.dice, 6).tolist(),
        hd95=np.round(scored.hd95, 6).tolist(),
        hearts=hearts.clip_ids,
        ef_truth=hearts.truth.tolist(),
        ef_predicted=np.round(hearts.predicted, 6).tolist(),
    )


def _ef(task: Task, labelled: Labelled, test: _Frames, masks: Mask) -> tuple[dict[str, Estimate], Hearts]:
    """Metrics of the ejection fraction by masks, and its values; nothing where no left ventricle is outlined."""
    if labelled.structures[0] != LEFT_VENTRICLE:
        return {}, Hearts([], np.zeros(0), np.zeros(0), {})
    values = {}
    for clip_id, of in zip(task.clips["clip_id"].to_pylist(), read_labels(task.clips), strict=True):
        value = of.get(DEFAULT_NUMBER)
        if isinstance(value, int | float) and not isinstance(value, bool):
            values[clip_id] = float(value)
    ids = [of.clip_id for of in test.labelled]
    hearts = ejection_fractions(masks, test.masks, ids, values, 1)
    patients = dict(zip(ids, test.patients, strict=True))
    return ef_metrics(hearts, patients, task.settings.draws, task.settings.seed), hearts


def _key(task: Task, labelled: Labelled, frames: _Frames, tokens: TokenArray) -> str:
    """Hash of everything that a result follows from."""
    settings = task.settings
    versions = {**library_versions(), "torch": torch.__version__, "monai": metadata.version("monai")}
    facts = [VERSION, settings.seed, settings.draws, labelled.structures, frames.splits, versions]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    rows = [[of.clip_id, of.frame, patient] for of, patient in zip(frames.labelled, frames.patients, strict=True)]
    digest.update(json.dumps([rows, task.clips["labels"].to_pylist()]).encode())
    for array in (frames.masks, tokens):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
