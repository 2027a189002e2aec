"""Traces beside a manifest: what experts drew into single frames of clips, one Parquet row per structure and frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from discovr_ray.data import storage
from discovr_ray.data.adapters.listing import Trace
from discovr_ray.data.manifest import PLACE_RULE, are_trusted_places
from discovr_ray.data.parquet_file import write_parquet
from discovr_ray.errors import ManifestError

TRACES_AT_ONCE = 10_000
SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),  # of the manifest
        ("frame", pa.int32()),  # of the video, from 0
        ("structure", pa.string()),  # such as lv
        ("x", pa.list_(pa.float32())),  # closed polygon in pixels of the video; empty where there is a mask
        ("y", pa.list_(pa.float32())),
        (
            "mask_uri",
            pa.string(),
        ),  # as the manifest's uri; "" where there is a polygon
        ("mask_value", pa.int32()),  # the structure's value in the mask
    ]
)


def write_traces(traces: Iterable[Trace], uri: str) -> int:
    """Write traces sorted by clip and frame, and return their number.

    Masks below the folder of `uri` are named relative to it, so that the folder can be moved.
    """
    return write_parquet(_parts(traces, f"{uri.rpartition('/')[0]}/"), SCHEMA, uri)


def _parts(traces: Iterable[Trace], folder: str) -> Iterator[pa.Table]:
    left = iter(traces)
    while some := list(islice(left, TRACES_AT_ONCE)):
        rows = [trace._asdict() | {"mask_uri": trace.mask_uri.removeprefix(folder)} for trace in some]
        yield pa.Table.from_pylist(rows, SCHEMA)


def read_traces(uri: str) -> list[Trace]:
    """Traces sorted by clip and frame, masks with absolute uris.

    Errors:
        StorageError: cannot be read. ManifestError: not a table of traces.
    """
    uri = storage.absolute(uri)
    try:
        table = pq.read_table(pa.BufferReader(storage.read_bytes(uri)))
        rows = table.select(SCHEMA.names).cast(SCHEMA).to_pylist()
    except (pa.ArrowInvalid, KeyError) as error:
        raise ManifestError(f"{uri}: not a table of traces: {error}") from error
    strange = table.filter(pc.invert(are_trusted_places(table["mask_uri"], uri)))
    if strange.num_rows:
        raise ManifestError(f"{uri}: mask_uri must be {PLACE_RULE}: {strange['mask_uri'][0].as_py()!r}")
    folder = uri.rpartition("/")[0]
    return [Trace(**row | {"mask_uri": _absolute(row["mask_uri"], folder)}) for row in rows]


def _absolute(mask_uri: str, folder: str) -> str:
    is_absolute = not mask_uri or mask_uri.startswith("/") or "://" in mask_uri
    return mask_uri if is_absolute else storage.join(folder, mask_uri)
