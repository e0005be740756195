"""Addresses of the web, and what of them may be published.

What signs an address, its query above all, is needed to fetch a video and goes no further:
accounts, clips, markers and messages name the video without it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from pipelines.io import checksums
from vqvdm.errors import UserError

TAIL = re.compile("[?#]")
"""Where the query of an address begins, or its fragment."""
PASSWORD = re.compile(r"https?://[^/?#]*@|[a-z][a-z0-9+.-]*://[^/?#@]*:[^/?#]*@", re.IGNORECASE)
"""An address with a user's name before its host; of stores, whose buckets may precede an `@`, only
one with a password."""
SECRET = re.compile(r"(?<=://)[^/\s]*@|[?#]\S+")
"""What may be secret in any address that a text holds."""


def is_url(uri: str) -> bool:
    return uri.lower().startswith(("http://", "https://"))


def bare(uri: str) -> str:
    """An address without query and fragment; other URIs and paths as they are."""
    return TAIL.split(uri, maxsplit=1)[0] if is_url(uri) else uri


def published(uris: Iterable[str]) -> list[str]:
    """What stands for each address: the bare one, and a digest of the rest where several differ by
    that alone."""
    uris = list(uris)
    several = defaultdict[str, set[str]](set)
    for uri in uris:
        several[bare(uri)].add(uri)
    return [
        name if len(several[name := bare(uri)]) == 1 else f"{name}?{checksums.digest(uri)}"
        for uri in uris
    ]


def refuse_passwords(uris: Iterable[str]) -> None:
    """`UserError` where an address holds a name or a password."""
    for uri in uris:
        if PASSWORD.match(uri):
            raise UserError(
                f"the address {without_secrets(uri)} has a user's name or password before its "
                "host, which would be published with the clips: take it out"
            )


def without_secrets(text: str, uri: str = "") -> str:
    """What a library says of an address, without its secrets and those of redirections."""
    tail = uri[len(bare(uri)) :]
    return SECRET.sub("", text.replace(tail, "") if tail else text)
