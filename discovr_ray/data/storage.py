"""Paths and bytes: every file of every job is a local path or an s3:// URI and goes through these functions.

S3 settings come from the AWS_* variables of the process; `environment()` hands them on to workers.
All failures are errors.StorageError, naming the path and the cause; errors.MissingFileError where the path alone is to
blame, so that nobody asks again.
"""

from __future__ import annotations

import asyncio
import glob as local_glob
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from discovr_ray.errors import MissingFileError, StorageError

READ_TIMEOUT_S = 3  # a stalled GET is asked for again after this long
WRITE_TIMEOUT_S = 60  # a server may acknowledge a large part late
CONNECT_TIMEOUT_S = 2
# what S3 says when only this object is at fault; an expired token or a missing bucket concerns all of them
CODES_OF_ONE_OBJECT = {"NoSuchKey", "404", "AccessDenied", "403", "InvalidObjectState", "KeyTooLongError"}
MAX_ATTEMPTS = 4  # of one request, up to 7 s apart in all; s3fs begins anew when a body breaks off


def environment() -> dict[str, str]:
    """The AWS_* variables of this process; what a worker on another machine needs to reach the same storage.

    Servers other than AWS rarely know the SDK's newer checksum headers: with an endpoint of one's own they are only
    used where S3 demands them, unless the two variables say otherwise. (pyarrow reads them from the environment.)
    """
    found = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    if _endpoint():
        found.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        found.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    return found


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def absolute(uri: str) -> str:
    """Local paths made absolute (`~` and file:// understood), s3:// left as it is, without a slash at the end."""
    if is_s3(uri):
        return uri.rstrip("/")
    local = uri.removeprefix("file://")
    if "://" in local:
        raise MissingFileError(f"{uri}: only local paths and s3:// are supported")
    return os.path.abspath(os.path.expanduser(local))


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/") if uri != "/" else "", *(part.strip("/") for part in parts)])


def exists(uri: str) -> bool:
    with _reported(uri, "look up"):
        return bool(_s3().exists(uri)) if is_s3(uri) else os.path.exists(absolute(uri))


def file_size(uri: str) -> int:
    """Bytes of a file."""
    with _reported(uri, "look up"):
        return int(_s3().size(uri)) if is_s3(uri) else os.path.getsize(absolute(uri))


def read_bytes(uri: str) -> bytes:
    """A whole file; one GET on S3."""
    with _reported(uri, "read"):
        if is_s3(uri):
            return bytes(_s3().cat_file(uri, max_concurrency=1))  # more than one asks for the size first
        return Path(absolute(uri)).read_bytes()


def read_range(uri: str, offset: int, num_bytes: int) -> bytes:
    """Part of a file, less when the file ends before; one GET on S3."""
    with _reported(uri, "read"):
        if is_s3(uri):
            return bytes(_s3().cat_file(uri, start=offset, end=offset + num_bytes, max_concurrency=1))
        with open(absolute(uri), "rb") as file:
            file.seek(offset)
            return file.read(num_bytes)


def write_bytes(uri: str, data: bytes) -> None:
    """Write a whole file, parents included. Readers see the old file or the new one, never a part."""
    with _reported(uri, "write"):
        if is_s3(uri):
            _s3(writing=True).pipe_file(uri, data)
        else:
            _replace(absolute(uri), lambda temporary: _write_through(temporary, data))


def put_file(local_path: str, uri: str) -> None:
    """Copy a local file to `uri`, under the same promise as write_bytes."""
    with _reported(uri, "write"):
        if is_s3(uri):
            _s3(writing=True).put_file(local_path, uri)
        else:
            _replace(absolute(uri), lambda temporary: _copy_through(local_path, temporary))


def get_file(uri: str, local_path: str) -> None:
    """Copy the file at `uri` to a local path, parents included."""
    with _reported(uri, "read"):
        if is_s3(uri):
            _replace(local_path, lambda temporary: _s3().get_file(uri, temporary))
        else:
            _replace(local_path, lambda temporary: _copy_through(absolute(uri), temporary))


def list_files(uri: str, suffixes: Sequence[str] = ()) -> list[str]:
    """Every file below a folder, sorted, as full URIs; a file lists itself.

    Args:
        suffixes: only names that end in one of these, whatever their case, such as (".avi",); empty: all.
    Errors:
        StorageError: there is nothing at `uri`.
    """
    with _reported(uri, "list"):
        found = [f"s3://{path}" for path in _s3().find(uri)] if is_s3(uri) else list(_walk(absolute(uri)))
    if not found and not exists(uri):
        raise MissingFileError(f"{uri}: no such file or folder")
    endings = tuple(suffix.lower() for suffix in suffixes)
    return sorted(path for path in found if not endings or path.lower().endswith(endings))


def list_folders(uri: str) -> list[str]:
    """Folders directly inside a folder, sorted, as full URIs; none when the folder is missing."""
    with _reported(uri, "list"):
        if not is_s3(uri):
            root = absolute(uri)
            names = os.listdir(root) if os.path.isdir(root) else []
            return sorted(path for name in names if os.path.isdir(path := os.path.join(root, name)))
        try:
            entries = _s3().ls(uri.rstrip("/") + "/", detail=True)
        except FileNotFoundError:
            return []
        return sorted(f"s3://{entry['name'].rstrip('/')}" for entry in entries if entry["type"] == "directory")


def glob(pattern: str) -> list[str]:
    """Files that match a pattern with *, ?, [...] or ** (any depth), sorted, as full URIs."""
    with _reported(pattern, "list"):
        if is_s3(pattern):
            return sorted(f"s3://{path}" for path in _s3().glob(pattern))
        return sorted(path for path in local_glob.glob(absolute(pattern), recursive=True) if os.path.isfile(path))


def remove_tree(uri: str) -> None:
    """Remove a file, or a folder and everything in it; nothing happens when it is missing."""
    with _reported(uri, "remove"):
        if is_s3(uri):
            with suppress(FileNotFoundError):
                _s3(writing=True).rm(uri, recursive=True)
        elif os.path.isdir(path := absolute(uri)) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            Path(path).unlink(missing_ok=True)


def arrow_filesystem(uri: str) -> tuple[Any, str]:
    """(pyarrow filesystem, path on it), for libraries that take no URI; pickles with its credentials.

    The filesystem is None for a local path: the libraries' own is used.
    """
    if not is_s3(uri):
        return None, absolute(uri)
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return PyFileSystem(FSSpecHandler(_s3(writing=True))), uri.removeprefix("s3://").rstrip("/")


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _s3(writing: bool = False) -> Any:
    """The S3 client of this process for the environment as it is now; threads share it."""
    return _client(os.getpid(), WRITE_TIMEOUT_S if writing else READ_TIMEOUT_S, tuple(sorted(environment().items())))


@lru_cache(maxsize=4)  # fsspec's own cache makes a client per thread, and would miss a changed environment
def _client(process_id: int, read_timeout_s: int, variables: tuple[tuple[str, str], ...]) -> Any:
    import s3fs  # slow to import, and not needed for local files

    settings = dict(variables)
    config: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": read_timeout_s,
        "retries": {"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
    }
    for option in ("request_checksum_calculation", "response_checksum_validation"):
        if value := settings.get(f"AWS_{option.upper()}"):
            config[option] = value
    return s3fs.S3FileSystem(
        key=settings.get("AWS_ACCESS_KEY_ID"),
        secret=settings.get("AWS_SECRET_ACCESS_KEY"),
        token=settings.get("AWS_SESSION_TOKEN"),
        endpoint_url=_endpoint(),
        config_kwargs=config,
        use_listings_cache=False,  # listings must show what other processes wrote
        skip_instance_cache=True,
    )


@contextmanager
def _reported(uri: str, action: str) -> Iterator[None]:
    """Turn what the operating system and the S3 client raise into StorageError."""
    causes: tuple[type[BaseException], ...] = (OSError, asyncio.TimeoutError)
    if is_s3(uri):
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

        causes = (*causes, BotoCoreError, ClientError, ValueError)  # ValueError: a malformed bucket name
    try:
        yield
    except causes as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if isinstance(error, FileNotFoundError):
            cause = "no such file or folder"
        kind = MissingFileError if _is_of_one_file(error) else StorageError
        raise kind(f"{uri}: cannot {action}: {cause or type(error).__name__}") from error


def _is_of_one_file(error: BaseException) -> bool:
    """Whether other files of the same storage can still be read."""
    response = getattr(error.__cause__, "response", None)  # of botocore's ClientError, which s3fs translates
    if response is not None:
        return response["Error"]["Code"] in CODES_OF_ONE_OBJECT
    # a ValueError is about a malformed name of a bucket
    return isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError | ValueError)


def _replace(path: str, fill: Callable[[str], object]) -> None:
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


def _write_through(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _copy_through(source: str, path: str) -> None:
    with open(source, "rb") as reader, open(path, "wb") as writer:
        shutil.copyfileobj(reader, writer, 2**20)
        writer.flush()
        os.fsync(writer.fileno())


def _walk(root: str) -> Iterator[str]:
    """Files below a folder, links to folders included, each real folder once."""
    if os.path.isfile(root):
        yield root
        return
    visited = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_raise):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        yield from (os.path.join(folder, name) for name in names)


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # a missing root, or a folder removed meanwhile
        raise error
