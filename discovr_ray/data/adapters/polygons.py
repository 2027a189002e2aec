"""Tables of traced outlines -> polygons, and from them the frames of end-systole and end-diastole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from discovr_ray.data import storage
from discovr_ray.data.adapters.listing import Found, Note, Row, Trace
from discovr_ray.data.adapters.table_file import Label, Line, cell_number, file_stem, read_lines
from discovr_ray.errors import ManifestError

Point = tuple[float, float]  # x, y in pixels

LEFT_VENTRICLE = "lv"


class Traced(NamedTuple):
    """The outlines of a data set's tracings table."""

    outlines: dict[str, dict[int, list[Point]]]  # file name -> frame -> closed outline of at least 3 points
    too_short: int  # traces of less than 3 points

    def of(self, name: str) -> Mapping[int, list[Point]]:
        return self.outlines.get(name, {})


def read_chords(uri: str) -> Traced:
    """A table of chords: FileName, X1, Y1, X2, Y2, Frame; no outlines where there is no table.

    A trace's first chord is the long axis. The others go from apex to base: their first ends and then their second
    ones, backwards, are the outline.

    Errors:
        ManifestError: a missing column, or a cell that is no number.
    """

    def outline(chords: list[list[float]]) -> list[Point]:
        across = chords[1:]
        return [(x, y) for x, y, _, _ in across] + [(x, y) for _, _, x, y in reversed(across)]

    return _read(uri, ("X1", "Y1", "X2", "Y2"), outline)


def read_points(uri: str) -> Traced:
    """The same of a table of outlines: FileName, X, Y, Frame. A frame that is words ("No Systolic") has no trace."""
    return _read(uri, ("X", "Y"), lambda points: [(x, y) for x, y in points])


def phases(outlines: Mapping[int, list[Point]]) -> dict[str, Label]:
    """Labels es_frame and ed_frame of a video with exactly two traced frames: the smaller cavity is end-systole."""
    if len(outlines) != 2:
        return {}
    small, large = sorted(outlines, key=lambda frame: area(outlines[frame]))
    return {"es_frame": small, "ed_frame": large}


def area(outline: Sequence[Point]) -> float:
    """Square pixels inside of an outline."""
    turns = (x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(outline, [*outline[1:], outline[0]], strict=True))
    return abs(sum(turns)) / 2


def with_traces(found: Iterable[Found], traced: Traced) -> Iterator[Found]:
    """Each row with its outlines behind it, found by its file's name; at the end a note of what is missing."""
    num_rows = num_traces = num_without = 0
    for item in found:
        yield item
        if not isinstance(item, Row):
            continue
        outlines = traced.of(file_stem(item.uri))
        num_rows, num_traces, num_without = num_rows + 1, num_traces + len(outlines), num_without + (not outlines)
        for frame, outline in sorted(outlines.items()):
            xs, ys = zip(*outline, strict=True)
            yield Trace(item.clip_id, frame, LEFT_VENTRICLE, xs, ys)
    note = f"{num_traces} traces; {num_without} of {num_rows} clips have none"
    if traced.too_short:
        note += f"; left out, with less than 3 points: {traced.too_short}"
    yield Note(note)


def _read(uri: str, columns: Sequence[str], outline: Callable[[list[list[float]]], list[Point]]) -> Traced:
    found: dict[str, dict[int, list[Point]]] = {}
    too_short = 0
    for (name, frame), numbers in _by_frame(uri, columns).items():
        points = outline(numbers)
        if len(points) > 1 and points[0] == points[-1]:
            points.pop()  # a closed outline says its first point once
        if len(points) < 3:
            too_short += 1
        else:
            found.setdefault(name, {})[frame] = points
    return Traced(found, too_short)


def _by_frame(uri: str, columns: Sequence[str]) -> dict[tuple[str, int], list[list[float]]]:
    """(file name, frame) -> the numbers of its lines, in the table's order."""
    found: dict[tuple[str, int], list[list[float]]] = {}
    if not storage.exists(uri):
        return found
    for number, line in enumerate(read_lines(uri, ("FileName", *columns, "Frame")), start=2):
        text = line["Frame"].strip()
        if text.lower() in ("no systolic", "no diastolic"):
            continue
        try:
            key = (file_stem(line["FileName"]), _frame(text))
            found.setdefault(key, []).append([_needed(line, column) for column in columns])
        except ValueError as error:
            raise ManifestError(f"{uri}: line {number}: {error}") from None
    return found


def _frame(text: str) -> int:
    number = float(text) if text.replace(".", "", 1).isdecimal() else -1.0
    if number < 0 or number != int(number):
        raise ValueError(f"Frame = {text!r} is no frame number")
    return int(number)


def _needed(line: Line, column: str) -> float:
    number = cell_number(line, column)
    if number is None:
        raise ValueError(f"{column} is empty")
    return number
