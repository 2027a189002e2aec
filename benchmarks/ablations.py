"""What parts of the method are worth: the paper's ablations at the trial's size, and the reference's mistake."""

from __future__ import annotations

from misaligned import misalign
from variants import Variant, in_changed_workers

from discovr_ray.config import Config

FOLDER = "ablations"


def ablations_of(config: Config) -> list[Variant]:
    return [
        Variant("whole method", "whole", {}),
        Variant("without SCD", "no-scd", {"loss": {"w_scd": 0.0}}),
        Variant("50 % masks", "half-masks", {"mask": {"video_ratio": 0.5, "image_ratio": 0.5}}),
        Variant("short clips (a quarter of the frames)", "short-clips", {"data": {"num_frames": _short(config)}}),
        Variant("the reference's misaligned SCD", "misaligned", {}, in_changed_workers(misalign)),
    ]


def _short(config: Config) -> int:
    """The paper goes from 64 frames to 16."""
    return max(config.model.tubelet_size, config.data.num_frames // 4)
