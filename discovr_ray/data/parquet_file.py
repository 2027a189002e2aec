"""A Parquet file written part by part: only a part is in memory, and readers see all of the file or nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from discovr_ray.data import storage


class ParquetSpool:
    """Parts on their way into a file; nobody sees it before `put`. To be used in `with`."""

    def __init__(self, schema: pa.Schema) -> None:
        self.num_rows = 0
        self._schema = schema
        self._stack = ExitStack()

    def __enter__(self) -> ParquetSpool:
        self._file = self._stack.enter_context(tempfile.NamedTemporaryFile(prefix="discovr-table-"))
        self._writer = self._stack.enter_context(pq.ParquetWriter(self._file, self._schema, compression="zstd"))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def write(self, part: pa.Table) -> None:
        """One more row group."""
        self._writer.write_table(part)
        self.num_rows += part.num_rows

    def put(self, uri: str) -> None:
        """There are no more. Errors: StorageError, the place cannot be written to."""
        self._writer.close()
        self._file.flush()
        storage.put_file(self._file.name, uri)


def write_parquet(parts: Iterable[pa.Table], schema: pa.Schema, uri: str) -> int:
    """Write the parts, each as a row group; returns the number of rows.

    Errors:
        StorageError: the place cannot be written to. Whatever `parts` raises; then nothing is written.
    """
    with ParquetSpool(schema) as spool:
        for part in parts:
            spool.write(part)
        spool.put(uri)
        return spool.num_rows
