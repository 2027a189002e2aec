"""The book of a sweep over a real SQLite study: budgets, rungs, and starts that were killed."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import optuna
import pytest
from made_sweep import made_sweep
from optuna.trial import TrialState

from discovr_ray.errors import SweepError
from discovr_ray.sweep.book import Assignment, Book
from discovr_ray.sweep.folder import SECONDS, STEPS, WHY
from discovr_ray.sweep.spec import Sweep
from discovr_ray.sweep.study import load_study, open_study
from discovr_ray.sweep.warm_starts import warm_starts


def open_book(folder: Path, sweep: Sweep, resume: bool = False) -> Book:
    return Book(open_study(sweep, str(folder), resume), sweep)


def trial(folder: Path, number: int) -> optuna.trial.FrozenTrial:
    return load_study(str(folder), "made").get_trials()[number]


def begin(book: Book) -> Assignment:
    found = book.next_trial()
    assert found is not None
    return found


def test_trials_end_at_rungs_and_the_study_says_why(tmp_path: Path) -> None:
    book = open_book(tmp_path, made_sweep(tmp_path))
    assert [begin(book).number for _ in range(3)] == [0, 1, 2]
    assert book.report(0, 3, [5.0])
    assert not book.report(1, 3, [4.0])
    assert book.report(2, 3, [6.0])
    assert not book.report(0, 9, [5.5])
    stopped, trained = trial(tmp_path, 1), trial(tmp_path, 0)
    assert (stopped.state, stopped.value, stopped.user_attrs[STEPS]) == (TrialState.PRUNED, 4.0, 3)
    assert stopped.user_attrs[WHY] == "ASHA: at step 3, 1 of 1 others were better"
    assert (trained.state, trained.value, trained.user_attrs[STEPS]) == (TrialState.COMPLETE, 5.5, 9)
    assert trained.user_attrs[WHY] == "trained to the end"
    assert trained.user_attrs[SECONDS] >= 0


def test_a_killed_start_is_continued_and_nothing_counts_twice(tmp_path: Path) -> None:
    sweep = made_sweep(tmp_path, trials=3)
    book = open_book(tmp_path, sweep)
    values = [begin(book).values for _ in range(2)]
    assert book.report(0, 3, [5.0])  # trial 0 goes on; then the driver is gone
    again = open_book(tmp_path, sweep, resume=True)
    assert begin(again) == Assignment(0, values[0], passed=[3])
    assert begin(again) == Assignment(1, values[1], passed=[])
    assert begin(again).number == 2
    assert again.next_trial() is None
    assert again.report(0, 3, [1.0])  # a rung that was passed is not decided again, and keeps its value
    assert trial(tmp_path, 0).intermediate_values == {3: 5.0}
    for number in range(3):
        again.fail(number, "made so")
    assert not load_study(str(tmp_path), "made").get_trials(states=[TrialState.RUNNING])
    assert open_book(tmp_path, sweep, resume=True).next_trial() is None


def test_an_interrupted_sweep_draws_what_an_uninterrupted_one_draws(tmp_path: Path) -> None:
    drawn = []
    for place in ("whole", "interrupted"):
        folder = tmp_path / place
        folder.mkdir()
        sweep = made_sweep(folder, asha={})
        book = open_book(folder, sweep)
        for number in range(5):
            if place == "interrupted":
                book = open_book(folder, sweep, resume=True)
            drawn.append(begin(book).values)
            book.report(number, 9, [drawn[-1]["loss.w_scd"]])
    assert drawn[:5] == drawn[5:]
    assert len({str(values) for values in drawn}) == 5


def test_a_trial_that_was_killed_before_its_values_were_drawn_gets_the_same_ones(tmp_path: Path) -> None:
    drawn = []
    for place in ("whole", "killed"):
        folder = tmp_path / place
        folder.mkdir()
        sweep = made_sweep(folder, search={"sampler": "random"})
        if place == "killed":
            open_study(sweep, str(folder), resume=False).ask()
        drawn.append(begin(open_book(folder, sweep, resume=place == "killed")))
    assert drawn[0] == drawn[1]


def test_first_points_come_first(tmp_path: Path) -> None:
    book = open_book(tmp_path, made_sweep(tmp_path))
    book.enqueue_first([{"loss.w_scd": 0.25}, {"loss.w_scd": 1.0, "model.num_prototypes": 20}])
    assert begin(book).values["loss.w_scd"] == 0.25
    assert begin(book).values == {"loss.w_scd": 1.0, "model.num_prototypes": 20}


def test_diverged_trials_teach_the_sampler_and_failed_ones_do_not(tmp_path: Path) -> None:
    book = open_book(tmp_path, made_sweep(tmp_path))
    begin(book), begin(book)
    book.diverged(0, 2, "loss is nan")
    book.fail(1, "no disk")
    assert (trial(tmp_path, 0).value, trial(tmp_path, 0).state) == (0.0, TrialState.COMPLETE)
    assert trial(tmp_path, 0).user_attrs[WHY] == "ended by its training: loss is nan"
    assert (trial(tmp_path, 1).value, trial(tmp_path, 1).state) == (None, TrialState.FAIL)
    assert trial(tmp_path, 1).user_attrs[WHY] == "failed: no disk"


def test_a_combination_that_no_check_met_is_a_failed_trial(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sweep = made_sweep(tmp_path, space={"model.decoder_width": {"choice": [63, 64]}}, search={"sampler": "random"})
    book = open_book(tmp_path, sweep)
    book.enqueue_first([{"model.decoder_width": 63}])
    with caplog.at_level(logging.INFO, "discovr_ray"):
        assert begin(book).number > 0
    assert "must divide model.decoder_width = 63" in trial(tmp_path, 0).user_attrs[WHY]


def test_trials_that_fail_one_after_another_end_the_sweep(tmp_path: Path) -> None:
    sweep = made_sweep(tmp_path, trials=0, hours=1.0, max_failures=3, asha={})
    book = open_book(tmp_path, sweep)
    for number in range(7):
        assert begin(book).number == number
    for number in (0, 1):
        book.fail(number, "no disk")
    book.report(2, 9, [5.0])  # the count begins anew
    for number in (3, 4, 5):
        assert not book.given_up
        book.fail(number, f"no disk {number}")
    book.report(6, 9, [5.0])  # it was under way; too late to go on
    assert book.next_trial() is None
    assert book.given_up == (
        "max_failures = 3: so many trials have failed one after another, the last one, 5: no disk 5"
    )
    assert begin(open_book(tmp_path, sweep, resume=True)).number == 7  # somebody has removed the cause


def test_combinations_that_no_check_met_end_the_sweep_too(tmp_path: Path) -> None:
    space = {"model.decoder_width": {"choice": [61, 63]}}
    book = open_book(tmp_path, made_sweep(tmp_path, trials=0, hours=1.0, space=space, search={"sampler": "random"}))
    assert book.next_trial() is None
    assert book.given_up.startswith("max_failures = 5: ")
    assert book.count()[TrialState.FAIL] == 5


def test_after_its_hours_a_sweep_begins_nothing_and_ends_at_rungs(tmp_path: Path) -> None:
    book = open_book(tmp_path, made_sweep(tmp_path, hours=1e-9))
    assert book.next_trial() is None
    sweep = made_sweep(tmp_path, hours=1.0)
    book = open_book(tmp_path, sweep, resume=True)
    begin(book)
    load_study(str(tmp_path), "made").set_user_attr("spent_s", 3600.0)
    late = open_book(tmp_path, sweep, resume=True)
    assert late.next_trial() == Assignment(0, trial(tmp_path, 0).params, [])  # interrupted: it has begun
    assert not late.report(0, 3, [5.0])
    assert trial(tmp_path, 0).user_attrs[WHY] == "stopped at step 3: hours = 1 spent"
    assert late.next_trial() is None


def test_several_objectives_are_kept_in_order(tmp_path: Path) -> None:
    sweep = made_sweep(tmp_path, objective=["quality", "clips_per_s"], asha={})
    book = open_book(tmp_path, sweep)
    begin(book)
    assert not book.report(0, 9, [5.0, 30.0])
    assert trial(tmp_path, 0).values == [5.0, 30.0]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"space": {"loss.w_scd": {"uniform": [0, 1]}}}, "space"),
        ({"overrides": ["probe.label=abnormal"]}, "objective"),
        ({"steps": 8}, "steps"),
        ({"overrides": ["run.seed=1"]}, "config"),
        ({"overrides": ["optim.lr=1.0e-3"]}, "config"),
    ],
)
def test_a_study_of_another_sweep_is_refused(tmp_path: Path, changes: dict[str, Any], part: str) -> None:
    open_study(made_sweep(tmp_path), str(tmp_path), resume=False)
    with pytest.raises(SweepError, match=f"{part}: not that of the study 'made'"):
        open_study(made_sweep(tmp_path, **changes), str(tmp_path), resume=True)


def test_budgets_and_resources_may_change(tmp_path: Path) -> None:
    open_study(made_sweep(tmp_path), str(tmp_path), resume=False)
    changed = made_sweep(tmp_path, trials=9, retries=0, overrides=["run.cpus_per_worker=1"])
    open_study(changed, str(tmp_path), resume=True)


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    sweep = made_sweep(tmp_path)
    open_study(sweep, str(tmp_path), resume=False)
    with pytest.raises(SweepError, match="has a study of this name"):
        open_study(sweep, str(tmp_path), resume=False)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:////no/such/folder/sweep.db", "unable to open database file"),
        ("oracel://me:secret@host/db", "oracel://me:***@host/db"),
        ("postgresql://me:secret@more:w@host/db", "in a password @ is written %40"),
        ("postgresql://me:secret@more@host/db", "in a password @ is written %40"),
        ("postgresql://me:secret@host:port/db", "postgresql://me:***@host:port/db: cannot be taken apart"),
    ],
)
def test_a_storage_that_cannot_be_used_is_refused(tmp_path: Path, url: str, expected: str) -> None:
    sweep = made_sweep(tmp_path, storage=url)
    with pytest.raises(SweepError) as caught:
        open_study(sweep, str(tmp_path), resume=False)
    assert expected in str(caught.value)
    assert "secret" not in str(caught.value)


def test_warm_starts_are_the_best_that_fit(tmp_path: Path) -> None:
    sweep = made_sweep(tmp_path, asha={})
    book = open_book(tmp_path, sweep)
    book.enqueue_first([{"loss.w_scd": w_scd, "model.num_prototypes": 20} for w_scd in (0.5, 1.5, 1.0)])
    for number, value in enumerate((2.0, 9.0, 3.0)):
        begin(book)
        book.report(number, 9, [value])
    narrow = made_sweep(tmp_path, space={**sweep.spec.space, "loss.w_scd": {"uniform": [0.0, 1.2]}}).space
    url = f"sqlite:///{tmp_path}/sweep.db"
    for source in (url, f"{url}::made"):
        found = warm_starts(source, narrow)
        assert [values["loss.w_scd"] for values in found] == [1.0, 0.5]  # 1.5 lies outside
    other = made_sweep(tmp_path, space={"optim.lr": {"uniform": [0.1, 0.2]}}).space
    with pytest.raises(SweepError, match="none of its 3 finished trials fits"):
        warm_starts(url, other)
    with pytest.raises(SweepError, match="no sweep's folder"):
        warm_starts(str(tmp_path / "nowhere"), narrow)


def test_diverged_trials_are_no_warm_starts(tmp_path: Path) -> None:
    sweep = made_sweep(tmp_path)
    book = open_book(tmp_path, sweep)
    values = [begin(book).values for _ in range(3)]
    book.diverged(0, 2, "loss is nan")
    assert book.report(1, 3, [5.0])
    assert not book.report(1, 9, [5.0])
    assert not book.report(2, 3, [4.0])
    assert warm_starts(f"sqlite:///{tmp_path}/sweep.db", sweep.space) == values[1:]


def test_warm_starts_from_a_study_that_was_minimised_are_its_lowest(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/other.db"
    study = optuna.create_study(storage=url, study_name="other", direction="minimize")
    for w_scd, loss in ((0.5, 3.0), (1.5, 1.0)):
        study.enqueue_trial({"loss.w_scd": w_scd})
        trial = study.ask()
        trial.suggest_float("loss.w_scd", 0.0, 2.0)
        study.tell(trial, loss)
    space = made_sweep(tmp_path, space={"loss.w_scd": {"uniform": [0.0, 2.0]}}).space
    assert [values["loss.w_scd"] for values in warm_starts(url, space)] == [1.5, 0.5]


def test_the_budget_can_be_raised_later(tmp_path: Path) -> None:
    sweep = made_sweep(tmp_path, trials=1)
    begin(open_book(tmp_path, sweep))
    more = dataclasses.replace(sweep, spec=dataclasses.replace(sweep.spec, trials=2))
    book = open_book(tmp_path, more, resume=True)
    assert [begin(book).number, begin(book).number] == [0, 1]
    assert book.next_trial() is None
