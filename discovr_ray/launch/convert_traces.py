"""What experts drew into clips, onto the frames of the converted clips: outlines, and mask files of their own."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
from ray.exceptions import RayError

from discovr_ray.data import storage
from discovr_ray.data.adapters.listing import Trace
from discovr_ray.data.formats.nifti import encode_mask, read_mask
from discovr_ray.data.outage import read_through_outage, without_path
from discovr_ray.data.shards import Placement, ShardSettings, placement
from discovr_ray.errors import ClipError, MissingFileError, StorageError, StreamError
from discovr_ray.launch.blocks import map_blocks
from discovr_ray.launch.ledger import TracedClip

logger = logging.getLogger(__name__)

FOLDER = "masks"  # below the manifest's
TRACES_AT_ONCE = 10_000
MASKS_PER_BLOCK = 16


class _Mask(NamedTuple):
    """A mask file that is to be made of another one."""

    uri: str
    source: str
    height: int  # of the source
    width: int
    place: Placement


class MovedTraces(NamedTuple):
    traces: list[Trace]
    lost: dict[str, str]  # mask file -> why it, and the traces in it, cannot be used


def convert_traces(traced: Iterable[TracedClip], output: str, settings: ShardSettings) -> Iterator[MovedTraces]:
    """Traces in pixels of the converted clips, some after the other; masks become files below `output`.

    Needs an initialised Ray. The names of the files say nothing about their sources. A run writes all of them anew.

    Errors, on the way:
        StreamError: storage that did not answer, or a mask that could not be written.
    """
    folder, left = storage.join(output, FOLDER), iter(traced)
    while some := list(islice(left, TRACES_AT_ONCE)):
        moved: list[Trace] = []
        masks: dict[str, _Mask] = {}
        for trace, _, region, height, width in some:
            place = placement({"region": region, "height": height, "width": width}, settings)
            moved.append(_moved(trace, place, folder, settings))
            if uri := moved[-1].mask_uri:
                masks[uri] = _Mask(uri, trace.mask_uri, height, width, place)
        reasons = dict(_write(list(masks.values()), settings))
        lost = {masks[uri].source: reason for uri, reason in reasons.items() if reason}
        yield MovedTraces([trace for trace in moved if not reasons.get(trace.mask_uri)], lost)


def _moved(trace: Trace, place: Placement, folder: str, settings: ShardSettings) -> Trace:
    if not trace.mask_uri:
        return trace._replace(x=place.x(trace.x), y=place.y(trace.y))
    text = f"{trace.clip_id} {trace.frame} {trace.mask_uri} {settings.size}"
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    return trace._replace(mask_uri=storage.join(folder, f"{name}.nii.gz"))


def _write(masks: Sequence[_Mask], settings: ShardSettings) -> Iterator[tuple[str, str]]:
    """(uri, why it could not be made; "": it was) of each mask."""
    rows = [mask._asdict() | mask.place._asdict() for mask in masks]
    blocks = [_block(rows[start : start + MASKS_PER_BLOCK]) for start in range(0, len(rows), MASKS_PER_BLOCK)]
    try:
        for block in map_blocks(_write_block, blocks, [settings.size, storage.access()], 1, max_lost_blocks=0):
            for answer in block.to_pylist():
                if answer["failure"]:
                    raise StreamError(f"converting stopped, to be continued by the same command: {answer['failure']}")
                yield answer["uri"], answer["reason"]
    except RayError as error:
        raise StreamError(f"masks could not be converted: {error}") from error


def _block(rows: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.table({name: [row[name] for row in rows] for name in rows[0] if name != "place"})


def _write_block(block: pa.Table, size: int, access: storage.Access) -> pa.Table:
    storage.adopt(access)
    answers = []
    for row in block.to_pylist():
        reason = failure = ""
        try:
            content = _converted(row, size)
            storage.write_bytes(row["uri"], content)
        except ClipError as error:
            reason = without_path(error, row["source"])
        except StorageError as error:
            failure = without_path(error, row["source"])
        answers.append({"uri": row["uri"], "reason": reason, "failure": failure})
    return pa.Table.from_pylist(answers)


def _converted(row: dict[str, Any], size: int) -> bytes:
    """Errors: ClipError, this mask is at fault; StorageError: the storage is."""
    try:
        source = read_mask(read_through_outage(row["source"]), row["height"], row["width"])
    except MissingFileError as error:
        raise ClipError(str(error)) from error
    return encode_mask(Placement(row["left"], row["top"], row["scale"]).mask(source, size))
