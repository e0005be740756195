"""Whatever a store does wrong, what it keeps and gives is right, or one line says what is wrong."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from botocore.utils import parse_timestamp
from s3fs import S3FileSystem

from pipelines.io import connection, listing, object_store, storage
from pipelines.io.markers import read_marker
from pipelines.io.shards import ShardWriter
from tests.faulty_store import ATTEMPTS, connect_to, faulty_store
from tests.s3_proxy import S3Proxy, fault
from vqvdm.errors import UserError

ROOT = "s3://bucket/house"
MB = 1 << 20
SMALL = np.random.default_rng(0).bytes(100_000)
MEDIUM = np.random.default_rng(1).bytes(2 * MB + MB // 2)
LARGE = np.random.default_rng(2).bytes(12 * MB)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Proxy]:
    with faulty_store(tmp_path_factory.mktemp("store")) as proxy:
        yield proxy


@pytest.fixture
def store(server: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    connect_to(server, monkeypatch)
    server.plan()
    yield server
    server.plan()
    storage.delete(ROOT)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects go in parts of 1 MiB, and come in ranges of 1 MiB."""
    monkeypatch.setattr(object_store, "PART", MB)
    monkeypatch.setattr(S3FileSystem, "default_block_size", MB)
    S3FileSystem.clear_instance_cache()


def use_everything(tmp_path: Path) -> None:
    """Call each function of storage and compare its results."""
    (tmp_path / "file").write_bytes(MEDIUM)
    storage.publish_file(tmp_path / "file", f"{ROOT}/medium")
    storage.publish_bytes(SMALL, f"{ROOT}/deep/small")
    storage.publish_json({"a": [1]}, f"{ROOT}/deep/index.json")
    assert [(f.uri[len(ROOT) + 1 :], f.size) for f in storage.walk(ROOT)] == [
        ("deep/index.json", 19), ("deep/small", len(SMALL)), ("medium", len(MEDIUM))
    ]  # fmt: skip
    assert storage.exists(f"{ROOT}/medium") and not storage.exists(f"{ROOT}/other")
    found = storage.info(f"{ROOT}/medium")
    assert found and found.size == len(MEDIUM)
    assert storage.read_bytes(f"{ROOT}/medium") == MEDIUM
    assert storage.read_head(f"{ROOT}/medium", 2 * MB) == MEDIUM[: 2 * MB]
    assert storage.read_head(f"{ROOT}/deep/small", 2 * MB) == SMALL
    assert storage.read_json(f"{ROOT}/deep/index.json") == {"a": [1]}
    assert storage.sha256(f"{ROOT}/medium") == hashlib.sha256(MEDIUM).hexdigest()
    with storage.local_folder(f"{ROOT}/deep") as folder:
        assert Path(folder, "small").read_bytes() == SMALL
    storage.discard_unfinished(ROOT)
    storage.keep_only(ROOT, ["medium", "deep/small"], re.compile(".*"))
    assert len(storage.walk(ROOT)) == 2
    storage.delete(ROOT)
    assert storage.walk(ROOT) == []


PASSING = {
    "overloaded": [fault(503, times=2)],
    "internal errors": [fault(500, times=2)],
    "dropped before the answer": [fault("drop", times=2)],
    "dropped after the work": [fault("drop_answer", times=1)],
    "requests cut short": [fault("cut_request", "put", "put_part", "complete_upload", times=2)],
    "answers cut short": [fault("cut", "get", "get_range", "list", times=2)],
    "no ranges": [fault(501, "get_range")],
    "ranges are bad requests": [fault(400, "get_range")],
    "ranges are ignored": [fault("ignore_range", "get_range")],
    "ranges are short": [fault("short_range", "get_range")],
    "short first, then no ranges": [fault("cut", "get", times=1), fault(501, "get_range")],
    "no bulk deletion": [fault(501, "delete_many")],
    "bulk deletion is a bad request": [fault(400, "delete_many")],
    "no list of uploads": [fault(501, "list_uploads")],
    "altered once": [fault("flip", "put", "put_part", times=1)],
    "conflicts": [fault(409, "put", "complete_upload", times=1)],
    "all at once": [
        fault(503, times=1), fault("drop", times=1), fault("cut", "get", "list", times=1),
        fault("flip", "put", "put_part", times=1), fault(501, "delete_many", "get_range"),
    ],
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("case", PASSING)
def test_what_passes_changes_nothing(
    case: str, store: S3Proxy, parts: None, tmp_path: Path
) -> None:
    store.plan(*PASSING[case])
    use_everything(tmp_path)


LASTING = {
    "overloaded": (fault(503), "reduce your request rate.*fewer --num-workers"),
    "internal errors": (fault(500), "internal (server )?error"),
    "dropped": (fault("drop"), "Connection was closed"),
    "not there": (fault(501), "not implemented.*lacks a part of S3"),
    "slow": (fault("slow"), "timeout"),
}
STEPS = {
    "write": lambda: storage.publish_bytes(b"new", f"{ROOT}/file"),
    "read": lambda: storage.read_bytes(f"{ROOT}/there"),
    "read in part": lambda: storage.read_head(f"{ROOT}/there", 10),
    "copy": lambda: storage.sha256(f"{ROOT}/there"),
    "list": lambda: storage.walk(ROOT),
    "delete": lambda: storage.delete(ROOT),
}


@pytest.mark.long
@pytest.mark.parametrize("case", LASTING)
def test_what_lasts_is_one_line(case: str, store: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(connection, "ATTEMPTS", 2)
    S3FileSystem.clear_instance_cache()
    if case == "slow":
        store.slow_s = 3.0  # A busy client may look for the answer only after a while.
        monkeypatch.setattr(S3FileSystem, "read_timeout", 0.1)
        S3FileSystem.clear_instance_cache()
    struck, words = LASTING[case]
    storage.publish_bytes(b"kept", f"{ROOT}/there")
    store.plan(struck)
    for name, step in STEPS.items():
        started = time.monotonic()
        with pytest.raises(UserError, match=f"(?i){words}") as caught:
            step()
        assert time.monotonic() - started < 30, name
        assert "s3://bucket/house" in str(caught.value)
        assert store.endpoint in str(caught.value)
        assert "\n" not in str(caught.value)
    S3FileSystem.clear_instance_cache()
    store.plan()
    assert storage.read_bytes(f"{ROOT}/there") == b"kept"


def test_attempts_are_bounded(store: S3Proxy) -> None:
    store.plan(fault(503))
    with pytest.raises(UserError):
        storage.publish_bytes(b"new", f"{ROOT}/file")
    assert store.count("put") <= 3 * ATTEMPTS


@pytest.mark.parametrize("kind", ["frame", "flip"])
def test_a_store_that_alters_objects_publishes_no_marker(
    kind: str, store: S3Proxy, tmp_path: Path
) -> None:
    def publish(name: str) -> None:
        with ShardWriter(ROOT, name) as writer:
            writer.add("key", {"txt": SMALL})
            writer.publish([], "spec", "made", {})

    for altered in (".tar", ".json"):
        store.plan(fault(kind, "put", key=altered))
        with pytest.raises(UserError, match="does not keep what is sent to it") as caught:
            publish("train-000000")
        assert store.endpoint in str(caught.value)
        assert f"{ROOT}/train-000000{altered}" in str(caught.value)
        # Nothing that differs is left.
        assert f"{ROOT}/train-000000{altered}" not in {f.uri for f in storage.walk(ROOT)}
        assert read_marker(ROOT, "train-000000") is None
    store.plan()
    publish("train-000000")
    marker = read_marker(ROOT, "train-000000")
    assert marker and storage.sha256(f"{ROOT}/train-000000.tar") == marker.sha256


def test_etags_that_are_no_checksums_are_not_believed(
    store: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of objects that are encrypted with keys of the user: they are read again."""
    monkeypatch.setattr(object_store, "_etags", lambda *_: set())
    storage.publish_bytes(SMALL, f"{ROOT}/file")
    assert store.count("get") == 1
    store.plan(fault("flip", "put"))
    with pytest.raises(UserError, match="does not keep"):
        storage.publish_bytes(SMALL, f"{ROOT}/file")
    assert storage.walk(ROOT) == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1, with its key."""
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("certificate") / "server.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def test_checksums_do_not_follow_the_body(
    certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default botocore frames what it sends by HTTPS, and some servers store the frames."""
    with faulty_store(tmp_path / "s3", certificate) as store:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        connect_to(store, monkeypatch)
        store.plan(fault("ignore_encoding", "put"))
        storage.publish_bytes(SMALL, f"{ROOT}/file")
        assert storage.read_bytes(f"{ROOT}/file") == SMALL
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
        S3FileSystem.clear_instance_cache()
        with pytest.raises(UserError, match=r"does not keep.*CALCULATION=when_required"):
            storage.publish_bytes(SMALL, f"{ROOT}/other")
        assert [file.uri for file in storage.walk(ROOT)] == [f"{ROOT}/file"]
        assert storage.read_bytes(f"{ROOT}/file") == SMALL
        S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(("parts_at_most", "expected"), [(10_000, 3), (2, 2)])
def test_large_files_go_in_as_many_parts_as_are_allowed(
    store: S3Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    parts_at_most: int,
    expected: int,
) -> None:
    monkeypatch.setattr(object_store, "PART", 5 * MB)
    monkeypatch.setattr(object_store, "PARTS", parts_at_most)
    (tmp_path / "file").write_bytes(LARGE)
    storage.publish_file(tmp_path / "file", f"{ROOT}/large")
    assert (store.count("put"), store.count("put_part")) == (0, expected)
    assert storage.sha256(f"{ROOT}/large") == hashlib.sha256(LARGE).hexdigest()


def test_a_file_that_no_store_takes_is_refused(
    store: S3Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "LARGEST", 10 * MB)
    (tmp_path / "file").write_bytes(LARGE)
    with pytest.raises(UserError, match=r"12.6 MB is too large.*at most 10.5 MB"):
        storage.publish_file(tmp_path / "file", f"{ROOT}/large")
    assert store.requests == []


def test_parts_of_the_largest_file() -> None:
    """S3 takes 10,000 parts of 5 MiB to 5 GiB, at most 5 TiB in all."""
    for size in (1, 5 << 30, (5 << 40) - 1, 5 << 40):
        part = object_store.part_bytes(size)
        assert 5 * MB <= part <= 5 << 30 and part * 10_000 >= size
    with pytest.raises(UserError):
        object_store.part_bytes((5 << 40) + 1)


def test_a_store_that_is_set_anew_is_the_one_that_is_used(
    store: S3Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook that corrects its endpoint or its credentials need not be started again."""
    storage.publish_bytes(b"first", f"{ROOT}/file")
    with faulty_store(tmp_path / "other") as other:
        monkeypatch.setenv("AWS_ENDPOINT_URL", other.endpoint)
        assert not storage.exists(f"{ROOT}/file")
        storage.publish_bytes(b"second", f"{ROOT}/file")
        assert storage.read_bytes(f"{ROOT}/file") == b"second"
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
    assert storage.read_bytes(f"{ROOT}/file") == b"first"
    opened = connection.connect(ROOT)[0]
    assert connection.connect(ROOT)[0] is opened
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something else")
    assert connection.connect(ROOT)[0] is not opened


def test_files_that_are_not_kept_are_removed_by_their_own_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An object may have the name that those of a folder begin with."""
    removed: list[str] = []
    names = dict.fromkeys(["a", "a/kept", "/b", "c/gone"])
    monkeypatch.setattr(storage, "written_below", lambda folder: names)
    monkeypatch.setattr(storage, "discard_unfinished", lambda folder: None)
    monkeypatch.setattr(object_store, "remove", lambda fs, found: removed.extend(found))
    storage.keep_only("s3://bucket/only", ["a/kept"], re.compile(".*"))
    assert removed == ["bucket/only/a", "bucket/only//b", "bucket/only/c/gone"]


@pytest.mark.long
def test_files_are_told_alike_one_by_one_and_many_at_a_time(
    store: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{n}.bin" for n in range(20)]
    for name in [*names, "deep/x"]:
        storage.publish_bytes(name.encode(), f"{ROOT}/{name}")
    store.plan()
    found = storage.infos_below(ROOT, [*names, "missing"])
    assert [operation for operation, _ in store.requests] == ["list"]
    assert found == {f"{ROOT}/{name}": storage.info(f"{ROOT}/{name}") for name in names}
    assert storage.infos_below("s3://no-such-bucket/a", names) == {}
    assert storage.infos_below("/tmp", names) == {}

    def refuse(*_: object) -> None:
        raise PermissionError("AccessDenied")

    monkeypatch.setattr(listing, "listed_among", refuse)
    assert storage.infos_below(ROOT, names) == {}  # Each may be asked for by its name all the same.


def test_times_of_listings_are_read_fast(store: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.publish_bytes(SMALL, f"{ROOT}/file")
    S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(
        "botocore.parsers.DEFAULT_TIMESTAMP_PARSER", lambda text: pytest.fail(f"guesses {text}")
    )
    [(_, listed)] = storage.written_below(ROOT).values()
    [(_, asked)] = [storage.written(f"{ROOT}/file") or (0, None)]
    assert listed and asked and listed.replace(microsecond=0) == asked
    for text in ("2026-01-02T03:04:05.678Z", "2026-01-02T03:04:05Z"):
        assert connection.timestamp(text) == parse_timestamp(text)
    for text in ("Fri, 02 Jan 2026 03:04:05 GMT", 1767323045, 1767323045.5):
        assert connection.timestamp(text) == parse_timestamp(text)


@pytest.mark.long
def test_one_listing_tells_when_objects_were_written(store: S3Proxy) -> None:
    for name in ("a.tar", "a.json", "deep/b"):
        storage.publish_bytes(name.encode(), f"{ROOT}/{name}")
    asked = {name: storage.written(f"{ROOT}/{name}") for name in ("a.tar", "a.json", "deep/b")}
    store.plan()
    found = storage.written_below(ROOT)
    # What is asked for one object has no fractions of a second.
    assert asked == {name: (n, t and t.replace(microsecond=0)) for name, (n, t) in found.items()}
    assert [operation for operation, _ in store.requests] == ["list"]
