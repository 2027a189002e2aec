"""Paths and bytes: every file of every job is a local path or a URI such as s3:// and goes through these functions.

A driver calls `configure` first; other processes `adopt` what its `access` says. Object stores take their settings
from the usual variables (AWS_* for S3). All failures are errors.StorageError, naming the path and the cause;
errors.MissingFileError where the path alone is to blame, so that nobody asks again.
"""

from __future__ import annotations

import glob as local_glob
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from discovr_ray.data.storage import local, remote, s3, unfinished
from discovr_ray.data.storage.access import Access, access, adopt, configure, environment, settings
from discovr_ray.data.storage.remote import is_s3
from discovr_ray.errors import MissingFileError, StorageError

__all__ = [
    "Access",
    "abort_uploads",
    "absolute",
    "access",
    "adopt",
    "arrow_filesystem",
    "configure",
    "environment",
    "exists",
    "file_size",
    "get_file",
    "glob",
    "is_remote",
    "join",
    "list_files",
    "list_folders",
    "list_sizes",
    "longest_read_s",
    "open_file",
    "put_file",
    "read_bytes",
    "read_once",
    "read_range",
    "remove_tree",
    "settings",
    "walk_files",
    "write_bytes",
]


def is_remote(uri: str) -> bool:
    """Whether a path lies in an object store rather than on a disk of this machine."""
    return "://" in uri and not uri.startswith("file://")


def absolute(uri: str) -> str:
    """Local paths made absolute (`~` and file:// understood), others left as they are, without a slash at the end.

    Errors:
        MissingFileError: no such kind of storage, or its driver is not installed.
    """
    if is_remote(uri):
        if not is_s3(uri):
            remote.filesystem(uri)
        return uri.rstrip("/")
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/") if uri != "/" else "", *(part.strip("/") for part in parts)])


def exists(uri: str) -> bool:
    with _reported(uri, "look up"):
        return bool(remote.filesystem(uri).exists(uri)) if is_remote(uri) else os.path.exists(absolute(uri))


def file_size(uri: str) -> int:
    """Bytes of a file."""
    with _reported(uri, "look up"):
        return int(remote.filesystem(uri).size(uri)) if is_remote(uri) else os.path.getsize(absolute(uri))


def read_bytes(uri: str) -> bytes:
    """A whole file, as its storage holds it: what was cut or changed on the way is read again.

    One GET on S3 whose ETag is an MD5; over plain http at least two where it is not (see s3.read).
    """
    with _reported(uri, "read"):
        if is_s3(uri):
            return s3.read(uri)
        return bytes(remote.filesystem(uri).cat_file(uri)) if is_remote(uri) else Path(absolute(uri)).read_bytes()


@contextmanager
def open_file(uri: str) -> Iterator[BinaryIO]:
    """A file to be read from its first to its last byte: from the disk, or as read_bytes has it."""
    with ExitStack() as stack:
        with _reported(uri, "read"):
            file: Any = io.BytesIO(read_bytes(uri)) if is_remote(uri) else open(absolute(uri), "rb")  # noqa: SIM115
        yield stack.enter_context(file)


def read_once(uri: str) -> bytes:
    """A whole file in one GET, as it came: for callers that know its size and hash."""
    with _reported(uri, "read"):
        if is_s3(uri):
            return s3.get(uri).data
        return bytes(remote.filesystem(uri).cat_file(uri)) if is_remote(uri) else Path(absolute(uri)).read_bytes()


def read_range(uri: str, offset: int, num_bytes: int) -> bytes:
    """Part of a file, less when the file ends before; one GET, as it came: for callers that know its hash."""
    end = offset + num_bytes
    with _reported(uri, "read"):
        if is_s3(uri) and num_bytes:
            return s3.get(uri, offset, end).data
        if is_remote(uri):
            return bytes(remote.filesystem(uri).cat_file(uri, start=offset, end=end)) if num_bytes else b""
        with open(absolute(uri), "rb") as file:
            file.seek(offset)
            return file.read(num_bytes)


def longest_read_s() -> float:
    """Seconds after which a read that gets no byte has failed, with all its attempts; local disks know no limit."""
    return s3.longest_get_s(settings())


def write_bytes(uri: str, data: bytes) -> None:
    """Write a whole file, parents included. Readers see the old file or the new one, never a part."""
    with _reported(uri, "write"):
        if is_s3(uri):
            s3.persist(lambda: s3.client("write").pipe_file(uri, data, chunksize=s3.PART_BYTES))
        elif is_remote(uri):
            remote.filesystem(uri).pipe_file(uri, data)
        else:
            local.replace(absolute(uri), lambda temporary: local.write_through(temporary, data))


def put_file(local_path: str, uri: str) -> None:
    """Copy a local file to `uri`, under the same promise as write_bytes."""
    with _reported(uri, "write"):
        if is_s3(uri):
            s3.persist(lambda: s3.client("write").put_file(local_path, uri, chunksize=s3.PART_BYTES))
        elif is_remote(uri):
            remote.filesystem(uri).put_file(local_path, uri)
        else:
            local.replace(absolute(uri), lambda temporary: local.copy_through(local_path, temporary))


def get_file(uri: str, local_path: str) -> None:
    """Copy the file at `uri` to a local path, parents included, as it came: for callers that know its hash."""
    with _reported(uri, "read"):
        if is_s3(uri):
            local.replace(local_path, lambda temporary: s3.get_file(uri, temporary))
        elif is_remote(uri):
            local.replace(local_path, lambda temporary: remote.filesystem(uri).get_file(uri, temporary))
        else:
            local.replace(local_path, lambda temporary: local.copy_through(absolute(uri), temporary))


def walk_files(uri: str, suffixes: Sequence[str] = ()) -> Iterator[str]:
    """Every file below a folder, in no order, as full URIs; a file lists itself. Holds few of them at a time.

    Args:
        suffixes: only names that end in one of these, whatever their case, such as (".avi",); empty: all.
    Errors:
        StorageError: there is nothing at `uri`, or a name that is no text.
    """
    endings = tuple(suffix.lower() for suffix in suffixes)
    is_empty = True
    with _reported(uri, "list"):
        for path in (path for path, _ in remote.walk(uri)) if is_remote(uri) else local.walk(absolute(uri)):
            is_empty = False
            if not path.isascii():
                _check_text(path)
            if not endings or path.lower().endswith(endings):
                yield path
    if is_empty and not exists(uri):
        raise MissingFileError(f"{uri}: no such file or folder")


def list_files(uri: str, suffixes: Sequence[str] = ()) -> list[str]:
    """The same, sorted."""
    return sorted(walk_files(uri, suffixes))


def list_sizes(uri: str) -> dict[str, int]:
    """Bytes of every file below a folder, by name relative to it; empty when there is nothing."""
    with _reported(uri, "list"):
        if is_remote(uri):
            root, found = uri.rstrip("/"), remote.walk(uri)
        else:
            root = absolute(uri)
            found = ((path, os.path.getsize(path)) for path in local.walk(root))
        return {path[len(root) + 1 :]: size for path, size in sorted(found)}


def list_folders(uri: str) -> list[str]:
    """Folders directly inside a folder, sorted, as full URIs; none when the folder is missing."""
    with _reported(uri, "list"):
        if is_remote(uri):
            return sorted(remote.folders(uri))
        root = absolute(uri)
        names = os.listdir(root) if os.path.isdir(root) else []
        return sorted(path for name in names if os.path.isdir(path := os.path.join(root, name)))


def glob(pattern: str) -> list[str]:
    """Files that match a pattern with *, ?, [...] or ** (any depth), sorted, as full URIs."""
    with _reported(pattern, "list"):
        if is_remote(pattern):
            return sorted(remote.glob(pattern))
        return sorted(path for path in local_glob.glob(absolute(pattern), recursive=True) if os.path.isfile(path))


def remove_tree(uri: str) -> None:
    """Remove a file, or a folder and everything in it; nothing happens when it is missing."""
    with _reported(uri, "remove"):
        if is_remote(uri):
            with suppress(FileNotFoundError):
                remote.filesystem(uri, "write").rm(uri, recursive=True)
        elif os.path.isdir(path := absolute(uri)) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            Path(path).unlink(missing_ok=True)


def abort_uploads(uri: str) -> int:
    """Give up uploads below a folder that their writers never ended, so that nobody pays for them; returns how many.

    Nobody may be writing there. Only S3 keeps such things, and local folders and other clouds have none.
    """
    with _reported(uri, "list"):
        return unfinished.abort(uri) if is_s3(uri) else 0


def arrow_filesystem(uri: str) -> tuple[Any, str]:
    """(pyarrow filesystem, path on it), for libraries that take no URI; pickles with its credentials.

    The filesystem is None for a local path: the libraries' own is used.
    """
    if not is_remote(uri):
        return None, absolute(uri)
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return PyFileSystem(FSSpecHandler(remote.filesystem(uri, "write"))), remote.inner_path(uri)


def _check_text(path: str) -> None:
    """Tables hold text; a local name may be any bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise StorageError(f"{os.fsencode(path)!r}: the name is not UTF-8; rename the file") from None


@contextmanager
def _reported(uri: str, action: str) -> Iterator[None]:
    """Turn what the operating system and the storage's driver raise into StorageError."""
    causes = remote.failures(uri) if is_remote(uri) else (OSError,)
    try:
        yield
    except StorageError:
        raise
    except causes as error:
        if is_remote(uri):
            cause = remote.text_without_key(error, uri)
        else:
            cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if isinstance(error, FileNotFoundError):
            cause = "no such file or folder"
        kind = MissingFileError if remote.is_of_one_file(error) else StorageError
        raise kind(f"{uri}: cannot {action}: {cause or type(error).__name__}") from error
