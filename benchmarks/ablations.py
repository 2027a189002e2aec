"""What parts of the method are worth: the paper's ablations at the trial's size, and the reference's mistake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from misaligned import misalign
from variants import Variant, in_changed_workers

from discovr_ray.config import Config


def short_clips(config: Config) -> Mapping[str, Mapping[str, Any]]:
    """The paper goes from 64 frames to 16."""
    return {"data": {"num_frames": max(config.model.tubelet_size, config.data.num_frames // 4)}}


ABLATIONS = (
    Variant("without SCD", "no-scd", {"loss": {"w_scd": 0.0}}),
    Variant("50 % masks", "half-masks", {"mask": {"video_ratio": 0.5, "image_ratio": 0.5}}),
    Variant("short clips (a quarter of the frames)", "short-clips", short_clips),
    Variant("the reference's misaligned SCD", "misaligned", {}, in_changed_workers(misalign)),
)
