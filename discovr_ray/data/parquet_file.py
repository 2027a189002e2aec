"""A Parquet file written part by part: only a part is in memory, and readers see all of the file or nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from discovr_ray.data import storage


def write_parquet(parts: Iterable[pa.Table], schema: pa.Schema, uri: str) -> int:
    """Write the parts, each as a row group; returns the number of rows.

    Errors:
        StorageError: the place cannot be written to. Whatever `parts` raises; then nothing is written.
    """
    num_rows = 0
    with tempfile.NamedTemporaryFile(prefix="discovr-table-", suffix=".parquet") as file:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for part in parts:
                writer.write_table(part)
                num_rows += part.num_rows
        file.flush()
        storage.put_file(file.name, uri)
    return num_rows
