"""Tables on disk for what may be a million rows: SQLite in a temporary file, which goes away by itself.

A few megabytes of memory whatever their size; about a kilobyte of disk a row, in $SQLITE_TMPDIR, $TMPDIR or /var/tmp.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

from discovr_ray.errors import StorageError

CACHE_KB = 8000  # of pages, and of what is sorted at once


def open_scratch() -> sqlite3.Connection:
    """An empty database of this process alone, in a transaction that never ends: nothing can be undone."""
    connection = sqlite3.connect("", isolation_level=None)
    for setting in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE_KB}", "temp_store = FILE"):
        connection.execute(f"PRAGMA {setting}")
    connection.execute("BEGIN")  # a transaction for each row takes four times as long
    return connection


def run_script(connection: sqlite3.Connection, script: str) -> None:
    """Several statements, which executescript would leave outside of a transaction."""
    connection.executescript(f"{script}; BEGIN")


@contextmanager
def scratch() -> Iterator[sqlite3.Connection]:
    """`open_scratch`, closed at the end. Errors: StorageError, there is no room for it."""
    with closing(open_scratch()) as connection, full_disk_named():
        yield connection


@contextmanager
def full_disk_named() -> Iterator[None]:
    """Turn what SQLite says of the disk into StorageError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
            raise
        raise StorageError(f"temporary tables, in $TMPDIR or /var/tmp: {error}") from error


def in_order(texts: Iterable[str]) -> Iterator[str]:
    """Any number of texts, sorted as sorted() does it."""
    with scratch() as tables:
        tables.execute("CREATE TABLE texts (text TEXT)")
        tables.executemany("INSERT INTO texts VALUES (?)", ((text,) for text in texts))
        for (text,) in tables.execute("SELECT text FROM texts ORDER BY text"):
            yield text
