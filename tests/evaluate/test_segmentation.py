"""Outlines become the masks that they describe, and a linear head finds what its tokens say, no more."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from discovr_ray.data.adapters.listing import Trace
from discovr_ray.data.formats.nifti import encode_mask
from discovr_ray.data.manifest import SCHEMA
from discovr_ray.data.phantom.heart import beat, cavity_mask, chords
from discovr_ray.data.phantom.patient import sample_patient
from discovr_ray.errors import ClipError, EvaluationError
from discovr_ray.evaluate.outlines import LabelledFrame, draw_mask, inside_polygon, label_frames
from discovr_ray.evaluate.segmentation import Drawn, dice, fit_head, mean_mask, predict
from discovr_ray.evaluate.segmentation_scores import (
    EMPTY_MASK,
    NO_LABEL,
    NOT_TWO,
    area_length_volume,
    draws_of,
    ef_metrics,
    ejection_fractions,
    score_masks,
)

ROW = {"height": 48, "width": 64, "region": None}


def disc(size: int, y: float, x: float, radius: float) -> Any:
    rows, columns = np.mgrid[:size, :size]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def drawn(count: int, seed: int, noise: float = 0.3, size: int = 32) -> Drawn:
    """A disc (1) beside another one (2); a token tells, among noise, how much of each lies in its patch."""
    generator = np.random.default_rng(seed)
    masks = np.zeros((count, size, size), np.uint8)
    tokens = generator.normal(scale=noise, size=(count, 64, 12))
    for mask, token in zip(masks, tokens, strict=True):
        y, x = generator.uniform(10, 21, 2)
        mask[disc(size, y, x, 8)] = 2
        mask[disc(size, y, x, 5)] = 1
        shares = np.stack([mask == 1, mask == 2]).reshape(2, 8, 4, 8, 4).mean(axis=(2, 4)).reshape(2, 64)
        token[:, :2] += 4 * shares.T
    return Drawn(tokens.astype(np.float16), masks)


def test_a_polygon_holds_the_pixels_whose_centre_is_inside() -> None:
    found = inside_polygon(np.array([[1.5, 0.5], [4.5, 0.5], [4.5, 2.5], [1.5, 2.5]]), 6)
    expected = np.zeros((6, 6), bool)
    expected[1:3, 2:5] = True
    assert np.array_equal(found, expected)
    assert not inside_polygon(np.array([[1.0, 1.0], [4.0, 4.0]]), 6).any()


def test_the_phantoms_outline_is_its_cavity() -> None:
    """Chords as VolumeTracings.csv has them; they leave out the apex, and stop half a slice above the base."""
    patient = sample_patient(7, 3)
    contraction = float(beat(patient).contraction[beat(patient).ed_frame])
    lines = chords(patient, contraction)
    outline = np.concatenate([lines[0][:1], lines[1:, 0], lines[:0:-1, 1]])
    truth = cavity_mask(patient, contraction)
    trace = Trace("a", 0, "lv", outline[:, 0].tolist(), outline[:, 1].tolist())
    mask = draw_mask(LabelledFrame("a", 0, (trace,)), {"height": 112, "width": 112, "region": None}, 112)
    assert dice(mask[None], truth[None].astype(np.uint8), 1)[0, 0] > 0.96


def test_masks_and_outlines_come_to_lie_where_the_encoder_sees_them(tmp_path: Path) -> None:
    """The encoder sees the middle 48 x 48 pixels of 48 x 64, halved."""
    source = np.zeros((48, 64), np.uint8)
    source[10:20, 20:40] = 3
    (tmp_path / "mask.nii.gz").write_bytes(encode_mask(source))
    of_file = Trace("a", 0, "la", mask_uri=str(tmp_path / "mask.nii.gz"), mask_value=3)
    corners = ([19.5, 39.5, 39.5, 19.5], [9.5, 9.5, 19.5, 19.5])
    expected = np.zeros((24, 24), np.uint8)
    expected[5:10, 6:16] = 1
    for trace in (of_file, Trace("a", 0, "la", *corners)):
        assert np.array_equal(draw_mask(LabelledFrame("a", 0, (trace,)), ROW, 24), expected)


def test_outlines_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    outside = Trace("a", 5, "lv", [0.0, 3.0, 3.0], [0.0, 0.0, 3.0])  # left of the square
    with pytest.raises(ClipError, match="frame 5: the outline of lv holds no pixel of the picture"):
        draw_mask(LabelledFrame("a", 5, (outside,)), ROW, 24)
    (tmp_path / "mask.nii.gz").write_bytes(encode_mask(np.ones((40, 40), np.uint8)))
    unlike = Trace("a", 5, "lv", mask_uri=str(tmp_path / "mask.nii.gz"), mask_value=1)
    with pytest.raises(ClipError, match="mask of 40 x 40 pixels for a frame of 48 x 64"):
        draw_mask(LabelledFrame("a", 5, (unlike,)), ROW, 24)
    with pytest.raises(ClipError, match="no such file") as caught:
        draw_mask(LabelledFrame("a", 5, (unlike._replace(mask_uri=str(tmp_path / "absent.nii")),)), ROW, 24)
    assert "absent.nii" not in str(caught.value), "a file's name may be a patient's"


def clips(*ids: str, num_frames: int = 30) -> pa.Table:
    rows = [{"clip_id": clip_id, "num_frames": num_frames} for clip_id in ids]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def test_frames_without_every_structure_are_left_out_and_counted() -> None:
    line = ([0.0, 1.0, 1.0], [0.0, 0.0, 1.0])
    traces = [Trace("a", 3, "la", *line), Trace("a", 3, "lv", *line), Trace("a", 9, "lv", *line)]
    traces.append(Trace("gone", 1, "lv", *line))
    found = label_frames(traces, clips("a"))
    assert found.structures == ("lv", "la")
    assert [(of.clip_id, of.frame, [t.structure for t in of.traces]) for of in found.frames] == [("a", 3, ["lv", "la"])]
    assert found.left_out == {
        "outlines of videos that the manifest lacks": 1,
        "frames without all of lv, la": 1,
    }
    with pytest.raises(EvaluationError, match="clip 'a', frame 30: has an outline, but the video has 30 frames"):
        label_frames([Trace("a", 30, "lv", *line)], clips("a"))
    with pytest.raises(EvaluationError, match="two outlines of 'lv'"):
        label_frames([traces[1], traces[1]], clips("a"))


def test_the_head_finds_what_the_tokens_say() -> None:
    train, val, test = drawn(40, 0), drawn(10, 1), drawn(20, 2)
    fitted = fit_head(train, val, 2, seed=0)
    found = dice(predict(fitted.head, test.tokens, 32), test.masks, 2)
    floor = dice(np.repeat(mean_mask(train, 2)[None], 20, axis=0), test.masks, 2)
    # patches of 4 pixels tell a disc of radius 5 roughly, and the mean of places nothing
    assert found.mean() > floor.mean() + 0.2
    assert found.mean() > 0.7
    assert max(fitted.validation.values()) == fitted.validation[f"weight_decay={fitted.weight_decay:g}"]
    again = fit_head(train, val, 2, seed=0)
    assert torch.equal(again.head.weight, fitted.head.weight)
    # nothing is chosen on the test split, and the head knows no test frame: one alone gets the same answer
    assert np.array_equal(predict(fitted.head, test.tokens[:1], 32), predict(fitted.head, test.tokens, 32)[:1])


def test_what_does_not_fit_is_refused() -> None:
    train, val = drawn(6, 0), drawn(4, 1)
    refusals = {
        "no outlined frame in the validation split": (train, Drawn(val.tokens[:0], val.masks[:0])),
        "a square grid is expected": (Drawn(train.tokens[:, :63], train.masks), val),
        "encoders of different size": (train, Drawn(val.tokens[..., :9], val.masks)),
        "do not fit 6 frames of tokens": (Drawn(train.tokens, train.masks[:5]), val),
        "structure 1 has no pixel in 6 frame": (
            Drawn(train.tokens, np.where(train.masks == 1, 0, 2 * (train.masks > 0)).astype(np.uint8)),
            val,
        ),
    }
    for reason, (one, other) in refusals.items():
        with pytest.raises(EvaluationError, match=reason):
            fit_head(one, other, 2, seed=0)
    with pytest.raises(EvaluationError, match="value 2 in masks of 1 structure"):
        fit_head(train, val, 1, seed=0)
    head = fit_head(train, val, 2, seed=0).head
    with pytest.raises(EvaluationError, match=r"tokens \(9, 12\), the head was fitted on \(64, 12\)"):
        predict(head, val.tokens[:, :9], 32)


def test_scores_are_those_of_shapes_that_one_can_count() -> None:
    truth = np.zeros((3, 40, 40), np.uint8)
    truth[:, 10:20, 10:30] = 1
    predicted = truth.copy()
    predicted[1] = np.roll(truth[1], 3, axis=1)
    predicted[2] = 0
    overlap, distance = score_masks(predicted, truth, 1)
    assert np.allclose(overlap[:, 0], [1, 2 * 17 * 10 / (400), 0])
    assert np.allclose(overlap, dice(predicted, truth, 1), atol=1e-6)  # 32-bit floats against 64-bit ones
    # a rectangle moved by three pixels; where nothing was found, the diagonal
    assert np.allclose(distance[:, 0], [0, 3, math.hypot(40, 40)])


def test_ejection_fraction_follows_from_the_masks() -> None:
    """Half axes a and b of an ellipse: area-length gives 4/3 pi a b^2, so EF is known."""
    rows, columns = np.mgrid[:112, :112]

    def ellipse(a: float, b: float) -> Any:
        return ((rows - 56) / a) ** 2 + ((columns - 56) / b) ** 2 <= 1

    big, small = ellipse(40, 20), ellipse(34, 15)
    assert area_length_volume(big) == pytest.approx(4 / 3 * math.pi * 40 * 20**2, rel=0.02)  # whole pixels
    stray = big.copy()
    stray[0, 0] = True
    assert area_length_volume(stray) == area_length_volume(big)
    assert math.isnan(area_length_volume(np.zeros((9, 9), bool)))
    truth = np.stack([small, big, big, small]).astype(np.uint8)
    found = ejection_fractions(truth, truth, ["a", "a", "b", "b"], {"a": 50.0, "b": 60.0}, 1)
    expected = 100 * (1 - 34 * 15**2 / (40 * 20**2))
    assert found.clip_ids == ["a", "b"]
    assert np.allclose(found.predicted, expected, atol=1.0)
    # masks the wrong way round are wrong: no mask may choose which frame is end diastole
    wrong = ejection_fractions(truth[[1, 0, 3, 2]], truth, ["a", "a", "b", "b"], {"a": 50.0, "b": 60.0}, 1)
    assert (wrong.predicted < 0).all()
    metrics = ef_metrics(found, {"a": "p", "b": "q"}, 100, 0)
    assert metrics["mae"].value == pytest.approx((abs(expected - 50) + abs(expected - 60)) / 2, abs=1.0)
    assert ef_metrics(found._replace(truth=np.array([50.0, 50.0])), {"a": "p", "b": "q"}, 100, 0) == {}


def test_a_video_without_an_ejection_fraction_has_a_reason() -> None:
    """Four videos of two frames, one of a single frame; nothing is predicted in one frame of the second."""
    truth = np.zeros((9, 20, 20), np.uint8)
    truth[:, 5:15, 8:12] = 1
    truth[::2, 5:15, 6:14] = 1
    masks = truth.copy()
    masks[3] = 0
    ids = ["a", "a", "b", "b", "c", "c", "d", "d", "e"]
    found = ejection_fractions(masks, truth, ids, {"a": 50.0, "b": 60.0, "d": 70.0, "e": 40.0}, 1)
    assert found.clip_ids == ["a", "d"]
    assert found.truth.tolist() == [50.0, 70.0]
    assert np.isfinite(found.predicted).all()
    assert found.left_out == {EMPTY_MASK: ["b"], NO_LABEL: ["c"], NOT_TWO: ["e"]}
    nobody = ejection_fractions(np.zeros_like(truth), truth, ids, dict.fromkeys("abcde", 50.0), 1)
    assert nobody.clip_ids == []
    assert ef_metrics(nobody, {}, 100, 0) == {}


def test_draws_are_of_patients() -> None:
    draws = draws_of(["p", "p", "q"], 100, 0)
    assert all(weights[0] == weights[1] for weights in draws)
    assert json.dumps(draws.redrawn) == "0"
