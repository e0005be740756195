"""Short checksums of values, the same wherever they are computed."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def json_bytes(value: Any) -> bytes:
    """JSON with sorted keys: the same value gives the same bytes."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def fingerprint(value: Any) -> str:
    """Short checksum of any JSON value, the same wherever it is computed."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest(text: str) -> str:
    """Short checksum of a text, also of file names that are not valid UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
