"""How much of a run's time becomes progress when machines fail, and how far apart checkpoints should be.

Failures come at random, independent of one another, also while a run restarts (Daly, A higher order estimate of the
optimum checkpoint interval for restart dumps, 2006). docs/reliability.md has examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from scipy.special import lambertw

from discovr_ray.errors import ConfigError


@dataclass(frozen=True)
class FailureCosts:
    """Seconds. The pause and the restart are lost as such, a failure loses the work since the last checkpoint as well.

    Errors:
        ConfigError: a negative time, or one that is no number; failures without any time between them.
    """

    failure_interval_s: float  # mean time between failures, of any of the run's machines
    restart_s: float  # from a failure to the first step after it
    save_pause_s: float  # training stands still at every checkpoint
    save_delay_s: float = 0.0  # from then until the checkpoint counts, while training goes on

    def __post_init__(self) -> None:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        problems = [f"{name} = {value}: must be at least 0" for name, value in values.items() if not value >= 0]
        if self.failure_interval_s == 0:
            problems.append("failure_interval_s = 0: must be above 0")
        if problems:
            raise ConfigError(problems)


def expected_goodput(interval_s: float, costs: FailureCosts) -> float:
    """Share of the time that becomes progress, with `interval_s` of training from one checkpoint to the next.

    A checkpoint on its way is of no use yet, so every failure loses `save_delay_s` of work more.

    Errors:
        ConfigError: no time from one checkpoint to the next.
    """
    if not interval_s > 0:
        raise ConfigError([f"interval_s = {interval_s}: must be above 0"])
    mean = costs.failure_interval_s
    lost_per_failure_s = costs.restart_s + costs.save_delay_s
    exponent = (interval_s + costs.save_pause_s) / mean
    if exponent > 700 or lost_per_failure_s / mean > 700:
        return 0.0  # below what a float can hold
    return interval_s / (mean * math.exp(lost_per_failure_s / mean) * math.expm1(exponent))


def best_interval_s(costs: FailureCosts) -> float:
    """Seconds of training from one checkpoint to the next that make the most of the time.

    Near Young's sqrt(2 x save_pause_s x failure_interval_s) where that is short against failure_interval_s. Not below
    save_delay_s: one checkpoint at most is on its way.
    """
    mean = costs.failure_interval_s
    # where the derivative of the expected time is 0: 1 - interval / mean = exp(-(interval + pause) / mean)
    optimum = mean * (1 + float(lambertw(-math.exp(-1 - costs.save_pause_s / mean)).real))
    return max(optimum, costs.save_delay_s)
