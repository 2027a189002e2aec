"""Every other place than a local disk: S3 as s3.py has it, the rest through fsspec where its driver is installed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Literal
from urllib.parse import quote

from discovr_ray.data.storage import s3
from discovr_ray.errors import MissingFileError

# kind of URI -> the extra of this package that holds its driver
EXTRAS = {"gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def filesystem(uri: str, use: Literal["look", "get", "write"] = "look") -> Any:
    """The fsspec file system of a URI.

    Errors:
        MissingFileError: there is no such kind of storage, or its driver is not installed.
    """
    if is_s3(uri):
        return s3.client(use)
    import fsspec

    kind = uri.partition("://")[0]
    try:
        fsspec.get_filesystem_class(kind)
    except ValueError:
        raise MissingFileError(f"{uri}: unknown storage {kind}://; local paths, s3://, gs:// and abfs:// are") from None
    except ImportError as error:
        extra = EXTRAS.get(kind)
        remedy = f"pip install 'discovr-ray[{extra}]'" if extra else str(error)
        raise MissingFileError(f"{uri}: the driver of {kind}:// is not installed: {remedy}") from error
    # the account is part of the URI for some kinds; listings must show what other processes wrote
    created, _ = fsspec.url_to_fs(uri, use_listings_cache=False)
    return created


def failures(uri: str) -> tuple[type[BaseException], ...]:
    """What the driver of a URI raises; those of the other clouds derive from nothing narrower than Exception."""
    return s3.failures() if is_s3(uri) else (Exception,)


def is_of_one_file(error: BaseException) -> bool:
    """Whether other files of the same storage can still be read."""
    if (answer := s3.is_of_one_file(error)) is not None:
        return answer
    # a ValueError is about a malformed name of a bucket
    single = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, s3.UnsteadyError, ValueError)
    return isinstance(error, single)


def text_without_key(error: BaseException, uri: str) -> str:
    """What the driver says of an error, for logs: without URL and ARN, since a file's name may be a patient's."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    _, _, key = uri.partition("://")[2].partition("/")
    for name in {key, quote(key), quote(key, safe="")} - {""}:
        text = re.sub(rf"/{re.escape(name)}(?!\w)", "/...", text)  # with its slash: a key may be a single letter
    text = re.sub(r"arn:[^\s\"]+", "(ARN)", text)
    return re.sub(r"(\w+://[^/\s\"]+)/[^\s\"]*", r"\1", text)  # the server may be told


def inner_path(uri: str) -> str:
    """The path as the file system itself names it."""
    return str(filesystem(uri)._strip_protocol(uri)).rstrip("/")


def walk(uri: str) -> Iterator[tuple[str, int]]:
    """(full URI, bytes) of every file below a folder; a file finds itself."""
    if is_s3(uri):
        found = s3.walk(uri)
    else:
        found = ((path, int(entry["size"])) for path, entry in filesystem(uri).find(uri, detail=True).items())
    inner = len(inner_path(uri))
    yield from ((uri.rstrip("/") + path[inner:], size) for path, size in found)


def folders(uri: str) -> list[str]:
    """Full URIs of the folders directly inside a folder; none when it is missing."""

    def ask() -> set[str]:
        entries = filesystem(uri).ls(uri.rstrip("/") + "/", detail=True)
        return {entry["name"].rstrip("/") for entry in entries if entry["type"] == "directory"}

    try:
        return [_full_uri(uri, path) for path in _listed(uri, ask)]
    except FileNotFoundError:
        return []


def glob(pattern: str) -> list[str]:
    """Full URIs of the files that match."""
    folder = re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0]

    def ask() -> set[str]:
        entries = filesystem(pattern).glob(pattern, detail=True)
        return {path for path, entry in entries.items() if entry["type"] == "file"}

    return [_full_uri(folder, path) for path in _listed(pattern, ask)]


def _listed(uri: str, ask: Callable[[], set[s3.Entry]]) -> set[s3.Entry]:
    return s3.steady(ask) if is_s3(uri) else ask()


def _full_uri(folder: str, path: str) -> str:
    """A listed path as the user would write it: what the folder's URI holds beside the path stays in front."""
    return folder.rstrip("/") + path[len(inner_path(folder)) :]
