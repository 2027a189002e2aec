"""A section of a page as plain parts: text, tables, figures and pictures. Whoever has results makes one of these."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from discovr_ray.report import tables
from discovr_ray.report.clips import animate
from discovr_ray.report.curves import Chart
from discovr_ray.report.health import Finding
from discovr_ray.report.page import charts, finding_cards


class Table(NamedTuple):
    """Cells are plain text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()  # columns that stand to the right
    title: str = ""
    note: str = ""  # below it


class Picture(NamedTuple):
    """A still or a moving picture."""

    title: str
    caption: str
    frames: npt.NDArray[np.uint8]  # [T, H, W] grey or [T, H, W, 3]; T = 1 for a still
    frame_ms: int = 60


class Section(NamedTuple):
    slug: str  # unique on the page
    title: str
    paragraphs: Sequence[str] = ()  # plain text
    findings: Sequence[Finding] = ()
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    pictures: Sequence[Picture] = ()
    commands: Sequence[str] = ()  # lines for a shell, below the text


def section_html(section: Section) -> tuple[str, str, str]:
    """(slug, title, content) as `page.document` takes them."""
    parts = [f'<p class="lead">{escape(text)}</p>' for text in section.paragraphs]
    if section.commands:
        parts.append(f"<pre><code>{escape(chr(10).join(section.commands))}</code></pre>")
    if section.findings:
        parts.append(finding_cards(list(section.findings)))
    parts += [_table(table) for table in section.tables]
    if section.charts:
        parts.append(charts(section.charts))
    if section.pictures:
        parts.append(f'<div class="clips small">{"".join(map(_picture, section.pictures))}</div>')
    return section.slug, escape(section.title), "".join(parts)


def _table(table: Table) -> str:
    title = f"<h3>{escape(table.title)}</h3>" if table.title else ""
    head = [escape(cell) for cell in table.head]
    rows = [[escape(cell) for cell in row] for row in table.rows]
    note = tables.note(table.note) if table.note else ""
    return title + tables.table(head, rows, set(table.numbers)) + note


def _picture(picture: Picture) -> str:
    height, width = picture.frames.shape[1:3]
    return (
        f'<div class="clip"><h3>{escape(picture.title)}</h3><p class="note">{escape(picture.caption)}</p>'
        f'<img src="{animate(picture.frames, picture.frame_ms)}" width="{width}" height="{height}" '
        f'alt="{escape(picture.title)}"></div>'
    )
