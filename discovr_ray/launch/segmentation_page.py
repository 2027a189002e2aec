"""Segmentation as a part of an evaluation: the encoder beside its floors, pictures of the worst and best frames."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from discovr_ray.data.clip import load_frames
from discovr_ray.data.outage import without_path
from discovr_ray.errors import ClipError
from discovr_ray.evaluate.dense import WHOLE, moment_of
from discovr_ray.evaluate.embedding import Preprocessing, preprocessing_of
from discovr_ray.evaluate.results import to_plain
from discovr_ray.evaluate.segmentation import Head, predict
from discovr_ray.exchange.pixels import PatchPixels
from discovr_ray.launch.evaluate import Prepared
from discovr_ray.launch.robust_tokens import segmentation_drops
from discovr_ray.launch.segment import Segmented, Task, segment
from discovr_ray.model.weights import PretrainedEncoder
from discovr_ray.report.cases import Case, extremes
from discovr_ray.report.overlays import overlay
from discovr_ray.report.robustness_sections import DENSE_LEAD, KEPT_FRAME, tokens_section
from discovr_ray.report.section import Picture, Section
from discovr_ray.report.segmentation_sections import MODELS, SegmentationPart, not_asked, segmentation_sections

logger = logging.getLogger(__name__)

NAME = "segmentation"
MIN_FRAME_MS = 20


def run_segmentation(prepared: Prepared) -> tuple[Mapping[str, Any], Sequence[Section]]:
    """As of launch.evaluate.Further."""
    encoder, random = (prepared.embeddings[model].encoder for model in ("encoder", "random"))
    encoders = {"encoder": encoder, "random": random, "pixels": PatchPixels(encoder.card).eval()}
    options = prepared.embeddings["encoder"].options
    task = Task(prepared.manifest, prepared.clips, encoders, prepared.output, prepared.settings, options)
    found = segment(task)
    if isinstance(found, str):
        logger.warning("segmentation is not asked: %s", found)
        return {"skipped": found}, [not_asked(NAME, "Segmentation", found)]
    stills, moving, lost = _pictures(prepared, found, encoder)
    remarks = [f"Left out: {reason}: {count}." for reason, count in found.left_out.items()]
    remarks += [f"Without tokens or mask: {name}: {reason}." for name, reason in found.failed.items()]
    part = SegmentationPart(
        found.structures,
        found.results,
        (found.experts_ef, found.experts),
        found.counts,
        [*remarks, *lost],
        stills,
        moving,
    )
    sections = segmentation_sections(part)
    if prepared.settings.suite == "quick":
        return _values(found), sections
    worse = segmentation_drops(task, found)
    title, lead = "Masks when pictures are worse", f"{DENSE_LEAD} {KEPT_FRAME}"
    section = tokens_section("segmentation", title, lead, {"Linear head, mean over structures": worse}, MODELS)
    return {**_values(found), "robustness": to_plain(worse)}, [*sections, section]


def _values(found: Segmented) -> dict[str, Any]:
    """For results.json; what is said of each frame stays in the answers' own files."""
    names = (
        *("metrics", "nothing_predicted", "ejection_fraction", "num_hearts", "no_ejection_fraction"),
        *("chosen", "validation"),
    )
    return {
        "structures": list(found.structures),
        "frames": found.counts,
        "left_out": found.left_out,
        "failed": found.failed,
        "results": {model: {name: getattr(of, name) for name in names} for model, of in found.results.items()},
        "experts_ejection_fraction": found.experts_ef,
        "experts_no_ejection_fraction": found.experts.left_out,
    }


def _pictures(
    prepared: Prepared, found: Segmented, encoder: PretrainedEncoder
) -> tuple[list[Picture], list[Picture], list[str]]:
    """Stills of the encoder's worst and best frames, their videos, and what cannot be shown."""
    rows = {row["clip_id"]: row for row in prepared.clips.to_pylist()}
    preprocessing = preprocessing_of(encoder.card, 1)
    scores = np.mean(found.results["encoder"].dice, axis=1)
    cases = [Case(str(place), "", 1 - float(score)) for place, score in enumerate(scores)]
    stills: list[Picture] = []
    moving: dict[str, Picture] = {}
    lost: list[str] = []
    for name, chosen in zip(("worst", "best"), extremes(cases), strict=True):
        for case in chosen:
            place = int(case.clip_id)
            clip_id, frame = found.clip_ids[place], found.frames[place]
            row, caption = rows[clip_id], f"frame {frame}, Dice {scores[place]:.3f}"
            try:
                picture = load_frames(row, preprocessing.data, np.array([frame]))
                shown = overlay(picture, found.masks["encoder"][place : place + 1], found.truth[place : place + 1])
                stills.append(Picture(f"{name}: {clip_id}", caption, shown))
                if clip_id not in moving:
                    video = _moving(row, preprocessing, encoder, found.heads["encoder"])
                    moving[clip_id] = Picture(f"{name}: {clip_id}", caption, video, _frame_ms(row, preprocessing))
            except ClipError as error:
                lost.append(f"{clip_id} ({name}) cannot be shown: {without_path(error, row['uri'])}")
    return stills, list(moving.values()), lost


def _moving(row: Mapping[str, Any], preprocessing: Preprocessing, encoder: PretrainedEncoder, head: Head) -> Any:
    """The clip in the middle of a video, masks of every tubelet over its frames: [T, S', S', 3]."""
    frames = load_frames(row, preprocessing.data, moment_of(row, WHOLE, preprocessing).indices)
    with torch.inference_mode():
        patches = encoder(torch.from_numpy(np.array(frames))[None]).patches[0].float()
    spec = encoder.card.encoder
    masks = predict(head, patches.unflatten(0, (spec.grid[0], -1)).numpy(), spec.image_size)
    return overlay(frames, masks.repeat(spec.tubelet_size, axis=0))


def _frame_ms(row: Mapping[str, Any], preprocessing: Preprocessing) -> int:
    """So that the heart beats at its own speed."""
    indices = moment_of(row, WHOLE, preprocessing).indices
    return max(MIN_FRAME_MS, round(1000 * int(indices[1] - indices[0]) / float(row["fps"])))
