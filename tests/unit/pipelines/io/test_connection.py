"""Errors of file systems are explained with a cure."""

import errno
import os
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from pipelines.io import storage
from pipelines.io.connection import explained, is_refusal
from vqvdm.errors import UserError


def test_a_forbidden_place_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "makedirs", forbid)
    with pytest.raises(UserError, match="check the permissions") as caught:
        storage.publish_bytes(b"abc", f"{tmp_path}/a/file")
    assert f"{tmp_path}/a/file" in str(caught.value)


def test_a_file_in_the_way_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        storage.read_bytes(f"{tmp_path}/file/below")


@pytest.mark.parametrize(
    "error", [OSError(errno.EROFS, "Read-only file system"), FileNotFoundError(2, "No such file")]
)
def test_a_place_where_nothing_can_be_made_is_explained(
    error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a root below /proc, or on a disk that is mounted read-only."""

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(os, "makedirs", refuse)
    with pytest.raises(UserError, match=rf"{error.strerror}.*another --root") as caught:
        storage.publish_bytes(b"abc", f"{tmp_path}/a/file")
    assert is_refusal(caught.value) is (error.errno == errno.EROFS)


def test_a_root_that_is_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "root").write_bytes(b"abc")
    for name in ("root.json", "clips/lock.json"):
        with pytest.raises(UserError, match="a file stands where a folder is needed"):
            storage.publish_bytes(b"abc", f"{tmp_path}/root/{name}")


def test_a_source_that_is_missing_is_no_mistake_of_the_place(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        storage.publish_file(tmp_path / "none", f"{tmp_path}/file")


def test_an_unknown_kind_of_place_is_explained() -> None:
    with pytest.raises(UserError, match="nonsense://place"):
        storage.walk("nonsense://place")


def test_no_answer_differs_from_a_refusal(monkeypatch: pytest.MonkeyPatch, memory: str) -> None:
    for kind, refusal in [(PermissionError, True), (ConnectionError, False), (OSError, False)]:

        def fail(*_: object, kind: type[OSError] = kind, **__: object) -> None:
            raise kind("trouble")

        monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.cat_file", fail)
        with pytest.raises(UserError, match=r"cannot|no permission") as caught:
            storage.read_bytes(f"{memory}/file")
        assert is_refusal(caught.value) is refusal


@pytest.mark.parametrize("response", [None, object()])
def test_an_error_that_another_error_led_to_is_told_whatever_that_one_holds(
    response: object,
) -> None:
    """As those of requests and of Azure's client do."""
    cause, error = RuntimeError(), FileNotFoundError("no such blob")
    cause.response = response  # type: ignore[attr-defined]
    error.__cause__ = cause
    with pytest.raises(FileNotFoundError, match="no such blob"), explained("az://a/b", "read"):
        raise error


@pytest.mark.parametrize("words", ["The specified bucket does not exist", "Bucket not found: nob"])
def test_a_bucket_that_is_missing_is_told_in_whatever_words(words: str) -> None:
    error = FileNotFoundError(words)
    error.__cause__ = ClientError({"Error": {"Code": "NoSuchBucket", "Message": words}}, "List")
    told = f"cannot list s3://nob/v: {words}: create the bucket"
    with pytest.raises(UserError, match=told), explained("s3://nob/v", "list"):
        raise error
