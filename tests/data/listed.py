"""What an adapter finds, all at once: small sources, looked at from every side."""

from __future__ import annotations

from typing import NamedTuple

from discovr_ray.data import adapters
from discovr_ray.data.adapters.listing import AdapterOptions, Note, Rejected, Row, Trace


class Listing(NamedTuple):
    rows: list[Row]
    rejected: list[Rejected]
    traces: list[Trace]
    notes: tuple[str, ...]


def list_source(source: str, options: AdapterOptions | None = None) -> Listing:
    found = list(adapters.list_source(source, options))
    rows, rejected, traces = ([item for item in found if isinstance(item, kind)] for kind in (Row, Rejected, Trace))
    return Listing(rows, rejected, traces, tuple(item.text for item in found if isinstance(item, Note)))
