"""Fingerprints are the same everywhere."""

from pipelines.io import checksums


def test_fingerprints_are_the_same_everywhere() -> None:
    value = {"b": [1, 2.5, None], "a": "x"}
    assert checksums.fingerprint(value) == checksums.fingerprint(dict(reversed(value.items())))
    assert checksums.fingerprint(value) == "ce74053d7a9997b7"
    assert checksums.fingerprint(value) != checksums.fingerprint(value | {"a": "y"})
