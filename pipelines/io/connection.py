"""Opening file systems, and explaining their errors.

Credentials and the endpoint of S3 come from the standard AWS variables.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipelines.io.room import is_full
from vqvdm.errors import UserError

NO_PLACE = (errno.EROFS, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP)
"""Errors of a place where no file can be made, whatever its permissions."""
ATTEMPTS = 3
"""How often s3fs makes a request, each with the retries of botocore."""
EXTRAS = {"gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az"}
"""By the beginning of a URI, the extra of this project that brings its package."""
_settings: dict[str, str] = {}
"""The variables with which the file systems of S3 were opened that fsspec keeps."""


def is_local(uri: str) -> bool:
    return "://" not in uri or uri.startswith("file://")


def connect(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URI, and the path in it, which is taken literally."""
    if is_local(uri):
        return LocalFileSystem(), uri.removeprefix("file://")
    # Listings are never cached: other processes write to the same places.
    options: dict[str, Any] = {"use_listings_cache": False}
    if uri.startswith("s3://"):
        # Outages of up to a minute are retried; longer ones end the job with one line.
        attempts = int(os.environ.get("AWS_MAX_ATTEMPTS", "8"))
        options["config_kwargs"] = {
            "retries": {"mode": "standard", "total_max_attempts": attempts},
            # Some servers send the checksum of the whole object with each part of it, and large
            # objects are read in parts. This project checks its files by its own sha256.
            "response_checksum_validation": "when_required",
            # Checksums that follow a body (`aws-chunked`) are stored as a part of it by servers
            # that do not know them. The sha256 in the signature protects the body as well.
            "request_checksum_calculation": os.environ.get(
                "AWS_REQUEST_CHECKSUM_CALCULATION", "when_required"
            ),
        }
        _forget_other_settings()
        # `url_to_fs` would take "::" in a name for a chain of file systems.
        fs = fsspec.filesystem("s3", **options)
        fs.retries = ATTEMPTS
        _read_times_fast(fs)
        return fs, uri.removeprefix("s3://")
    try:
        return fsspec.core.url_to_fs(uri, **options)
    except ImportError as error:
        kind = uri.partition("://")[0]
        cure = f"pip install -c constraints.txt -e '.[{EXTRAS[kind]}]'" if kind in EXTRAS else error
        raise UserError(
            f"{uri}: a package for {kind}:// is missing on this machine: {cure}"
        ) from error
    except ValueError as error:
        raise UserError(f"{uri} is of a kind that fsspec does not support: {error}") from error


def _read_times_fast(fs: Any) -> None:
    """Have a file system of S3 read times by the standard library: botocore guesses their format,
    which takes three quarters of a listing."""
    if fs.session is None:
        from aiobotocore.session import AioSession

        fs.session = AioSession()
        parsers = fs.session.get_component("response_parser_factory")
        parsers.set_parser_defaults(timestamp_parser=timestamp)


def timestamp(value: Any) -> datetime:
    """A time as a store writes it: in ISO 8601, or else as botocore knows it."""
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        from botocore.utils import parse_timestamp

        return parse_timestamp(value)


def _forget_other_settings() -> None:
    """Let a process whose credentials or endpoint were set anew go on with the new ones.

    fsspec keeps open file systems by their options, and these come from the environment.
    """
    now = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    if now != _settings:
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        _settings.clear()
        _settings.update(now)


@contextmanager
def explained(uri: str, doing: str) -> Iterator[None]:
    """Turn an error of storage into one line with a cure."""
    try:
        yield
    except PermissionError as error:
        cure = (
            "check the permissions"
            if is_local(uri)
            else "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"
        )
        raise UserError(f"no permission to {doing} {uri}: {cure} ({error})") from error
    except (NotADirectoryError, FileExistsError) as error:
        raise UserError(
            f"cannot {doing} {uri}: a file stands where a folder is needed; choose another path"
        ) from error
    except Exception as error:
        if is_no_bucket(error):
            raise UserError(f"cannot {doing} {uri}: {error}: create the bucket first") from error
        if is_local(uri) and doing == "write" and _is_no_place(uri, error):
            raise UserError(
                f"no file can be written at {uri} ({getattr(error, 'strerror', '')}): choose "
                "another --root"
            ) from error
        if is_local(uri) or isinstance(error, FileNotFoundError):
            raise
        # The disk that is full is one of this machine: its folder is named by who writes there.
        if _is_of_store(error) and not is_full(error):
            raise UserError(
                f"cannot {doing} {uri} of {store_of(uri)}: {error} ({_cure(error)})"
            ) from error
        raise


def is_no_bucket(error: Exception) -> bool:
    """Whether a store says that the bucket is missing, in whatever words."""
    # Of S3 the answer is a dict; errors of other stores have an object, or nothing, by that name.
    answer = getattr(error.__cause__, "response", None)
    told = answer.get("Error", {}) if isinstance(answer, dict) else {}
    return told.get("Code") == "NoSuchBucket" or "bucket does not exist" in str(error)


def _is_no_place(path: str, error: Exception) -> bool:
    """Whether no file can be made there: such as where its folder, as in /proc, cannot be."""
    if isinstance(error, FileNotFoundError):
        return not os.path.isdir(os.path.dirname(path.removeprefix("file://")))
    return getattr(error, "errno", 0) in NO_PLACE


def store_of(uri: str) -> str:
    """The store of a URI, in words."""
    kind = uri.partition("://")[0]
    variables = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if kind == "s3" else ()
    address = next(filter(None, map(os.environ.get, variables)), None)
    return f"the {kind} store" + (f" at {address}" if address else "")


def _is_of_store(error: Exception) -> bool:
    libraries = ("botocore", "aiobotocore", "aiohttp")
    return isinstance(error, OSError) or type(error).__module__.startswith(libraries)


def _cure(error: Exception) -> str:
    match getattr(error, "errno", None):
        case errno.EBUSY:
            return "it is overloaded: run the same command again later, or with fewer --num-workers"
        case errno.ENOSYS:
            return "it lacks a part of S3: see docs/troubleshooting.md"
    return (
        "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL and the network, then "
        "run the same command again"
    )


def is_refusal(error: BaseException) -> bool:
    """Whether storage denied the permission, or is read-only; otherwise it did not answer."""
    cause = error.__cause__
    return isinstance(cause, PermissionError) or getattr(cause, "errno", 0) == errno.EROFS
