"""Histories made by hand: 2 ranks, 8 clips, 2 micro-batches of one clip for each rank and step, so 2 steps an epoch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bookkeeping import (
    Audit,
    Recovery,
    Saves,
    audit,
    goodput,
    lineage,
    new_steps,
    preserved,
    recoveries,
    save_counts,
    step_time_s,
    wasted_steps,
)
from history import Event, Leg, legs_of, read_legs, read_processes

CLIPS = [f"clip{number}" for number in range(8)]
EPOCH = 2


def order(step: int) -> list[str]:
    """The global batch of a step."""
    return CLIPS[:4] if step % 2 == 0 else CLIPS[4:]


def rank_events(rank: int, name: str, first: int, end: int, at: float, saves: dict[int, bool]) -> list[Event]:
    """Steps [first, end), a second each, `at` the start; `saves`: steps done -> whether the checkpoint got complete."""
    events: list[Event] = [
        {"event": "entered", "time": at - 2, "process_started": at - 3, "rank": rank, "pid": 7, "node": "n"},
        {"event": "start", "time": at, "leg": name, "step": first, "rank": rank, "world_size": 2},
    ]
    for step in range(first, end):
        time = at + step - first
        clips = [[clip] for clip in order(step)[rank::2]]
        content = [f"{clip}@{step}" for (clip,) in clips]
        events.append({"event": "fed", "time": time, "step": step, "clips": clips, "content": content})
        if step + 1 in saves:
            events.append({"event": "saving", "time": time + 0.9, "step": step + 1})
        events.append({"event": "done", "time": time + 1, "step": step})
        if rank == 0 and saves.get(step + 1):
            events.append({"event": "sealed", "time": time + 1.5, "step": step + 1})
    return events


def make_files(killed: bool) -> list[list[Event]]:
    """Six steps with checkpoints at 2, 4 and 6; `killed`: after step 2, at 13 s, going on from the checkpoint of 2."""
    if not killed:
        return [rank_events(rank, "calm", 0, 6, 10, {2: True, 4: True, 6: True}) for rank in (0, 1)]
    before = [rank_events(rank, "a", 0, 3, 10, {2: True}) for rank in (0, 1)]
    return before + [rank_events(rank, "b", 2, 6, 30, {4: False, 6: True}) for rank in (0, 1)]


def audited(legs: list[Leg]) -> Audit:
    steps, calm = preserved(lineage(legs, 6)), preserved(lineage(legs_of(make_files(killed=False)), 6))
    return audit(steps, calm, 6, CLIPS, EPOCH)


def fed(files: list[list[Event]], file: int, step: int) -> Event:
    (event,) = [event for event in files[file] if event["event"] == "fed" and event["step"] == step]
    return event


def test_a_killed_run_that_went_on_as_it_should() -> None:
    legs = legs_of(make_files(killed=True))
    found = [(stretch.leg.name, stretch.first, stretch.end) for stretch in lineage(legs, 6)]
    assert found == [("a", 0, 2), ("b", 2, 6)]
    assert audited(legs) == Audit([], [], [])
    assert wasted_steps(legs, lineage(legs, 6)) == 1  # step 2 came twice
    assert [batch.clips for batch in preserved(lineage(legs, 6))[1]] == [(clip,) for clip in CLIPS[4:]]


def test_a_duplicate_is_found_and_so_is_what_it_pushed_out() -> None:
    files = make_files(killed=True)
    fed(files, 3, 5)["clips"][0] = ["clip4"]  # rank 1 of the second leg, instead of clip5
    assert audited(legs_of(files)) == Audit(["clip4, epoch 2"], ["clip5, epoch 2"], [5])


def test_a_missing_sample_is_found() -> None:
    files = make_files(killed=True)
    event = fed(files, 2, 4)
    event["clips"][0] = []
    assert audited(legs_of(files)) == Audit([], ["clip0, epoch 2"], [4])


@pytest.mark.parametrize("event", ["fed", "done"])
def test_a_step_that_one_rank_never_did_is_lost(event: str) -> None:
    files = make_files(killed=True)
    files[3] = [record for record in files[3] if (record["event"], record.get("step")) != (event, 4)]
    found = audited(legs_of(files))
    assert found.missing == ["step 4", *(f"{clip}, epoch 2" for clip in order(4))]
    assert found.changed == [4]


def test_a_gap_between_legs_is_lost() -> None:
    """The second leg says that it started at step 3, for which there is no checkpoint."""
    files = make_files(killed=True)
    for events in files[2:]:
        events[1]["step"] = 3
    assert audited(legs_of(files)).missing[:3] == ["step 0", "step 1", "step 2"]


def test_other_pixels_or_another_order_are_found() -> None:
    files = make_files(killed=True)
    fed(files, 2, 4)["content"][0] = "damaged"
    fed(files, 2, 5)["clips"].reverse()
    assert audited(legs_of(files)) == Audit([], [], [4, 5])


def test_the_start_of_an_epoch_lacks_nothing() -> None:
    legs = legs_of([rank_events(rank, "a", 0, 3, 10, {3: True}) for rank in (0, 1)])
    steps = preserved(lineage(legs, 3))
    assert audit(steps, steps, 3, CLIPS, EPOCH) == Audit([], [], [])


def test_a_leg_that_came_to_nothing_does_not_count() -> None:
    files = make_files(killed=True)
    files[2:2] = [rank_events(rank, "vain", 2, 4, 20, {}) for rank in (0, 1)]
    legs = legs_of(files)
    assert [stretch.leg.name for stretch in lineage(legs, 6)] == ["a", "b"]
    assert wasted_steps(legs, lineage(legs, 6)) == 3


def test_a_checkpoint_whose_maker_died_before_it_could_say_so_counts() -> None:
    files = make_files(killed=True)
    files[0] = [event for event in files[0] if event["event"] != "sealed"]
    assert [stretch.leg.name for stretch in lineage(legs_of(files), 6)] == ["a", "b"]


def test_saves_that_failed_and_saves_that_were_cut() -> None:
    assert save_counts(legs_of(make_files(killed=True))) == Saves(begun=3, complete=2, failed=1, cut=0)
    cut = legs_of([rank_events(rank, "a", 0, 4, 10, {2: True, 4: False}) for rank in (0, 1)])
    assert save_counts(cut) == Saves(begun=2, complete=1, failed=0, cut=1)


def test_times_by_hand() -> None:
    """Steps end at 11, 12, 13 s, and after the kill steps 2 to 5 at 31 to 34 s; step 2 is then new no more."""
    legs = legs_of(make_files(killed=True))
    assert new_steps(legs) == [11, 12, 13, 32, 33, 34]
    assert step_time_s(legs) == 1
    assert goodput(6, 1.0, 24.0) == 0.25
    # from the kill at 13.5 s to the end at 36 s: three new steps, the first of them 18.5 s later
    assert recoveries([13.5], 36.0, new_steps(legs), 1.0) == [Recovery(longest_wait_s=18.5, cost_s=19.5)]


def test_the_phases_of_a_start_are_those_of_the_slowest_rank() -> None:
    files = [rank_events(0, "a", 0, 2, 10, {}), rank_events(1, "a", 0, 2, 14, {})]
    (leg,) = legs_of(files)
    names = ("process_started", "entered", "start", "first clips", "first step")
    assert [leg.phases[name] for name in names] == [11, 12, 14, 14, 15]


def test_a_line_that_a_kill_has_cut_is_left_out(tmp_path: Path) -> None:
    for number, events in enumerate(make_files(killed=True)):
        text = "".join(json.dumps(event) + "\n" for event in events)
        (tmp_path / f"{number}.jsonl").write_text(text + '{"event": "fed", "ti')
    (tmp_path / "9.jsonl").write_text("")
    assert audited(read_legs(tmp_path)) == Audit([], [], [])
    assert [process.rank for process in read_processes(tmp_path)] == [0, 1, 0, 1]
