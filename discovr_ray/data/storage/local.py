"""Files on this machine's disks: complete or not there at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress


def replace(path: str, fill: Callable[[str], object]) -> None:
    """Fill a temporary file beside `path`, then rename it: complete or not there at all."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{os.path.basename(path)}.{uuid.uuid4().hex}")
    try:
        fill(temporary)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def write_through(path: str, data: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def copy_through(source: str, path: str) -> None:
    """Copy a file and wait until the disk has it."""
    with open(source, "rb") as reader, open(path, "wb") as writer:
        shutil.copyfileobj(reader, writer, 2**20)
        writer.flush()
        os.fsync(writer.fileno())


def walk(root: str) -> Iterator[str]:
    """Files below a folder in no order, links to folders included, each real folder once; a file is itself."""
    if os.path.isfile(root):
        yield root
        return
    visited, waiting = set(), [root]
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in visited:
            continue
        visited.add(real)
        with suppress(FileNotFoundError), os.scandir(folder) as entries:  # a folder that was removed meanwhile
            for entry in entries:
                if entry.is_dir():
                    waiting.append(entry.path)
                else:
                    yield entry.path
