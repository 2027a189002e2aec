"""What becomes of trouble in training: steps without a usable gradient, losses that jump, features that collapse."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median

from discovr_ray.config import Config, RunPlan
from discovr_ray.errors import CollapseError, NonFiniteError
from discovr_ray.train import ranks
from discovr_ray.train.collapse import collapse_signs

logger = logging.getLogger(__name__)


class Health:
    """One run's skipped steps, which checkpoints keep, and the recent past that new figures are compared with.

    Steps count from 1, as in the log. Every rank has one; all see the same losses, and rank 0 alone the figures.
    """

    def __init__(self, config: Config, plan: RunPlan, skipped_steps: Sequence[int] = ()) -> None:
        """`skipped_steps` are those of the run before this session."""
        self.skipped_steps = list(skipped_steps)
        self._config = config
        self._first_judged = config.health.early_share * plan.total_steps
        self._losses: deque[float] = deque(maxlen=config.health.spike_window_steps)
        self._spikes = 0  # since the last record
        self._last_spike = -math.inf  # its step
        self._seen_since: dict[str, int] = {}  # figure -> step of the record in which its sign began
        self._lasting: dict[str, str] = {}  # figure -> sign of the last record

    def skip(self, step: int, terms: Mapping[str, float]) -> None:
        """Count a step that was done without an update; `terms` are its losses and its gradient's norm.

        Errors:
            NonFiniteError: more than `health.max_skipped_in_row` in a row, on every rank.
        """
        self.skipped_steps.append(step)
        first = _start_of_row(self.skipped_steps)
        in_row, allowed = step - first + 1, self._config.health.max_skipped_in_row
        cause = next(f"{name} is {value}" for name, value in terms.items() if not math.isfinite(value))
        if in_row > allowed:
            raise NonFiniteError(
                f"step {step}: {cause}; {in_row} step{'s' * (in_row > 1)} in a row could not be used, from step "
                f"{first} on, and health.max_skipped_in_row = {allowed}; the weights are those of step {first - 1}"
            )
        self._warn("step %d is skipped: %s (%d in a row, %d allowed)", step, cause, in_row, allowed)

    def observe(self, step: int, loss: float) -> None:
        """Compare the loss of a step with those before it."""
        full = len(self._losses) == self._losses.maxlen
        usual = median(self._losses) if full else math.inf
        self._losses.append(loss)
        if loss <= self._config.health.spike_factor * usual:
            return
        self._spikes += 1
        if step > self._last_spike + len(self._losses):  # a loss that stays high is no news
            self._warn("step %d: the loss is %.4f; its median over the steps before was %.4f", step, loss, usual)
        self._last_spike = step

    def judge(self, record: Mapping[str, float]) -> dict[str, int]:
        """What rank 0 adds to a record: troubles so far, and warnings that the record gives rise to."""
        lasting = self._lasting_signs(record)
        for name in lasting.keys() - self._lasting.keys():
            logger.warning("%s", lasting[name])
        self._lasting, spikes, self._spikes = lasting, self._spikes, 0
        return {
            "skipped_steps": len(self.skipped_steps),
            "loss_spikes": spikes,
            "health_warnings": len(lasting) + (spikes > 0),
        }

    def refuse_collapse(self) -> None:
        """Every rank must call it, after rank 0 judged a record.

        Errors:
            CollapseError: a sign has lasted `health.patience_steps` and `health.on_collapse` is stop; on every rank.
        """
        if self._config.health.on_collapse == "stop" and not ranks.all_agree(not self._lasting):
            raise CollapseError("; ".join(self._lasting.values()) or "rank 0 saw a sign of collapse")

    def _lasting_signs(self, record: Mapping[str, float]) -> dict[str, str]:
        """Figure -> its sign of collapse, if it has lasted."""
        step, model = int(record["step"]), self._config.model
        signs = {}
        if step > self._first_judged:
            signs = collapse_signs(record, self._config.health, model.num_prototypes, model.head_outputs)
        self._seen_since = {name: self._seen_since.get(name, step) for name in signs}
        return {
            name: f"step {step}: {text} (since step {self._seen_since[name]})"
            for name, text in signs.items()
            if step - self._seen_since[name] >= self._config.health.patience_steps
        }

    def _warn(self, message: str, *values: object) -> None:
        """For what every rank sees."""
        if ranks.rank() == 0:
            logger.warning(message, *values)


def _start_of_row(steps: Sequence[int]) -> int:
    """The first of the consecutive numbers that the sequence ends with."""
    first = steps[-1]
    for earlier in reversed(steps[:-1]):
        if earlier != first - 1:
            break
        first = earlier
    return first
