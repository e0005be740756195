"""What only object stores need: many objects removed at once, unfinished uploads aborted."""

from __future__ import annotations

from typing import Any

import fsspec

BULK = 1000
"""Objects that S3 removes by one request."""


def abort_uploads(fs: Any, path: str) -> None:
    """Abort the unfinished multi-part uploads to an object, or below a prefix."""
    bucket, _, key = path.partition("/")
    page: dict[str, Any] = {"IsTruncated": True}
    after: dict[str, str] = {}
    while page.get("IsTruncated"):
        page = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key, **after)
        after = {
            "KeyMarker": page.get("NextKeyMarker", ""),
            "UploadIdMarker": page.get("NextUploadIdMarker", ""),
        }
        for upload in page.get("Uploads", []):
            if upload["Key"] == key or upload["Key"].startswith(f"{key}/"):
                fs.call_s3(
                    "abort_multipart_upload",
                    Bucket=bucket,
                    Key=upload["Key"],
                    UploadId=upload["UploadId"],
                )


def delete(fs: fsspec.AbstractFileSystem, path: str, in_bulk: bool) -> None:
    """Remove an object, and all below its name; `in_bulk` where the store may take many at once."""
    names = fs.find(path)
    if in_bulk and len(names) > 1:
        for start in range(0, len(names), BULK):
            _delete_many(fs, names[start : start + BULK])
    else:
        for name in names:
            fs.rm_file(name)


def _delete_many(fs: fsspec.AbstractFileSystem, names: list[str]) -> None:
    """Remove objects of S3 by one request; one by one what the server did not remove that way."""
    bucket = names[0].partition("/")[0]
    keys = [name.partition("/")[2] for name in names]
    try:
        answer = fs.call_s3(
            "delete_objects", Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]}
        )
        removed = {each["Key"] for each in answer.get("Deleted", [])}
    except OSError:
        removed = set()
    for name, key in zip(names, keys, strict=True):
        if key not in removed:
            fs.rm_file(name)
