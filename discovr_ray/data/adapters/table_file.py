"""Tables of data sets: their lines, their cells, and the files that they list."""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import re
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import PurePosixPath
from typing import NamedTuple

from discovr_ray.data import storage
from discovr_ray.data.adapters.listing import Found, Rejected, Row
from discovr_ray.data.scratch import in_order, scratch
from discovr_ray.errors import ManifestError, StorageError

Label = str | int | float
Line = dict[str, str]

VIDEO_SUFFIXES = (".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
DICOM_SUFFIXES = (".dcm", ".dicom")
MEDIA_SUFFIXES = (*VIDEO_SUFFIXES, *DICOM_SUFFIXES, ".nii", ".nii.gz")

_WHOLE = r"-?(0|[1-9]\d*)"
_DECIMAL = rf"({_WHOLE}(\.\d*)?|-?\.\d+)(e[-+]?\d+)?"
_GROUPED = """
SELECT name, cells FROM lines JOIN (SELECT name AS key, min(rowid) AS first FROM lines GROUP BY name) ON name = key
ORDER BY first, lines.rowid
"""


@contextmanager
def read_table(uri: str) -> Iterator[tuple[list[str], Iterator[Line]]]:
    """(columns, lines) of a CSV file with a header in UTF-8.

    Errors:
        ManifestError: not such a file; while the lines are read, one that is broken.
    """
    with storage.open_file(uri) as file:
        text = io.TextIOWrapper(file, "utf-8-sig", newline="")
        reader = csv.DictReader(text, restval="", strict=True)
        try:
            columns = list(reader.fieldnames or ())
        except (UnicodeDecodeError, csv.Error) as error:
            raise ManifestError(f"{uri}: not a table in UTF-8: {error}") from error
        yield columns, _unbroken(uri, reader)


def _unbroken(uri: str, reader: csv.DictReader[str]) -> Iterator[Line]:
    while True:
        number = reader.line_num + 1
        try:
            line = next(reader, None)
        except csv.Error as error:
            raise ManifestError(f"{uri}: line {number}: {error}; is a quote left open?") from error
        except UnicodeDecodeError as error:
            raise ManifestError(f"{uri}: not a table in UTF-8, from line {number} on: {error}") from error
        if line is None:
            return
        if any(surplus := line.pop(None, [])):  # the reader puts them under no name; empty ones say nothing
            raise ManifestError(f"{uri}: line {number}: more cells than columns, such as {surplus[-1]!r}")
        yield line


def read_lines(uri: str, needed: Sequence[str]) -> Iterator[Line]:
    """Lines of a table with these columns; one whose first needed cell is empty is no line.

    Errors:
        ManifestError: not a table, or a column is missing, raised here, not at the first line; a broken line, later.
    """
    with ExitStack() as stack:
        columns, lines = stack.enter_context(read_table(uri))
        check_columns(uri, needed, columns)
        return _until_closed((line for line in lines if line[needed[0]].strip()), stack.pop_all())


def _until_closed(lines: Iterator[Line], file: ExitStack) -> Iterator[Line]:
    with file:
        yield from lines


def has_columns(uri: str, names: Sequence[str]) -> bool:
    """Whether there is a table with these columns."""
    if not storage.exists(uri):
        return False
    try:
        with read_table(uri) as (columns, _):
            return set(names) <= set(columns)
    except ManifestError:
        return False


def check_columns(uri: str, needed: Iterable[str], found: Collection[str]) -> None:
    missing = [column for column in needed if column not in found]
    if missing:
        raise ManifestError(f"{uri}: missing column(s) {', '.join(missing)}{suggestion(missing, found)}")


def suggestion(wrong: Iterable[str], known: Collection[str]) -> str:
    """The end of a message about wrong names: the nearest of the known ones, and up to 20 of them all."""
    lower = {name.lower(): name for name in known}
    near = [lower[match] for name in wrong for match in difflib.get_close_matches(name.lower(), lower, 1)]
    question = f"; is it {', '.join(dict.fromkeys(near))}?" if near else ""
    more = ", ..." if len(known) > 20 else ""
    return f"{question} There are: {', '.join(sorted(known)[:20]) or 'none'}{more}"


def cell_value(text: str) -> Label:
    """A cell as the number that it is, else as text; 007 and nan are text."""
    if re.fullmatch(_WHOLE, text):
        return int(text)
    return float(text) if re.fullmatch(_DECIMAL, text, re.IGNORECASE) else text


def cell_number(line: Mapping[str, str], column: str) -> float | None:
    """The finite number in a cell; None where it is empty, or the table has no such column.

    Errors:
        ValueError: something else is in it.
    """
    text = (line.get(column) or "").strip()
    try:
        number = float(text) if text else None
    except ValueError:
        raise ValueError(f"{column} = {text!r} is no number") from None
    if number is not None and not math.isfinite(number):
        raise ValueError(f"{column} = {text!r} is no number")
    return number


def numbers(line: Mapping[str, str], names: Mapping[str, str]) -> dict[str, Label]:
    """Labels of the columns in `names` (column -> label) that hold a number."""
    found = {label: cell_number(line, column) for column, label in names.items()}
    return {label: number for label, number in found.items() if number is not None}


def as_json(labels: Mapping[str, Label]) -> str:
    return json.dumps(labels, sort_keys=True, allow_nan=False)


def stem(name: str) -> str:
    """A path without the extension of a video, DICOM or NIfTI file."""
    name = name.strip()
    endings = [suffix for suffix in MEDIA_SUFFIXES if name.lower().endswith(suffix)]
    return name[: -max(map(len, endings))] if endings else name


def file_stem(name: str) -> str:
    """The same without folders; some tables leave the extension out, copies of them do not."""
    return stem(PurePosixPath(name.strip()).name)


class Files(NamedTuple):
    """Files of a data set, and the names that its table has for them."""

    uris: Iterable[str]
    name_of: Callable[[str], str]
    missing: str  # where a file that is not there would be; {} stands for its name
    sought: str  # where and what they are, for people who have none


def find_files(folders: Sequence[str], suffixes: Sequence[str], name_of: Callable[[str], str] = file_stem) -> Files:
    """The files with one of these suffixes below the folders. Errors, while `uris` are read: as of walk_files."""
    uris = (uri for folder in folders for uri in in_order(storage.walk_files(folder, suffixes)))
    sought = f"{', '.join(folders)}: no file {' or '.join(suffixes)}"
    return Files(uris, name_of, storage.join(folders[0], "{}" + suffixes[0]), sought)


def match(
    table: str,
    lines: Iterable[Line],
    name_of: Callable[[Line], str],
    files: Files,
    make: Callable[[str, str, list[Line]], Row],
) -> Iterator[Found]:
    """Lines against files: what has no file, or no line, is rejected, and each file is listed once.

    Args:
        table: its name, for the reasons.
        make: (name, uri, the distinct lines of this name) -> row; a ValueError is the reason for a rejection.
    Errors, while it is read:
        StorageError: there is no file.
    """
    with scratch() as tables:
        tables.execute("CREATE TABLE files (name TEXT PRIMARY KEY, uri TEXT, is_listed INTEGER DEFAULT 0)")
        yield from _put_files(tables, files)
        for name, of_name in grouped(lines, name_of):
            found = tables.execute("SELECT rowid, uri FROM files WHERE name = ?", (name,)).fetchone()
            if found is None:
                yield Rejected(files.missing.replace("{}", name), f"listed in {table}, but the file is missing")
                continue
            number, uri = found
            tables.execute("UPDATE files SET is_listed = 1 WHERE rowid = ?", (number,))
            yield made(table, name, uri, of_name, make)
        strays = tables.execute("SELECT uri FROM files WHERE NOT is_listed ORDER BY rowid")
        yield from (Rejected(uri, f"not listed in {table}") for (uri,) in strays)


def made(
    table: str, name: str, uri: str, lines: list[Line], make: Callable[[str, str, list[Line]], Row]
) -> Row | Rejected:
    try:
        return make(name, uri, lines)
    except ValueError as error:
        return Rejected(uri, f"{table}: {error}")


def grouped(lines: Iterable[Line], name_of: Callable[[Line], str]) -> Iterator[tuple[str, list[Line]]]:
    """(name, distinct lines) in the order of the names' first lines."""
    with scratch() as tables:
        tables.execute("CREATE TABLE lines (name TEXT, cells TEXT)")
        tables.executemany("INSERT INTO lines VALUES (?, ?)", ((name_of(line), json.dumps(line)) for line in lines))
        tables.execute("CREATE INDEX lines_name ON lines (name)")
        for name, of_name in groupby(tables.execute(_GROUPED), key=itemgetter(0)):
            distinct = dict.fromkeys(cells for _, cells in of_name)
            yield name, [json.loads(cells) for cells in distinct]


def _put_files(tables: sqlite3.Connection, files: Files) -> Iterator[Rejected]:
    """Every file by its name; further files of a name are rejected."""
    is_empty = True
    put = "INSERT OR IGNORE INTO files (name, uri) VALUES (?, ?)"
    for uri in files.uris:
        is_empty = False
        if not tables.execute(put, (files.name_of(uri), uri)).rowcount:
            yield Rejected(uri, "another file has the same name")
    if is_empty:
        raise StorageError(files.sought)


def only(lines: list[Line]) -> Line:
    """The line of a name that should have one."""
    if len(lines) > 1:
        differing = [column for column in lines[0] if len({line.get(column) for line in lines}) > 1]
        raise ValueError(f"listed more than once, with different values of {', '.join(differing)}")
    return lines[0]
