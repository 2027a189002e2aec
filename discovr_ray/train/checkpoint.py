"""Checkpoints that count only when complete: a folder of files, and checkpoint.json with their sizes and hashes, last.

    <run>/step_00000025/           files of all ranks ...  checkpoint.json
    <run>/step_00000050_3f2a91bc/  the same of a worker group that was started later (claim.Attempt)

Files are only handed out after their hashes were checked. Nothing here knows what is inside them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from discovr_ray.data import storage
from discovr_ray.errors import CheckpointError, StorageError
from discovr_ray.train import ranks

FORMAT = 2
MANIFEST = "checkpoint.json"
RETRACTED = "checkpoint.json.damaged"
NONE = (-1, "")  # comes before every checkpoint
_FOLDER = re.compile(r"step_(\d{8,})(?:_[0-9a-f]{8})?")

Result = TypeVar("Result")
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a run must remember besides tensors. The step says everything about schedules and the data stream."""

    step: int  # optimiser steps done
    samples_seen: int  # clips
    num_clips: int  # of the manifest, after the filters; another number is another order
    world_size: int
    zero_stage: int
    config: dict[str, Any]
    clips_sha256: str = ""  # manifest.fingerprint of those clips
    quarantined: list[str] = dataclasses.field(default_factory=list)  # ids of clips that failed so far
    skipped_steps: list[int] = dataclasses.field(default_factory=list)  # without an update; `step` counts them too
    versions: dict[str, str] = dataclasses.field(default_factory=dict)  # library -> version that wrote it


class FileRecord(NamedTuple):
    """One file of a checkpoint; `name` is relative to the folder, with forward slashes."""

    name: str
    num_bytes: int
    sha256: str


class Checkpoint(NamedTuple):
    """A complete checkpoint in storage, as its checkpoint.json describes it."""

    uri: str
    state: TrainState
    files: tuple[FileRecord, ...]


class LocalCheckpoint(NamedTuple):
    """Files in a local folder whose sizes and hashes were verified; only `fetch` and `restore` make one."""

    directory: Path
    state: TrainState


def folder_name(step: int, suffix: str = "") -> str:
    """`suffix`: of the worker group, see `claim.Attempt`."""
    return f"step_{step:08d}{suffix}"


def step_of(uri: str) -> int | None:
    """Of a checkpoint's folder; None: it is none."""
    match = _FOLDER.fullmatch(uri.rstrip("/").rsplit("/", 1)[-1])
    return int(match.group(1)) if match else None


def describe(directory: Path) -> list[FileRecord]:
    """Name, size and hash of every file below a local folder, sorted; an old checkpoint.json is left out."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    names = [path.relative_to(directory).as_posix() for path in paths]
    return [_record(directory, name) for name in names if name != MANIFEST]


def seal(uri: str, records: Iterable[FileRecord], state: TrainState) -> None:
    """Write checkpoint.json, which makes the checkpoint count. Call it once, after the files of all ranks are stored.

    Args:
        records: what `describe` returned on all ranks together.
    Errors:
        CheckpointError: two ranks wrote different files of one name.
        StorageError: checkpoint.json cannot be written.
    """
    files: dict[str, FileRecord] = {}
    for record in records:
        if files.setdefault(record.name, record) != record:
            raise CheckpointError(f"{uri}: two ranks wrote {record.name} with different contents")
    content = {
        "format": FORMAT,
        **dataclasses.asdict(state),
        "files": [record._asdict() for _, record in sorted(files.items())],
    }
    storage.write_bytes(storage.join(uri, MANIFEST), json.dumps(content, indent=1).encode())


def read(uri: str) -> Checkpoint:
    """What checkpoint.json says, after checking that every file is there with its size (hashes: see `fetch`).

    Errors:
        CheckpointError: incomplete or damaged; the message names the file and the reason.
        StorageError: the storage cannot be reached.
    """
    manifest = storage.join(uri, MANIFEST)
    sizes = storage.list_sizes(uri)  # one request, however many files
    if MANIFEST not in sizes:
        raise CheckpointError(f"{manifest}: missing, so the checkpoint was never completed")
    checkpoint = _parse(uri, storage.read_bytes(manifest))
    for record in checkpoint.files:
        path = storage.join(uri, record.name)
        if record.name not in sizes:
            raise CheckpointError(f"{path}: missing")
        _check(path, "size", record.num_bytes, sizes[record.name])
    return checkpoint


def find_checkpoints(run_uri: str) -> Iterator[Checkpoint]:
    """Complete checkpoints of a run, newest first; others are skipped with a warning that says why."""
    for uri in _folders(run_uri):
        try:
            yield read(uri)
        except CheckpointError as error:
            log.warning("skipped a checkpoint: %s", error)


def is_complete(uri: str) -> bool:
    """Whether `read` accepts the checkpoint."""
    try:
        read(uri)
    except CheckpointError:
        return False
    return True


def fetch(checkpoint: Checkpoint, local_dir: Path, needs: Callable[[str], bool] = lambda name: True) -> LocalCheckpoint:
    """Verify the needed files, after copying them to `local_dir` when the storage is not local.

    Args:
        needs: which names this rank needs (Engine.needs).
    Errors:
        CheckpointError: a file is missing, or its size or hash differs.
        StorageError: the storage cannot be reached, or `local_dir` cannot be written.
    """
    remote = storage.is_remote(checkpoint.uri)
    directory = local_dir if remote else Path(storage.absolute(checkpoint.uri))
    for record in checkpoint.files:
        if not needs(record.name):
            continue
        source = storage.join(checkpoint.uri, record.name)
        if remote:
            _get_sound(source, directory, record)
        elif not (directory / record.name).is_file():
            raise CheckpointError(f"{source}: missing")
        else:
            _check_file(source, directory, record)
    return LocalCheckpoint(directory, checkpoint.state)


def restore(run_uri: str, local_dir: Path, needs: Callable[[str], bool]) -> LocalCheckpoint | None:
    """The newest checkpoint that is sound on every rank; None when there is none. Every rank must call it.

    Each rank verifies the files it needs. If one finds damage, all go on to the next older checkpoint.

    Errors:
        StorageError: the storage cannot be reached from some rank; raised on every rank. An outage is no reason to
            go back to an older checkpoint.
    """
    found = _together(lambda: {_order(checkpoint.uri): checkpoint for checkpoint in find_checkpoints(run_uri)})
    while True:
        newest = max(ranks.gathered(max(found, default=NONE)))
        if newest == NONE:
            return None
        name = newest[1]
        local = _together(partial(_fetch_or_warn, found.pop(newest, None), local_dir / name, needs))
        if ranks.all_agree(local is not None):
            return local
        log.warning("%s is damaged on at least one rank; trying an older one", storage.join(run_uri, name))


def remove_orphans(run_uri: str) -> None:
    """Remove what killed attempts left: folders that were never completed, and uploads that were cut.

    Call it when nobody saves. What `retract` took back stays. Storage that refuses is a warning.
    """
    try:
        for uri in _folders(run_uri):
            if not {MANIFEST, RETRACTED} & storage.list_sizes(uri).keys():
                storage.remove_tree(uri)
                log.info("removed %s, which a killed attempt left unfinished", uri)
        if number := storage.abort_uploads(run_uri):
            log.info("gave up %d uploads to %s that a killed attempt left unfinished", number, run_uri)
    except StorageError as error:
        log.warning("not everything that a killed attempt left could be removed: %s", error)


def retract(run_uri: str, newer_than: int) -> None:
    """Take back the completeness of checkpoints that `restore` passed over, so that the run can write beyond them.

    Their files stay until newer checkpoints replace them; checkpoint.json is renamed.
    """
    for uri in sealed(run_uri):
        if _step(uri) > newer_than:
            manifest = storage.join(uri, MANIFEST)
            storage.write_bytes(storage.join(uri, RETRACTED), storage.read_bytes(manifest))
            storage.remove_tree(manifest)
            log.warning("%s is damaged and no longer counts as a checkpoint", uri)


def sealed(run_uri: str) -> list[str]:
    """Folders with a checkpoint.json, newest first, sound or not."""
    return [uri for uri in _folders(run_uri) if storage.exists(storage.join(uri, MANIFEST))]


def prune(run_uri: str, keep: int) -> None:
    """Remove complete checkpoints beyond the newest `keep` (at least one), and incomplete folders older than those.

    Looks at sizes, not at hashes: call `retract` first where `restore` found damage.
    An incomplete folder newer than the newest complete checkpoint may be on its way and stays.
    """
    complete = [uri for uri in _folders(run_uri) if is_complete(uri)]
    if not complete:
        return
    kept = complete[: max(1, keep)]
    for uri in _folders(run_uri):
        if uri not in kept and _step(uri) < _step(complete[0]):
            storage.remove_tree(storage.join(uri, MANIFEST))  # first, so that half a removal never counts as complete
            storage.remove_tree(uri)
            log.info("removed the checkpoint %s", uri)


def _fetch_or_warn(
    checkpoint: Checkpoint | None, directory: Path, needs: Callable[[str], bool]
) -> LocalCheckpoint | None:
    if checkpoint is None:  # other ranks found it complete, this one did not
        return None
    try:
        return fetch(checkpoint, directory, needs)
    except CheckpointError as error:
        log.warning("skipped a checkpoint: %s", error)
        return None


def _together(action: Callable[[], Result]) -> Result:
    """The action's result, unless it met a StorageError on any rank: then every rank raises one."""
    failure: StorageError | None = None
    try:
        result = action()
    except StorageError as error:
        failure = error
    if not ranks.all_agree(failure is None):
        raise failure or StorageError("another rank cannot reach the run's checkpoints")
    return result


def _folders(run_uri: str) -> list[str]:
    """Checkpoint folders of a run, newest first, complete or not."""
    uris = [storage.join(run_uri, folder.rstrip("/").rsplit("/", 1)[-1]) for folder in storage.list_folders(run_uri)]
    return sorted((uri for uri in uris if step_of(uri) is not None), key=_order, reverse=True)


def _step(uri: str) -> int:
    return _order(uri)[0]


def _order(uri: str) -> tuple[int, str]:
    """Of checkpoint folders; two of one step differ in nothing but who wrote them."""
    step = step_of(uri)
    assert step is not None
    return step, uri.rsplit("/", 1)[-1]


def _record(directory: Path, name: str) -> FileRecord:
    path = directory / name
    try:
        with open(path, "rb") as file:
            return FileRecord(name, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise StorageError(f"{path}: cannot read: {error.strerror}") from error


def _get_sound(source: str, directory: Path, record: FileRecord) -> None:
    """Copy a file; again when what came is damaged, for that may have happened on the way."""
    for last in range(storage.settings().attempts - 1, -1, -1):
        storage.get_file(source, str(directory / record.name))
        try:
            _check_file(source, directory, record)
            return
        except CheckpointError:
            if not last:
                raise


def _check_file(source: str, directory: Path, record: FileRecord) -> None:
    found = _record(directory, record.name)
    _check(source, "size", record.num_bytes, found.num_bytes)
    _check(source, "SHA-256", record.sha256, found.sha256)


def _check(path: str, what: str, expected: object, found: object) -> None:
    if expected != found:
        raise CheckpointError(f"{path}: {what} is {found}, {MANIFEST} says {expected}")


def _parse(uri: str, data: bytes) -> Checkpoint:
    where = storage.join(uri, MANIFEST)
    try:
        content = json.loads(data)
        version = content.pop("format")
        files = tuple(FileRecord(**record) for record in content.pop("files"))
        state = TrainState(**content) if version == FORMAT else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{where}: not readable: {error!r}") from None
    if state is None:
        raise CheckpointError(
            f"{where}: format {version}, this version reads {FORMAT}; only the version that wrote it can go on from it"
        )
    for record in files:
        if record.name.startswith("/") or ".." in record.name.split("/"):
            raise CheckpointError(f"{where}: {record.name!r} lies outside the checkpoint")
    return Checkpoint(uri, state, files)
