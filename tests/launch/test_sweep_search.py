"""What passes between Ray Tune and the book of a sweep, without a cluster."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState
from pretrain_runs import ROOT
from ray.tune.search import Searcher

from discovr_ray.launch.sweep_search import RungScheduler, StudySearch, last_error
from discovr_ray.launch.sweep_trial import Outcome
from discovr_ray.sweep.book import Book
from discovr_ray.sweep.folder import WHY
from discovr_ray.sweep.spec import load_sweep
from discovr_ray.sweep.study import load_study, open_study


class Bridge:
    """Both sides of a sweep of three trials, compared at 15 of 45 steps."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ended, errors = folder, 0, dict[str, str]()
        sweep = load_sweep(ROOT / "sweeps" / "demo.yaml", (), {"trials": 3, "storage_path": str(folder)})
        self.book = Book(open_study(sweep, str(folder), resume=False), sweep)
        self.search = StudySearch(self.book, errors)
        self.scheduler = RungScheduler(self.book, errors, self._count)

    def suggest(self, name: str) -> Any:
        self.trial = SimpleNamespace(trial_id=name, config=self.search.suggest(name), error_file=None)
        return self.trial.config

    def answer(self, outcome: Outcome) -> str:
        return self.scheduler.on_trial_result(None, self.trial, {**outcome._asdict(), "done": False})

    def told(self, number: int) -> FrozenTrial:
        return load_study(str(self.folder), "demo").get_trials()[number]

    def _count(self) -> None:
        self.ended += 1


@pytest.fixture
def bridge(tmp_path: Path) -> Bridge:
    return Bridge(tmp_path)


def test_a_trial_goes_from_rung_to_rung(bridge: Bridge) -> None:
    config = bridge.suggest("a")
    assert (config["number"], config["passed"]) == (0, [])
    assert bridge.answer(Outcome(15, [0.5])) == "CONTINUE"
    assert bridge.answer(Outcome(45, [0.6])) == "STOP"
    assert bridge.answer(Outcome(45, [0.6])) == "STOP"  # Tune repeats the last result
    bridge.search.on_trial_complete("a", {})
    assert (bridge.told(0).state, bridge.told(0).value, bridge.ended) == (TrialState.COMPLETE, 0.6, 1)


def test_a_stopped_trial_stays_open_for_the_next_start(bridge: Bridge) -> None:
    bridge.suggest("a")
    bridge.book.is_stopping = True
    assert bridge.answer(Outcome(7, [], stopped=True)) == "STOP"
    bridge.search.on_trial_complete("a", {})
    assert bridge.told(0).state == TrialState.RUNNING
    assert bridge.suggest("b") == Searcher.FINISHED


def test_after_a_stop_that_no_signal_asked_for_nothing_new_begins(bridge: Bridge) -> None:
    """Another start has taken the sweep over: only the flag was told."""
    bridge.suggest("a")
    bridge.answer(Outcome(7, [], stopped=True))
    bridge.search.on_trial_complete("a", {})
    assert bridge.suggest("b") == Searcher.FINISHED


@pytest.mark.parametrize(
    ("outcome", "state", "why"),
    [
        (Outcome(3, [], diverged="loss is nan"), TrialState.COMPLETE, "ended by its training: loss is nan"),
        (Outcome(3, [], failed="no manifest"), TrialState.FAIL, "failed: no manifest"),
    ],
)
def test_trials_that_another_try_cannot_mend(bridge: Bridge, outcome: Outcome, state: TrialState, why: str) -> None:
    bridge.suggest("a")
    assert bridge.answer(outcome) == "STOP"
    assert (bridge.told(0).state, bridge.told(0).user_attrs[WHY]) == (state, why)


def test_a_trial_fails_after_its_last_try_with_the_last_reason(bridge: Bridge, tmp_path: Path) -> None:
    bridge.suggest("a")
    path = tmp_path / "error.txt"
    for reason in ("first", "second"):
        with path.open("a") as file:
            file.write(
                f"Failure\nTraceback (most recent call last):\n  f()\ndiscovr_ray.errors.StorageError: {reason}\nmore\n"
            )
        bridge.trial.error_file = str(path)
        bridge.scheduler.on_trial_error(None, bridge.trial)
        assert bridge.told(0).state == TrialState.RUNNING
    bridge.search.on_trial_complete("a", error=True)
    assert (bridge.told(0).state, bridge.told(0).user_attrs[WHY]) == (TrialState.FAIL, "failed: StorageError: second")


def test_the_end_of_the_budget_ends_the_search(bridge: Bridge) -> None:
    assert [bridge.suggest(name)["number"] for name in "abc"] == [0, 1, 2]
    assert bridge.suggest("d") == Searcher.FINISHED


def test_tune_can_pickle_both(bridge: Bridge) -> None:
    """It does, for a restore that is never made: `--resume` reads the study."""
    assert pickle.loads(pickle.dumps(bridge.search))
    assert pickle.loads(pickle.dumps(bridge.scheduler))


def test_text_without_an_error_has_no_reason() -> None:
    assert last_error("") == "no reason given"
