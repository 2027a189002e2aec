"""Uploads in parts that a killed process left on an S3 server: in no listing of files, and paid for all the same."""

from __future__ import annotations

from typing import Any

from discovr_ray.data.storage.s3 import client


def abort(uri: str) -> int:
    """Give up the uploads below a folder, at most a thousand; returns how many there were."""
    from fsspec.asyn import sync

    s3 = client("write")
    number: int = sync(s3.loop, _abort, s3, uri)
    return number


async def _abort(s3: Any, uri: str) -> int:
    bucket, key, _ = s3.split_path(uri)
    prefix = key.rstrip("/") + "/"
    answer = await s3._call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix)
    uploads = [upload for upload in answer.get("Uploads", []) if upload["Key"].startswith(prefix)]
    for upload in uploads:
        await s3._call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    return len(uploads)
