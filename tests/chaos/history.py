"""The workers' records read back: every stretch of steps that a group of workers did, from one start to its end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

Event = dict[str, Any]


class Fed(NamedTuple):
    """What one rank got for one step, one entry a micro-batch."""

    clips: tuple[tuple[str, ...], ...]  # ids
    content: tuple[str, ...]  # hashes of what the model saw


@dataclass
class Leg:
    """Steps of one worker group from one start on. Steps count from 0; step s is done when s + 1 steps are."""

    name: str
    start_step: int
    world_size: int
    started: float = 0.0  # time stamps in seconds since 1970
    fed: dict[int, dict[int, Fed]] = field(default_factory=dict)  # step -> rank
    done: dict[int, dict[int, float]] = field(default_factory=dict)  # step -> rank -> when
    saves: dict[int, float] = field(default_factory=dict)  # steps done -> when rank 0 went on after a save had begun
    sealed: dict[int, float] = field(default_factory=dict)  # steps done -> when the checkpoint was complete
    phases: dict[str, float] = field(default_factory=dict)  # of its start: when the slowest rank had come so far

    def whole_steps(self) -> list[int]:
        """Steps that every rank has done."""
        return sorted(step for step, ranks in self.done.items() if len(ranks) == self.world_size)

    def done_at(self, step: int) -> float:
        return max(self.done[step].values())

    def take(self, rank: int, event: Event) -> None:
        """An event after the start."""
        kind, step, time = event["event"], event.get("step", -1), event["time"]
        if kind == "fed":
            clips = tuple(tuple(ids) for ids in event["clips"])
            self.fed.setdefault(step, {})[rank] = Fed(clips, tuple(event["content"]))
        elif kind == "done":
            self.done.setdefault(step, {})[rank] = time
        elif kind == "saving":
            self.done.setdefault(step - 1, {}).setdefault(rank, time)  # it may die before it asks for the next one
            if rank == 0:
                self.saves[step] = time
        elif kind == "sealed":
            self.sealed[step] = time
        if kind in ("fed", "done") and step == self.start_step:
            self.reached({"first clips" if kind == "fed" else "first step": time})

    def reached(self, phases: dict[str, float]) -> None:
        self.phases.update({name: max(time, self.phases.get(name, time)) for name, time in phases.items()})


class Process(NamedTuple):
    """A worker process that has begun."""

    pid: int
    rank: int
    node: str


def read_processes(folder: Path) -> list[Process]:
    """Oldest first."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        with path.open() as file:
            found += [Process(event["pid"], event["rank"], event["node"]) for event in _events([file.readline()])]
    return found


def read_legs(folder: Path) -> list[Leg]:
    """In the order in which they were started."""
    return legs_of([_events(path.read_text().splitlines()) for path in sorted(folder.glob("*.jsonl"))])


def legs_of(files: Sequence[Sequence[Event]]) -> list[Leg]:
    """From the events of each process."""
    legs: dict[str, Leg] = {}
    for events in files:
        leg: Leg | None = None
        rank, phases = 0, {}
        for event in events:
            if event["event"] == "start":
                leg = legs.setdefault(event["leg"], Leg(event["leg"], event["step"], event["world_size"]))
                rank, leg.started = event["rank"], max(leg.started, event["time"])
                leg.reached({**phases, "start": event["time"]})
            elif leg is None:
                phases |= {name: event[name] for name in ("process_started",) if name in event}
                phases[event["event"]] = event["time"]
            else:
                leg.take(rank, event)
    return sorted(legs.values(), key=lambda leg: leg.started)


def _events(lines: Sequence[str]) -> list[Event]:
    """Lines as they are in a file; one that a kill has cut is left out."""
    events = []
    for line in lines:
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events
