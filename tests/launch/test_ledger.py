"""Each file is in one table once, whatever the sources say of it, and ids, patients and traces are settled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from discovr_ray.data import scratch
from discovr_ray.data.adapters.listing import Found, Rejected, Row, Trace
from discovr_ray.data.formats.reader import Details
from discovr_ray.errors import StorageError
from discovr_ray.launch.inspection import Facts
from discovr_ray.launch.ledger import Clip, Ledger, Stage
from discovr_ray.launch.splits import Torn


def row(uri: str, clip_id: str = "x", patient_id: str = "", split: str = "") -> Row:
    return Row(clip_id, uri, patient_id, split, "A4C", '{"ef": 50}', 25.0, names_clip=False)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with closing(Ledger()) as made:
        yield made


def settled(ledger: Ledger, *sources: list[Found], reasons: dict[str, str] | None = None) -> Ledger:
    """Every file listed, and looked at: its content is its uri's last character, ten frames."""
    for number, source in enumerate(sources):
        for item in source:
            ledger.add(number, item, (reasons or {}).get(item.uri, "") if isinstance(item, Row) else "")
    ledger.settle_files()
    for number, item in list(ledger.waiting()):
        facts = Facts("avi", 10, 25.0, 8, 6, 99, item.uri[-1] * 64)
        ledger.accept(number, item, facts, Details(region=(0, 0, 4, 4), cm_per_pixel=0.5))
    ledger.settle_ids()
    return ledger


def refused(ledger: Ledger) -> list[tuple[str, str]]:
    return [tuple(item) for part in ledger.refused(1) for item in part]


def clips(ledger: Ledger, at_once: int = 1) -> list[Clip]:
    return [clip for part in ledger.clips(at_once) for clip in part]


def test_what_comes_in_comes_out(ledger: Ledger) -> None:
    listed = row("/7", "id", "p")._replace(names_patient=True)
    ledger.add(3, listed)
    ledger.settle_files()
    assert list(ledger.waiting()) == [(1, listed)]
    assert ledger.row(1) == listed
    facts = Facts("avi", 10, 24.5, 8, 6, 99, "7" * 64)
    merged = listed._replace(labels=json.dumps({"ef": 1}))
    ledger.accept(1, merged, facts, Details(region=(0, 1, 4, 5), sector=(0, 0, 3, 0, 3, 3), cm_per_pixel=0.5))
    ledger.settle_ids()
    where = ([0, 1, 4, 5], [0, 0, 3, 0, 3, 3], 0.5)
    assert clips(ledger) == [Clip("id", "/7", "avi", 10, 24.5, 8, 6, 99, "7" * 64, "p", "", "A4C", '{"ef": 1}', *where)]


def test_a_file_of_several_sources_is_in_one_table_once(ledger: Ledger) -> None:
    first: list[Found] = [row("1", "a"), row("2", "b"), Rejected("3", "not listed"), Rejected("4", "empty")]
    second: list[Found] = [row("3", "c"), Rejected("1", "not listed"), Rejected("4", "again"), Rejected("2", "again")]
    settled(ledger, first, second, reasons={"2": "no such view"})
    assert [clip.uri for clip in clips(ledger)] == ["1", "3"]
    assert refused(ledger) == [("4", "empty"), ("2", "again")]  # the first reason counts; adapters' before our own
    with closing(Ledger()) as other:
        settled(other, second, first, reasons={"2": "no such view"})
        assert sorted(clip.uri for clip in clips(other)) == ["1", "3"]
        assert sorted(refused(other)) == [("2", "again"), ("4", "again")]


def test_the_first_source_that_lists_a_file_counts(ledger: Ledger) -> None:
    settled(ledger, [row("1", "first", split="TRAIN")], [row("1", "second", split="TEST"), row("2", "third")])
    assert [(clip.clip_id, clip.split) for clip in clips(ledger)] == [("first", "TRAIN"), ("third", "")]
    assert ledger.num_clips() == 2


def test_shared_ids(ledger: Ledger) -> None:
    same = [row("/a/1"), row("/b/2"), row("/c/1"), row("/d/3", "y"), row("/e/3", "y"), row("/f/4", "z", "p")]
    settled(ledger, [*same])
    found = [(clip.clip_id, clip.uri, clip.patient_id) for clip in clips(ledger, 2)]
    ones, twos = "x~" + "1" * 8, "x~" + "2" * 8
    # a clip without a patient is a patient of its own
    assert found == [(ones, "/a/1", ones), (twos, "/b/2", twos), ("y", "/d/3", "y"), ("z", "/f/4", "p")]
    assert refused(ledger) == [(uri, "same id and content as another file of the sources") for uri in ("/c/1", "/e/3")]


def test_patients_in_several_splits(ledger: Ledger) -> None:
    rows = [row("1", "a", "p", "TRAIN"), row("2", "b", "q", "VAL"), row("3", "c", "p", ""), row("4", "d", "", "TEST")]
    for item in (*rows, row("5", "e", "", "VAL"), row("6", "f", "q", "")):
        ledger.add(0, item)
    ledger.settle_files()
    assert ledger.torn(settled=False) is None  # unknown patients and splits tear nobody
    with closing(Ledger()) as other:
        torn = [row("8", "h", "q", "TEST"), row("9", "i", "p", "VAL")]
        settled(other, [*rows, *torn])
        expected = Torn("p", ["TRAIN", "VAL"], 2)
        assert other.torn(settled=False) == other.torn(settled=True) == expected


def test_a_clip_without_a_split_gets_that_of_its_patient(ledger: Ledger) -> None:
    settled(ledger, [row("1", "a", "p"), row("2", "b", "p", "VAL"), row("3", "c", "q"), row("4", "d", "p", "")])
    assert [clip.split for clip in clips(ledger)] == ["VAL", "VAL", "", "VAL"]


def test_traces_go_with_the_file_under_its_final_id(ledger: Ledger) -> None:
    first: list[Found] = [row("/2"), Trace("of no row", 0, "lv", [1.0], [2.0])]
    second: list[Found] = [row("/2", "other"), row("/3", "c"), Trace("other", 5, "la", [0.5, 1.0], [2.0, 3.25])]
    third: list[Found] = [row("/2", "t"), Trace("t", 1, "lv"), row("/3", "c"), Trace("c", 7, "lv", mask_uri="m")]
    settled(ledger, first, second, third, [row("/1")])
    of_third, of_second = ledger.traces()  # of a file that two sources trace, the first of them
    assert of_second.trace == Trace("x~" + "2" * 8, 5, "la", [0.5, 1.0], [2.0, 3.25])
    assert of_third.trace == Trace("c", 7, "lv", [], [], "m")
    assert of_third[1:] == (10, [0, 0, 4, 4], 8, 6)
    ledger.refuse_clip(Rejected("/2", "cannot be converted"))
    assert [item.trace.clip_id for item in ledger.traces()] == ["c"]


def test_refused_files_come_by_stage_and_number(ledger: Ledger) -> None:
    settled(ledger, [Rejected("9", "listed"), *(row(uri, uri) for uri in "12")])
    ledger.refuse_clip(Rejected("2", "slow"))
    for number in (3, 1):
        ledger.refuse(Stage.LOOKED, number, Rejected(f"n{number}", "dark"))
    assert refused(ledger) == [("9", "listed"), ("n1", "dark"), ("n3", "dark"), ("2", "slow")]
    assert ledger.num_refused() == 4
    assert ledger.reasons(2) == {"dark": 2, "listed": 1}


def test_a_full_disk_is_named() -> None:
    def fill() -> None:
        with scratch.scratch() as tables:
            tables.execute("PRAGMA max_page_count = 20")
            tables.execute("CREATE TABLE t (text TEXT)")
            tables.executemany("INSERT INTO t VALUES (?)", (("x" * 1000,) for _ in range(1000)))

    with pytest.raises(StorageError, match=r"temporary tables, in \$TMPDIR or /var/tmp: database or disk is full"):
        fill()


def test_order_on_disk_is_that_of_sorted() -> None:
    texts = ["b", "a/2", "a-1", "ä", "Z", "", "a/10", "\U0001f600", "\uffee", "b"]
    assert list(scratch.in_order(texts)) == sorted(texts)
