"""Signs of collapse in a record of metrics, at the limits of `health.*`. Knows no torch: the report judges by it too.

train/metrics.py defines the figures. The limits are rules of thumb for telling a run that has failed from one that has
not; none of them is a measure of quality.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from discovr_ray.config import HealthConfig


def collapse_signs(
    record: Mapping[str, float | None], health: HealthConfig, num_prototypes: int | None, head_outputs: int | None
) -> dict[str, str]:
    """Figure -> what is wrong with it. A figure that is missing, or is no number, is no sign.

    Args:
        num_prototypes: K; None when it is not known, like `head_outputs`, L.
    """
    signs = {}

    def below(name: str, limit: float, what: str) -> None:
        value = record.get(name)
        if value is not None and value < limit:
            signs[name] = f"{name} is {value:.3g}, below {limit:.3g}: {what}"

    below("feature_std", health.min_feature_std, "all clips get nearly the same features")
    below("rank_me", health.min_rank_me, "the features vary along one direction only")
    fewest = max(2.0, health.min_prototype_share * (num_prototypes or 0))
    below("prototype_perplexity", fewest, "nearly all patches fall into the same cluster")
    if head_outputs is None:
        return signs
    for name in ("video_teacher_entropy", "image_teacher_entropy"):
        below(name, health.min_entropy_share * math.log(head_outputs), "the teacher gives one answer to everything")
        value, limit = record.get(name), health.max_entropy_share * math.log(head_outputs)
        if value is not None and value > limit:
            signs[name] = f"{name} is {value:.3g}, above {limit:.3g}: the teacher finds all answers equally likely"
    return signs
