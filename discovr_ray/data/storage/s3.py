"""S3 through s3fs, with reads of our own: quick to ask again, and checked against the MD5 that S3 calls the ETag.

The SDK lets a stalled read wait for a minute and a refused one for seconds. Nothing in it notices an answer that was
cut cleanly or changed on the way, unless the server sends checksums, which those other than AWS rarely do.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
import re
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeVar

from discovr_ray.config import StorageConfig
from discovr_ray.data.storage.access import endpoint, environment, settings

# what S3 says when only this object is at fault; an expired token or a missing bucket concerns all of them
CODES_OF_ONE_OBJECT = {"NoSuchKey", "404", "AccessDenied", "403", "InvalidRange", "InvalidObjectState"}
MOST_PATIENCE = 16  # times storage.read_timeout_s; what is not a plain read has it from the start
FIRST_PAUSE_S = 0.02  # then twice that, and so on
PART_BYTES = 16 * 2**20  # of a large file; what is sent or fetched again when a request fails
PARTS_AT_ONCE = 8
CHUNK_BYTES = 2**18
PAGE_KEYS = 1000  # of a listing; the most that S3 gives

Entry = TypeVar("Entry", bound=Hashable)

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What a GET brought, and whether the server's MD5 confirms it; None: it told none."""

    data: bytes
    is_confirmed: bool | None


class UnsteadyError(OSError):
    """Answers about one object that differ from one another: something on the way changes them."""


class StalledError(OSError):
    """An answer that does not come, or stops coming."""


def client(use: Literal["look", "get", "write"]) -> Any:
    """The S3 file system of this process for its settings and environment as they are now; threads share it."""
    return _client(os.getpid(), use, settings(), tuple(sorted(environment().items())))


def failures() -> tuple[type[BaseException], ...]:
    """What the S3 client raises beside OSError."""
    import aiohttp
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

    return (OSError, aiohttp.ClientError, BotoCoreError, ClientError, ValueError)  # ValueError: a malformed bucket name


def is_of_one_file(error: BaseException) -> bool | None:
    """Whether the server's answer concerns this object alone; None: it is no answer of a server."""
    response = getattr(error.__cause__, "response", None)  # of botocore's ClientError, which s3fs translates
    return None if response is None else response["Error"]["Code"] in CODES_OF_ONE_OBJECT


def read(uri: str) -> bytes:
    """A whole object: in one GET where its ETag confirms what came, else read until two answers are equal.

    TLS guards what comes over https, so one answer will do where the ETag is no MD5 (encrypted by key, sent in parts).
    """
    is_guarded = not (endpoint() or "https:").startswith("http:")
    seen = set()
    for attempt in range(max(2, settings().attempts)):
        answer = get(uri)
        digest = hashlib.sha256(answer.data).digest()
        if answer.is_confirmed or (answer.is_confirmed is None and is_guarded) or digest in seen:
            return answer.data
        seen.add(digest)
        time.sleep(_pause_s(attempt))
    raise UnsteadyError(f"{len(seen)} reads and no two alike")


def steady(ask: Callable[[], set[Entry]]) -> set[Entry]:
    """A listing, which no hash guards: over plain http asked for until two answers in a row are equal.

    Where they never are since each holds the one before and more, somebody writes there: then the last but one.
    """
    if not (endpoint() or "").startswith("http:"):
        return ask()
    answers: list[set[Entry]] = []
    failure: BaseException | None = None
    for attempt in range(max(2, settings().attempts)):
        try:
            answers.append(ask())
        except failures() as error:  # ValueError, too: of a changed date or size that no longer is one
            if is_of_one_file(error) or isinstance(error, FileNotFoundError):
                raise
            answers, failure = [], error
        if len(answers) > 1 and answers[-1] == answers[-2]:
            return answers[-1]
        if attempt or failure:
            time.sleep(_pause_s(attempt))
    if failure is None and all(before < after for before, after in pairwise(answers)):
        num_new = len(answers[-1] - answers[-2])
        logger.warning("%d files left out of a listing that grew while it was asked for", num_new)
        return answers[-2]
    raise failure or UnsteadyError("no two answers alike: files change there, or something on the way changes answers")


def walk(uri: str) -> Iterator[tuple[str, int]]:
    """(bucket/key, bytes) of every object below a folder, a page of them at a time; an object finds itself."""
    bucket, key, _ = client("look").split_path(uri)
    prefix = f"{key.rstrip('/')}/" if key else ""
    is_empty, token = True, ""
    while True:
        page, token = _steady_page(bucket, prefix, token)
        is_empty = is_empty and not page
        yield from sorted(page)
        if not token:
            break
    if is_empty and key:
        with suppress(FileNotFoundError):
            yield f"{bucket}/{key}", int(client("look").size(uri))


def _steady_page(bucket: str, prefix: str, token: str) -> tuple[set[tuple[str, int]], str]:
    """A page of a listing, and what to ask for the next one; "": it is the last."""
    from fsspec.asyn import sync

    s3 = client("look")
    following = ""

    def ask() -> set[tuple[str, int]]:
        nonlocal following
        more = {"ContinuationToken": token} if token else {}
        answer = sync(s3.loop, s3._call_s3, "list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=PAGE_KEYS, **more)
        following = answer.get("NextContinuationToken", "") if answer.get("IsTruncated") else ""
        found = ((item["Key"], int(item["Size"])) for item in answer.get("Contents", []))
        return {(f"{bucket}/{key}", size) for key, size in found if not key.endswith("/")}  # others stand for folders

    return steady(ask), following


def get(uri: str, start: int = 0, end: int | None = None) -> Answer:
    """One object, or its bytes from `start` up to `end`: one GET, which is repeated only when it fails."""
    from fsspec.asyn import sync

    s3 = client("get")
    answer: Answer = sync(s3.loop, _get, s3, uri, None if end is None else (start, end), settings())
    return answer


def longest_get_s(config: StorageConfig) -> float:
    """Seconds after which a GET that brings no byte is given up for good."""
    waits = (config.connect_timeout_s + _patience_s(config, attempt) for attempt in range(config.attempts))
    return sum(waits) + 2 * FIRST_PAUSE_S * 2.0**config.attempts


def get_file(uri: str, local_path: str) -> None:
    """Copy an object to a local file, parts of it at a time; its content is not checked."""
    from fsspec.asyn import sync

    size = client("look").size(uri)
    s3 = client("get")
    sync(s3.loop, _get_parts, s3, uri, size, local_path, settings())


def persist(write: Callable[[], object]) -> None:
    """Repeat a whole write: when the reply to the last request of many is lost, repeating that one does not help."""
    for attempt in range(2):
        try:
            write()
            return
        except failures() as error:
            if attempt or is_of_one_file(error):
                raise


async def _get_parts(s3: Any, uri: str, size: int, local_path: str, config: StorageConfig) -> None:
    parts = [(start, min(start + PART_BYTES, size)) for start in range(0, size, PART_BYTES)]
    with open(local_path, "wb") as file:
        for first in range(0, len(parts), PARTS_AT_ONCE):
            wanted = parts[first : first + PARTS_AT_ONCE]
            for answer in await asyncio.gather(*(_get(s3, uri, part, config, is_whole=True) for part in wanted)):
                file.write(answer.data)


async def _get(
    s3: Any, uri: str, part: tuple[int, int] | None, config: StorageConfig, is_whole: bool = False
) -> Answer:
    """`is_whole`: the object is known to hold all of `part`, so that less is a failure."""
    await s3.set_session()  # loading the SDK must not count as the server's silence
    attempt = 0
    while True:
        try:
            answer = await _get_once(s3, uri, part, _patience_s(config, attempt))
            if part and is_whole and len(answer.data) != part[1] - part[0]:
                raise UnsteadyError(f"{len(answer.data)} of {part[1] - part[0]} bytes came")
            return answer
        except failures() as error:
            attempt += 1
            if is_of_one_file(error) or isinstance(error, ValueError) or attempt == config.attempts:
                raise
        await asyncio.sleep(_pause_s(attempt))


async def _get_once(s3: Any, uri: str, part: tuple[int, int] | None, patience_s: float) -> Answer:
    """One GET, given up when no byte comes for `patience_s`."""
    bucket, key, _ = s3.split_path(uri)
    header = {"Range": f"bytes={part[0]}-{part[1] - 1}"} if part else {}
    response, chunks = None, []
    try:
        response = await asyncio.wait_for(s3._call_s3("get_object", Bucket=bucket, Key=key, **header), patience_s)
        while chunk := await asyncio.wait_for(response["Body"].read(CHUNK_BYTES), patience_s):
            chunks.append(chunk)
    except TimeoutError:
        raise StalledError(f"no byte came for {patience_s:g} s (storage.read_timeout_s)") from None
    finally:
        if response is not None:
            response["Body"].close()
    data = b"".join(chunks)
    return Answer(data, None if part else _matches_etag(response, data))


def _matches_etag(response: dict[str, Any], data: bytes) -> bool | None:
    """Whether the data has the MD5 that the ETag is; None where it is none: encrypted by key, or sent in parts."""
    etag = str(response.get("ETag", "")).strip('"')
    is_encrypted = response.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in response
    if is_encrypted or not re.fullmatch("[0-9a-f]{32}", etag):
        return None
    return hashlib.md5(data, usedforsecurity=False).hexdigest() == etag


def _patience_s(config: StorageConfig, attempt: int) -> float:
    return config.read_timeout_s * min(2.0**attempt, MOST_PATIENCE)


def _pause_s(attempt: int) -> float:
    # clients that a server has sent away must not come back all at once
    return float(FIRST_PAUSE_S * 2**attempt * random.uniform(0.5, 1.5))


@lru_cache(maxsize=6)  # fsspec's own cache makes a client per thread, and would miss a changed environment
def _client(process_id: int, use: str, config: StorageConfig, variables: tuple[tuple[str, str], ...]) -> Any:
    import s3fs  # slow to import, and not needed for local files

    values = dict(variables)
    options: dict[str, Any] = {
        "connect_timeout": config.connect_timeout_s,
        "read_timeout": config.write_timeout_s if use == "write" else config.read_timeout_s * MOST_PATIENCE,
        # the SDK pauses for half a second before its first repetition: reads repeat themselves
        "retries": {"mode": "standard", "total_max_attempts": 1 if use == "get" else config.attempts},
    }
    for option in ("request_checksum_calculation", "response_checksum_validation"):
        if value := values.get(f"AWS_{option.upper()}"):
            options[option] = value
    s3 = s3fs.S3FileSystem(
        key=values.get("AWS_ACCESS_KEY_ID"),
        secret=values.get("AWS_SECRET_ACCESS_KEY"),
        token=values.get("AWS_SESSION_TOKEN"),
        endpoint_url=endpoint(),
        config_kwargs=options,
        default_block_size=PART_BYTES,
        use_listings_cache=False,  # listings must show what other processes wrote
        skip_instance_cache=True,
    )
    s3.retries = 1 if use == "get" else 2  # of the SDK's calls with all their attempts; for answers that do not parse
    return s3
