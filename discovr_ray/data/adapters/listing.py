"""What every adapter returns."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """A manifest row before the file has been looked at."""

    clip_id: str
    uri: str
    patient_id: str
    split: str  # as the source says; "" when it says nothing
    view: str
    labels: str  # a JSON object


class Rejected(NamedTuple):
    uri: str
    reason: str


class Listing(NamedTuple):
    rows: list[Row]
    rejected: list[Rejected]
