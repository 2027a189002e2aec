"""What Ray Tune asks and is told, passed on to the sweep's book.

Tune places the trials, limits how many run at once and tries failed ones again. Which comes next and which goes on is
the book's to say: Tune's own OptunaSearch loses the study when a driver is killed, and its ASHA the rungs.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from discovr_ray.sweep.book import Book

logger = logging.getLogger(__name__)


class StudySearch(Searcher):
    """Trials of the book, interrupted ones first."""

    def __init__(self, book: Book, errors: dict[str, str]) -> None:
        """`errors`: Tune's name of a trial -> its last error, which `RungScheduler` writes down."""
        super().__init__()
        self._book, self._errors = book, errors
        self._numbers: dict[str, int] = {}

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        found = self._book.next_trial()
        if found is None:
            return str(Searcher.FINISHED)
        self._numbers[trial_id] = found.number
        names, values = list(found.values), list(found.values.values())
        return {"number": found.number, "names": names, "values": values, "passed": found.passed}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """With `error` all tries are used up."""
        number = self._numbers.pop(trial_id)
        if error and self._book.is_open(number):
            self._book.fail(number, self._errors.get(trial_id, "no reason given"))

    def save(self, checkpoint_path: str) -> None:
        """The study has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it for a restore that is never made


class RungScheduler(FIFOScheduler):
    """Ends a trial where the book says so."""

    def __init__(self, book: Book, errors: dict[str, str], on_end: Callable[[], None]) -> None:
        """`on_end` is called after every trial that has ended."""
        super().__init__()
        self._book, self._errors, self._on_end = book, errors, on_end

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        number = int(trial.config["number"])
        if result["stopped"]:  # the flag is the whole sweep's
            self._book.is_stopping = True
        if not self._book.is_open(number) or result["stopped"]:
            return str(TrialScheduler.STOP)
        if result["failed"]:
            self._book.fail(number, result["failed"])
        elif result["diverged"]:
            self._book.diverged(number, result["step"], result["diverged"])
        elif self._book.report(number, result["step"], result["values"]):
            return str(TrialScheduler.CONTINUE)
        self._on_end()
        return str(TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Called for every try; the searcher hears of the last one."""
        path = Path(trial.error_file or "")  # of all tries; Tune's own look at it sees the storage's older copy
        self._errors[trial.trial_id] = cause = last_error(path.read_text() if path.is_file() else "")
        logger.warning("trial %d has failed: %s", int(trial.config["number"]), cause)

    def __getstate__(self) -> dict[str, Any]:
        return {}


def last_error(text: str) -> str:
    """Of tracebacks, one behind the other: the line that names the last error."""
    named = re.findall(r"^(?:\w+\.)*(\w*(?:Error|Exception)\b.*)$", text, re.MULTILINE)
    return str(named[-1]) if named else "no reason given"
