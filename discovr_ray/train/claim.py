"""Who may write into a run's folder: one start of the job at a time, and of its worker groups the newest.

    <run>/claims/<start>.json   one of every start that asks for the run or has it
    <run>/writer.json           the newest worker group

A storage needs neither locks nor conditional writes for this, only that who looks after a write sees it: a start first
writes that it asks, then looks who else is there, and has the run when nobody is (launch/owner.py). Workers that live
on without knowing that others have taken their place, as behind a broken network, find another group in writer.json
before they store anything; and what they were about to store has folders of its own.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from dataclasses import dataclass
from typing import NamedTuple

from discovr_ray.data import storage
from discovr_ray.errors import MissingFileError, RunTakenError, StorageError

CLAIMS = "claims"
WRITER = "writer.json"


@dataclass(frozen=True)
class Claim:
    """What a start of the job says about itself."""

    start: str  # its name; earlier starts sort first
    timeout_s: float  # after so long without another `beat` it is dead
    place: str  # for people: process, machine, time
    machine: str = ""  # the same on processes that see each other's numbers
    process: str = ""  # number and birth, on that machine
    node: str = ""  # id of the Ray node that the driver is on
    beat: int = 0  # goes up while it lives
    holds: bool = False  # it has the run; before, it asks for it
    took_over: tuple[str, ...] = ()  # starts that were found dead


class Attempt(NamedTuple):
    """One worker group's right to write."""

    run_uri: str
    number: str  # 8 hex digits, of this group alone
    is_first: bool  # of the run

    def suffix(self) -> str:
        """What distinguishes this group's checkpoint folders; the first group's have the plain name."""
        return "" if self.is_first else f"_{self.number}"

    def check(self) -> None:
        """Errors: RunTakenError: another group has taken this one's place; StorageError: the storage does not say."""
        found = json.loads(storage.read_bytes(storage.join(self.run_uri, WRITER)))
        if found["attempt"] != self.number:
            raise RunTakenError(f"{self.run_uri}: another group of workers has taken the place of this one")


def begin_attempt(run_uri: str, start: str = "") -> Attempt:
    """From now on no group before this one may write. One rank calls it, before anything is read.

    Args:
        start: of the job that the group belongs to; "": do not ask whether it still has the run.
    Errors:
        RunTakenError: another start has taken the run over.
    """
    if start and is_lost(run_uri, start):
        raise RunTakenError(f"{run_uri}: another start of the job has taken this run over")
    uri = storage.join(run_uri, WRITER)
    attempt = Attempt(run_uri, uuid.uuid4().hex[:8], is_first=not storage.exists(uri))
    storage.write_bytes(uri, json.dumps({"attempt": attempt.number, "start": start}).encode())
    return attempt


def claims(run_uri: str) -> list[Claim]:
    """Of all starts that ask for the run or have it, earliest first."""
    try:
        uris = storage.list_files(storage.join(run_uri, CLAIMS), (".json",))
    except MissingFileError:
        return []
    return [claim for uri in uris if (claim := _read(uri))]


def write(run_uri: str, claim: Claim) -> None:
    storage.write_bytes(_uri(run_uri, claim.start), json.dumps(dataclasses.asdict(claim)).encode())


def remove(run_uri: str, start: str) -> None:
    """Withdraw a claim; nothing happens where there is none."""
    storage.remove_tree(_uri(run_uri, start))


def is_lost(run_uri: str, start: str) -> bool:
    """Whether a start that had the run has been found dead by another one, though it lives."""
    found = claims(run_uri)
    return not any(claim.start == start for claim in found) or any(start in claim.took_over for claim in found)


def _read(uri: str) -> Claim | None:
    """None: withdrawn meanwhile."""
    try:
        values = json.loads(storage.read_bytes(uri))
        known = {field.name for field in dataclasses.fields(Claim)}
        claim = Claim(**{name: value for name, value in values.items() if name in known})
    except MissingFileError:
        return None
    except (ValueError, TypeError, AttributeError) as error:
        raise StorageError(f"{uri}: not readable: {error!r}; if no run is going on here, remove it") from None
    return dataclasses.replace(claim, took_over=tuple(claim.took_over))


def _uri(run_uri: str, start: str) -> str:
    return storage.join(run_uri, CLAIMS, f"{start}.json")
