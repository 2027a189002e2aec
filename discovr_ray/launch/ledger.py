"""Where every file of an ingest stands, in tables on disk: what its source says of it, what it says, how it ends.

The memory of the process that ingests does not depend on the number of files: nothing here holds more than a few rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from discovr_ray.data.adapters.listing import Found, Rejected, Row, Trace
from discovr_ray.data.formats.reader import Details
from discovr_ray.data.scratch import open_scratch, run_script
from discovr_ray.launch.inspection import Facts
from discovr_ray.launch.splits import Torn

_TABLES = """
CREATE TABLE listed (
    number INTEGER PRIMARY KEY, source INTEGER, reason TEXT,
    clip_id TEXT, uri TEXT, patient_id TEXT, split TEXT, view TEXT, labels TEXT, fps REAL, names_clip, names_patient
);
CREATE TABLE trace (
    source INTEGER, clip_id TEXT, frame INTEGER, structure TEXT, x TEXT, y TEXT, mask_uri TEXT, mask_value INTEGER
);
CREATE TABLE looked (
    number INTEGER PRIMARY KEY, clip_id TEXT, patient_id TEXT, split TEXT, view TEXT, labels TEXT,
    format TEXT, num_frames INTEGER, fps REAL, height INTEGER, width INTEGER, num_bytes INTEGER, sha256 TEXT,
    region TEXT, sector TEXT, cm_per_pixel REAL
);
CREATE TABLE refused (stage INTEGER, number INTEGER, uri TEXT, reason TEXT);
CREATE TABLE unconverted (number INTEGER);
"""
# a file that several sources name is one file: the first row counts, else the first reason
_SETTLE_FILES = """
CREATE INDEX listed_uri ON listed (uri);
CREATE TABLE waiting (number INTEGER PRIMARY KEY);
INSERT INTO waiting SELECT min(number) FROM listed GROUP BY uri;
INSERT INTO refused SELECT 0, number, uri, reason FROM waiting JOIN listed USING (number) WHERE reason <> '' ORDER BY 2;
DELETE FROM waiting WHERE number IN (SELECT number FROM listed WHERE reason <> '');
DELETE FROM refused WHERE rowid NOT IN (SELECT min(rowid) FROM refused GROUP BY uri);
DELETE FROM refused WHERE uri IN (SELECT uri FROM waiting JOIN listed USING (number));
"""
# files that share an id: equal contents are one clip, others get ~ and 8 digits of their hash behind the id, so that
# ids depend neither on where files lie nor on the order of the sources; a clip without a patient is one itself
_SETTLE_IDS = """
CREATE INDEX looked_clip_id ON looked (clip_id, sha256);
CREATE TABLE clip (number INTEGER PRIMARY KEY, clip_id TEXT, patient_id TEXT, split TEXT);
INSERT INTO clip SELECT number, id, CASE patient_id WHEN '' THEN id ELSE patient_id END, split FROM (
    SELECT number, patient_id, split, clip_id || iif(contents > 1, '~' || substr(sha256, 1, 8), '') AS id
    FROM looked JOIN (SELECT clip_id, count(DISTINCT sha256) AS contents FROM looked GROUP BY clip_id) USING (clip_id)
);
CREATE INDEX clip_id ON clip (clip_id, number);
CREATE TABLE repeated AS
    SELECT number FROM clip JOIN (SELECT clip_id, min(number) AS first FROM clip GROUP BY clip_id) USING (clip_id)
    WHERE number > first;
INSERT INTO refused SELECT 2, number, uri, 'same id and content as another file of the sources'
    FROM repeated JOIN listed USING (number);
DELETE FROM clip WHERE number IN (SELECT number FROM repeated);
CREATE TABLE placed (patient_id TEXT PRIMARY KEY, split TEXT);
INSERT INTO placed SELECT patient_id, max(split) FROM clip WHERE split <> '' GROUP BY patient_id;
"""
_TORN = """
SELECT patient_id, group_concat(DISTINCT split) FROM {table} WHERE patient_id <> '' AND split <> ''
GROUP BY patient_id HAVING min(split) < max(split) ORDER BY min(number)
"""
_CLIPS = """
SELECT clip.clip_id, uri, format, num_frames, looked.fps, height, width, num_bytes, sha256, clip.patient_id,
    coalesce(placed.split, ''), looked.view, looked.labels, region, sector, cm_per_pixel
FROM clip JOIN looked USING (number) JOIN listed USING (number) LEFT JOIN placed ON placed.patient_id = clip.patient_id
ORDER BY clip.clip_id
"""
# of several sources that trace a file, the first one counts
_TRACES = """
WITH traced AS (SELECT uri, trace.*, trace.rowid AS place FROM listed JOIN trace USING (source, clip_id))
SELECT clip.clip_id, frame, structure, x, y, mask_uri, mask_value, num_frames, region, height, width
FROM traced JOIN (SELECT uri, min(source) AS source FROM traced GROUP BY uri) USING (uri, source)
JOIN (SELECT uri, number FROM waiting JOIN listed USING (number)) USING (uri)
JOIN clip USING (number) JOIN looked USING (number)
WHERE number NOT IN (SELECT number FROM unconverted)
ORDER BY clip.clip_id, frame, place
"""


class Stage(IntEnum):
    """When a file was refused; the order of rejected.parquet."""

    LISTED = 0
    LOOKED = 1
    NAMED = 2
    CONVERTED = 3


class Clip(NamedTuple):
    """A row of the manifest, but for what depends on where the manifest lies."""

    clip_id: str
    uri: str
    format: str
    num_frames: int
    fps: float
    height: int
    width: int
    num_bytes: int
    sha256: str
    patient_id: str
    split: str  # what the sources say of the patient's clips; "": nothing
    view: str
    labels: str
    region: list[int] | None
    sector: list[int] | None
    cm_per_pixel: float | None


class TracedClip(NamedTuple):
    """A trace of an accepted clip, and that clip's size."""

    trace: Trace
    num_frames: int
    region: list[int] | None
    height: int
    width: int


class Ledger:
    """Files are numbered in the order in which the sources list them."""

    def __init__(self) -> None:
        self._tables = open_scratch()
        run_script(self._tables, _TABLES)

    def close(self) -> None:
        self._tables.close()

    def add(self, source: int, item: Found, reason: str = "") -> None:
        """What source number `source` lists. `reason`: a row is not to be looked at."""
        if isinstance(item, Row):
            self._insert("listed", (None, source, reason, *item))
        elif isinstance(item, Rejected):
            self._insert("refused", (Stage.LISTED, 0, *item))
        elif isinstance(item, Trace):
            outline = (json.dumps(list(item.x)), json.dumps(list(item.y)))
            values = (item.clip_id, item.frame, item.structure, *outline, item.mask_uri, item.mask_value)
            self._insert("trace", (source, *values))

    def settle_files(self) -> None:
        """All sources are listed: every file is to be looked at, or refused."""
        run_script(self._tables, _SETTLE_FILES)

    def num_waiting(self) -> int:
        return self._count("waiting")

    def waiting(self) -> Iterator[tuple[int, Row]]:
        """(number, row) of the files to look at."""
        query = f"SELECT {_ROW} FROM waiting JOIN listed USING (number) ORDER BY number"
        for number, *values in self._tables.execute(query):
            yield number, _row(values)

    def row(self, number: int) -> Row:
        _, *values = self._tables.execute(f"SELECT {_ROW} FROM listed WHERE number = ?", (number,)).fetchone()
        return _row(values)

    def accept(self, number: int, row: Row, facts: Facts, details: Details) -> None:
        """The file can be used, and says so; `row` is what is known of it now."""
        said = (row.clip_id, row.patient_id, row.split, row.view, row.labels)
        seen = (facts.format, facts.num_frames, facts.fps, facts.height, facts.width, facts.num_bytes, facts.sha256)
        where = (_text(details.region), _text(details.sector), details.cm_per_pixel)
        self._insert("looked", (number, *said, *seen, *where))

    def refuse(self, stage: Stage, number: int, rejected: Rejected) -> None:
        self._insert("refused", (stage, number, *rejected))

    def settle_ids(self) -> None:
        """All files have been looked at: ids become unique, and equal files one."""
        run_script(self._tables, _SETTLE_IDS)

    def refuse_clip(self, rejected: Rejected) -> None:
        """A clip that could not be converted."""
        self._insert("refused", (Stage.CONVERTED, 0, *rejected))
        self._tables.execute("INSERT INTO unconverted SELECT number FROM listed WHERE uri = ?", rejected[:1])

    def torn(self, settled: bool) -> Torn | None:
        """A patient in several splits, by what the sources say; `settled`: by the clips' final ids and patients."""
        table = "clip" if settled else "waiting JOIN listed USING (number)"
        torn = self._tables.execute(_TORN.format(table=table))
        first = torn.fetchone()
        return Torn(first[0], sorted(first[1].split(",")), 1 + sum(1 for _ in torn)) if first else None

    def num_clips(self) -> int:
        return self._count("clip")

    def clips(self, at_once: int) -> Iterator[list[Clip]]:
        """Clips sorted by their ids, so many at once."""
        cursor = self._tables.execute(_CLIPS)
        while rows := cursor.fetchmany(at_once):
            yield [_clip(*row) for row in rows]

    def traces(self) -> Iterator[TracedClip]:
        """Traces of the clips, under the clips' final ids, sorted by clip and frame."""
        for (
            clip_id,
            frame,
            structure,
            x,
            y,
            mask_uri,
            mask_value,
            num_frames,
            region,
            height,
            width,
        ) in self._tables.execute(_TRACES):
            trace = Trace(clip_id, frame, structure, json.loads(x), json.loads(y), mask_uri, mask_value)
            yield TracedClip(trace, num_frames, _values(region), height, width)

    def num_refused(self) -> int:
        return self._count("refused")

    def refused(self, at_once: int) -> Iterator[list[Rejected]]:
        cursor = self._tables.execute("SELECT uri, reason FROM refused ORDER BY stage, number, rowid")
        while rows := cursor.fetchmany(at_once):
            yield [Rejected(*row) for row in rows]

    def reasons(self, limit: int) -> dict[str, int]:
        """The most frequent reasons, and how many files have them."""
        query = "SELECT reason, count(*) FROM refused GROUP BY reason ORDER BY 2 DESC, min(rowid) LIMIT ?"
        return dict(self._tables.execute(query, (limit,)))

    def _insert(self, table: str, values: Sequence[object]) -> None:
        self._tables.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(values))})", values)

    def _count(self, table: str) -> int:
        (count,) = self._tables.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(count)


_ROW = f"number, {', '.join(Row._fields)}"


def _row(values: Sequence[Any]) -> Row:
    row = Row(*values)
    return row._replace(names_clip=bool(row.names_clip), names_patient=bool(row.names_patient))


def _clip(*values: Any) -> Clip:
    clip = Clip(*values)
    return clip._replace(region=_values(values[13]), sector=_values(values[14]))


def _text(values: Sequence[int] | None) -> str | None:
    return None if values is None else json.dumps(list(values))


def _values(text: str | None) -> list[int] | None:
    return None if text is None else list(json.loads(text))
