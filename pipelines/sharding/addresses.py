"""Addresses of the web, and what of them may be published.

What signs an address, its query above all, is needed to fetch a video and goes no further:
accounts, clips, markers and messages name the video without it.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator

import numpy as np

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


def published(uris: Callable[[], Iterable[str]]) -> Iterator[str]:
    """What stands for each address: the bare one, and a digest of the rest where several differ by
    that alone. They are asked for twice: there may be millions."""
    several = _names_of_several(uris())
    for uri in uris():
        name = bare(uri)
        is_of_several = several and int(checksums.digest(name), 16) in several
        yield f"{name}?{checksums.digest(uri)}" if is_of_several else name


def _names_of_several(uris: Iterable[str]) -> set[int]:
    """Checksums of bare addresses that several addresses have."""
    sums = array("Q")
    for uri in uris:
        if is_url(uri):
            sums.extend(int(checksums.digest(text), 16) for text in (bare(uri), uri))
    pairs_N2 = np.unique(np.array(sums, np.uint64).reshape(-1, 2), axis=0)
    names, counts = np.unique(pairs_N2[:, 0], return_counts=True)
    return set(names[counts > 1].tolist())


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
