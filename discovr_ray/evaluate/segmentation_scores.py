"""How good masks are, and the ejection fraction that follows from them; each number with its interval over patients."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from discovr_ray.evaluate.bootstrap import Estimate, Weights, draw_for_means, draw_for_numbers
from discovr_ray.evaluate.metrics import Doubles, Metric, NumberPredictions, number_metrics, with_intervals
from discovr_ray.evaluate.outlines import Mask

SCORED_AT_ONCE = 64  # frames
PERCENTILE = 95  # of distances between borders
LEFT_VENTRICLE = "lv"
# why a video with outlines has no ejection fraction
NOT_TWO, NO_LABEL = "not two outlined frames", "no label of the ejection fraction"
EMPTY_MASK = "a mask of the left ventricle is empty"


class Scored(NamedTuple):
    """Test frames of one model."""

    clip_ids: Sequence[str]
    frames: Sequence[int]
    dice: Doubles  # [n, structures]
    hd95: Doubles  # [n, structures], pixels; the frame's diagonal where nothing was predicted


@dataclass(frozen=True)
class SegmentationResult:
    """Of one model; lists run over the test frames."""

    structures: list[str]
    metrics: dict[str, dict[str, Estimate]]  # structure, or "mean" of them -> dice, hd95 (pixels) -> value
    nothing_predicted: dict[str, int]  # structure -> frames
    ejection_fraction: dict[str, Estimate]  # of the masks against the label: mae, rmse, r2; empty where none is asked
    num_hearts: int  # videos that it is of
    chosen: dict[str, float]  # on the validation split
    validation: dict[str, float]
    no_ejection_fraction: dict[str, list[str]]  # Hearts.left_out
    clip_ids: list[str]
    frames: list[int]
    dice: list[list[float]]  # of each frame and structure
    hd95: list[list[float]]
    hearts: list[str]  # clip ids of `ef_truth` and `ef_predicted`
    ef_truth: list[float]
    ef_predicted: list[float]


def score_masks(predicted: Mask, truth: Mask, num_structures: int) -> tuple[Doubles, Doubles]:
    """Dice and 95th percentile Hausdorff distance (pixels) of each frame and structure, by MONAI.

    Where a structure was not predicted at all the distance is the frame's diagonal, than which none is longer.
    """
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.meandice import compute_dice

    overlaps, distances = [], []
    eye = np.eye(num_structures + 1, dtype=np.float32)
    for start in range(0, len(truth), SCORED_AT_ONCE):
        part = slice(start, start + SCORED_AT_ONCE)
        ours, theirs = (torch.from_numpy(eye[of[part]]).permute(0, 3, 1, 2) for of in (predicted, truth))
        overlaps.append(compute_dice(ours, theirs, include_background=False).numpy())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of empty predictions, and of its own old arguments
            found = compute_hausdorff_distance(ours, theirs, include_background=False, percentile=PERCENTILE)
        distances.append(np.asarray(found))
    dice, hd95 = (np.concatenate(parts).astype(np.float64) for parts in (overlaps, distances))
    hd95[~np.isfinite(hd95)] = math.hypot(*truth.shape[1:])
    return dice, hd95


def mask_metrics(scored: Scored, structures: Sequence[str], draws: Any) -> dict[str, dict[str, Estimate]]:
    """Means over frames, of each structure and of all, with intervals over `draws` of patients."""
    columns = {name: [place] for place, name in enumerate(structures)}
    if len(structures) > 1:
        columns["mean"] = list(range(len(structures)))
    return {
        name: with_intervals({"dice": mean_over(scored.dice[:, of]), "hd95": mean_over(scored.hd95[:, of])}, draws)
        for name, of in columns.items()
    }


def mean_over(values: Doubles) -> Metric:
    """Of each frame and structure [n, k]: the mean over frames of the mean over structures."""
    each = values.mean(axis=1)

    def mean(weights: Weights | None) -> float:
        return float(np.average(each, weights=weights))

    return mean


def draws_of(patient_ids: Sequence[str], num_draws: int, seed: int) -> Any:
    return draw_for_means(np.array(patient_ids, np.str_), num_draws, seed)


def area_length_volume(mask: npt.NDArray[np.bool_]) -> float:
    """Volume in cubic pixels of a ventricle [S, S] seen from one side, 8 A^2 / (3 pi L); NaN without a pixel.

    A is the area of the largest connected piece, L its extent along its main axis. The single-plane area-length rule
    (Lang et al., "Recommendations for cardiac chamber quantification", J Am Soc Echocardiogr 2015).
    """
    pieces, count = ndimage.label(mask)
    if not count:
        return math.nan
    sizes = np.bincount(pieces.ravel())[1:]
    points = np.argwhere(pieces == int(sizes.argmax()) + 1).astype(np.float64)
    if len(points) < 2:
        return math.nan
    centred = points - points.mean(axis=0)
    axis = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    along = centred @ axis
    length = float(along.max() - along.min()) + 1
    return 8 * len(points) ** 2 / (3 * math.pi * length)


class Hearts(NamedTuple):
    """Ejection fraction in percent. Every video with an outlined frame is in `clip_ids` or has a reason."""

    clip_ids: list[str]
    truth: Doubles  # the label
    predicted: Doubles  # from masks
    left_out: dict[str, list[str]]  # NOT_TWO, NO_LABEL or EMPTY_MASK -> clip ids


def ejection_fractions(
    masks: Mask, truth: Mask, clip_ids: Sequence[str], labels: Mapping[str, float], value: int
) -> Hearts:
    """EF = 1 - ESV / EDV from masks [n, S, S] by area_length_volume.

    End diastole is the frame in which the expert's outline is larger: which of the frames it is, no mask may choose.

    Args:
        truth: the experts' masks of the same frames.
        clip_ids: [n], of each frame.
        labels: clip_id -> its EF.
        value: of the left ventricle in the masks.
    """
    rows: dict[str, list[int]] = {}
    for row, clip_id in enumerate(clip_ids):
        rows.setdefault(clip_id, []).append(row)
    found: dict[str, float] = {}
    left_out: dict[str, list[str]] = {}
    for clip_id, of in rows.items():
        reason = NOT_TWO if len(of) != 2 else "" if clip_id in labels else NO_LABEL
        if not reason:
            systole, diastole = sorted(of, key=lambda row: int((truth[row] == value).sum()))
            volumes = [area_length_volume(masks[row] == value) for row in (systole, diastole)]
            found[clip_id] = 100 * (1 - volumes[0] / volumes[1])
            reason = "" if math.isfinite(found[clip_id]) else EMPTY_MASK
        if reason:
            found.pop(clip_id, None)
            left_out.setdefault(reason, []).append(clip_id)
    return Hearts(list(found), np.array([labels[name] for name in found]), np.array(list(found.values())), left_out)


def ef_metrics(hearts: Hearts, patients: Mapping[str, str], num_draws: int, seed: int) -> dict[str, Estimate]:
    """mae, rmse and r2 with intervals; nothing where fewer than two videos, or all of one value, are known."""
    if len(np.unique(hearts.truth)) < 2:
        return {}
    ids = np.array([patients[clip_id] for clip_id in hearts.clip_ids], np.str_)
    draws = draw_for_numbers(ids, hearts.truth, num_draws, seed)
    return with_intervals(number_metrics(NumberPredictions(hearts.truth, hearts.predicted)), draws)


def segmentation_from_plain(values: Mapping[str, Any]) -> SegmentationResult:
    return SegmentationResult(
        **{
            **values,
            "metrics": {name: _estimates(of) for name, of in values["metrics"].items()},
            "ejection_fraction": _estimates(values["ejection_fraction"]),
        }
    )


def _estimates(values: Mapping[str, Any]) -> dict[str, Estimate]:
    return {name: Estimate(**item) for name, item in values.items()}
