"""Reads the signs of collapse and of waste in the last figures, and says in plain words what they mean.

Bad signs are those of train/collapse.py at the limits of the run's own `health.*`; what is merely watched has limits of
its own here. train/metrics.py defines the figures.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from discovr_ray.config import HealthConfig
from discovr_ray.train.collapse import collapse_signs

if TYPE_CHECKING:  # it brings torch, which a page does not need
    from discovr_ray.report.run_files import RunFiles

Level = Literal["good", "watch", "bad"]


class Finding(NamedTuple):
    """One judged figure."""

    level: Level
    title: str
    value: str
    scale: str  # what the ends of the range mean
    sentence: str


def findings(run: RunFiles) -> list[Finding]:
    """Everything worth looking at, worst first; empty before the first record."""
    if not run.metrics:
        return []
    checks: list[Callable[[RunFiles], Finding | None]] = [
        _loss,
        _feature_spread,
        _rank,
        _prototypes,
        lambda run: _entropy(run, "video"),
        lambda run: _entropy(run, "image"),
        _waiting,
        _padding,
        _bad_clips,
        _skipped_steps,
        _spikes,
    ]
    found = [finding for check in checks if (finding := check(run)) is not None]
    order: list[Level] = ["bad", "watch", "good"]
    return sorted(found, key=lambda finding: order.index(finding.level))


def last(run: RunFiles, name: str) -> float | None:
    """Newest value of a figure; None when it was never a number."""
    for record in reversed(run.metrics):
        value = record.get(name)
        if value is not None and math.isfinite(value):
            return float(value)
    return None


def _early(run: RunFiles) -> bool:
    return run.total_steps is not None and run.steps_done < _limits(run).early_share * run.total_steps


def _limits(run: RunFiles) -> HealthConfig:
    """The run's own; defaults for what an older version did not write."""
    written = run.config.get("health", {})
    known = {field.name for field in dataclasses.fields(HealthConfig)}
    return HealthConfig(**{name: value for name, value in written.items() if name in known})


def _is_sign(run: RunFiles, name: str) -> bool:
    """Whether a figure's newest value is a sign of collapse."""
    record = {name: last(run, name)}
    return name in collapse_signs(record, _limits(run), _size(run, "num_prototypes"), _size(run, "head_outputs"))


def _size(run: RunFiles, name: str) -> int | None:
    value: Any = run.config.get("model", {}).get(name)
    return int(value) if value else None


def _loss(run: RunFiles) -> Finding | None:
    newest = run.metrics[-1].get("loss")
    scale = "lower is not always better: the teacher moves too"
    if newest is None or not math.isfinite(newest):
        text = "The loss is not a number any more, so training has broken down; look at the gradient norm before it."
        return Finding("bad", "Loss", "not a number", scale, text)
    losses = [record["loss"] for record in run.metrics if record.get("loss") is not None]
    part = max(1, len(losses) // 5)
    begin, end = sum(losses[:part]) / part, sum(losses[-part:]) / part
    value = f"{newest:.3f}"
    if len(losses) < 5 or _early(run):
        return Finding("good", "Loss", value, scale, "Too early to judge a trend.")
    if end > begin:
        text = (
            f"The loss rose from {begin:.3f} to {end:.3f} over the run, which can be right, because the teacher's "
            "targets grow sharper, but check that the features below stay spread out."
        )
        return Finding("watch", "Loss", value, scale, text)
    return Finding("good", "Loss", value, scale, f"The loss fell from {begin:.3f} to {end:.3f} over the run.")


def _feature_spread(run: RunFiles) -> Finding | None:
    value = last(run, "feature_std")
    if value is None:
        return None
    title, text, scale = "Spread of the features", f"{value:.3f}", "0: all clips look alike to the model, 1: spread out"
    if _is_sign(run, "feature_std"):
        sentence = (
            "All clips get nearly the same features, so the encoder tells no heart from another (collapse); "
            "do not use it, and look at the learning rate, the teacher's temperature and the centring."
        )
        return Finding("bad", title, text, scale, sentence)
    if value < 0.2:
        sentence = "The features of different clips are close together; watch that this does not shrink further."
        return Finding("watch", title, text, scale, sentence)
    return Finding("good", title, text, scale, "Different clips get different features.")


def _rank(run: RunFiles) -> Finding | None:
    value, width = last(run, "rank_me"), _size(run, "width")
    if value is None:
        return None
    title, text = "Directions in use (RankMe)", f"{value:.1f}"
    scale = f"1: a single direction, {width or 'the width'}: all directions"
    if _is_sign(run, "rank_me"):
        sentence = "The features vary along one direction only, so little more than one number about a heart is kept."
        return Finding("bad", title, text, scale, sentence)
    if width and value < 0.05 * width:
        sentence = "The features use few of their directions; compare with an earlier point of the curve."
        return Finding("watch", title, text, scale, sentence)
    return Finding("good", title, text, scale, "The features vary along many directions.")


def _prototypes(run: RunFiles) -> Finding | None:
    value, count = last(run, "prototype_perplexity"), _size(run, "num_prototypes")
    if value is None:
        return None
    title, text = "Prototypes in use", f"{value:.1f}"
    scale = f"1: one for everything, {count or 'K'}: all alike"
    if _is_sign(run, "prototype_perplexity"):
        sentence = (
            "Nearly every image patch is assigned to the same prototype, so the semantic clusters say nothing about "
            "anatomy; the prototype maps below will show a single colour."
        )
        return Finding("bad", title, text, scale, sentence)
    if count and value < 0.1 * count:
        sentence = "Only a small part of the prototypes is used; fewer of them may do, or the run is still young."
        return Finding("watch", title, text, scale, sentence)
    return Finding("good", title, text, scale, "Image patches are spread over many prototypes.")


def _entropy(run: RunFiles, branch: str) -> Finding | None:
    value, outputs = last(run, f"{branch}_teacher_entropy"), _size(run, "head_outputs")
    if value is None or outputs is None:
        return None
    highest = math.log(outputs)
    title, text = f"Certainty of the {branch} teacher", f"entropy {value:.2f}"
    scale = f"0: always one answer, {highest:.2f} = log L: no answer at all"
    is_sign = _is_sign(run, f"{branch}_teacher_entropy")
    if is_sign and value > highest / 2:
        if _early(run):
            sentence = "The teacher's answers are still almost uniform, which is normal this early."
            return Finding("watch", title, text, scale, sentence)
        sentence = (
            "The teacher finds every answer equally likely, so the student has nothing to learn from it; look at the "
            "teacher's temperature and the learning rate."
        )
        return Finding("bad", title, text, scale, sentence)
    if is_sign:
        sentence = "The teacher gives nearly all weight to one answer; without a spread of features it has collapsed."
        return Finding("watch", title, text, scale, sentence)
    return Finding("good", title, text, scale, "The teacher prefers some answers without insisting on a single one.")


def _waiting(run: RunFiles) -> Finding | None:
    shares = [record["data_wait_share"] for record in run.metrics[1:] if record.get("data_wait_share") is not None]
    if not shares:
        return None
    mean = sum(shares) / len(shares)
    title, text, scale = "Waiting for data", f"{mean:.0%} of the time", "after the first record; below 10 % is fine"
    if mean > 0.1:
        sentence = "Training often waits for clips; give decoding more CPUs (data.decode_cpus) or faster storage."
        return Finding("watch", title, text, scale, sentence)
    return Finding("good", title, text, scale, "Clips arrive faster than they are used.")


def _padding(run: RunFiles) -> Finding | None:
    value = last(run, "padded_share")
    if not value or value < 0.05:
        return None
    sentence = (
        "Many videos are shorter than one window, so frames are repeated; shorten the window (data.num_frames, "
        "data.frame_stride) or choose data.short_clip = fit_stride."
    )
    return Finding("watch", "Repeated frames", f"{value:.0%}", "share of the frames seen", sentence)


def _skipped_steps(run: RunFiles) -> Finding | None:
    count = int(last(run, "skipped_steps") or 0)
    if not count:
        return None
    sentence = (
        "In these steps the loss or the gradient was not a number, so nothing was learnt from them; a few do no harm. "
        "More and more of them ask for a lower learning rate or clipping (optim.grad_clip_norm)."
    )
    return Finding("watch", "Steps skipped", str(count), "0 when every gradient is sound", sentence)


def _spikes(run: RunFiles) -> Finding | None:
    steps = [int(record["step"]) for record in run.metrics if record.get("loss_spikes")]
    if not steps:
        return None
    sentence = (
        f"The loss jumped far above its median of the steps before, for the last time near step {steps[-1]}; look at "
        "the gradient norm there, and whether the figures of collapse changed afterwards."
    )
    return Finding("watch", "Loss spikes", str(len(steps)), "records with one; 0 is best", sentence)


def _bad_clips(run: RunFiles) -> Finding | None:
    count = len({record.get("clip_id") for record in run.quarantine}) or int(last(run, "bad_clips") or 0)
    if not count:
        return None
    sentence = "These clips could not be read and were left out of training; the table below says why."
    return Finding("watch", "Clips left out", str(count), "0 when every file is sound", sentence)
