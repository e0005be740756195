"""Videos at addresses of the web: looked up by their headers, fetched whole.

What breaks off is gone on with, where the server has ranges. A server that does not serve a video
is not the job's failure: the reason stands in the video's account.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from pipelines.io import room
from pipelines.io.disk import FileInfo
from pipelines.io.scratch import scratch
from pipelines.sharding.addresses import bare, is_url, without_secrets
from pipelines.sharding.manifest import Source
from pipelines.video.reasons import VideoError

ATTEMPTS = 4
"""How often a request is made, and how often a broken body is gone on with."""
CONNECT_S, ANSWER_S = 10.0, 30.0
"""How long a server may take to connect, and to send the next bytes."""
SLOWEST = 10_000
"""Bytes a second that arrive at least, on average; less is given up after `ANSWER_S`."""
PAUSE_S = 0.5
"""Before the second attempt; then twice as long."""
CHUNK = 2**20
MAX_BYTES, MAX_STREAM = 64 * 2**30, 8 * 2**30
"""The largest body, and the largest whose length is not announced: a live stream has no end. Two
hours, the default of `--limits.max-duration-s`, of 8K have about 64 GiB."""
MAX_S = 6 * 3600.0
"""How long a transfer may take, with all its attempts."""
NONE = frozenset((404, 410))
REFUSED = frozenset((401, 402, 403, 407, 451))
OVERLOADED = (429, 500, 502, 503, 504)
"""Answers that are asked for again."""
BROKEN = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
    urllib3.exceptions.HTTPError,
)
NO_ADDRESS = (requests.RequestException, urllib3.exceptions.HTTPError, ValueError)
"""Errors of addresses that are none, besides all others of requests."""


def holds(source: Source) -> bool:
    return source.container is None and is_url(source.uri)


def info(url: str) -> FileInfo | None:
    """Size, and etag or time of the last change, as far as the server says.

    None where the server refuses, or has no such file; `VideoError` with the reason `no_answer`
    where nothing is known, since it does not answer or is overloaded.
    """
    try:
        with _session(ATTEMPTS - 1) as session, _head(session, url) as answer:
            if answer.status_code in OVERLOADED or answer.status_code >= 500:
                raise VideoError("no_answer", _status(answer))
            if answer.status_code >= 400:
                return None
            size = answer.headers.get("Content-Length", "")
            if answer.status_code == 206:
                size = answer.headers.get("Content-Range", "").partition("/")[2]
            stamp = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
            return FileInfo(url, int(size) if size.isdecimal() else 0, stamp)
    except urllib3.exceptions.LocationValueError:
        return None
    except BROKEN as error:
        raise VideoError("no_answer", without_secrets(str(error), url)) from error
    except NO_ADDRESS:
        return None


@contextmanager
def fetch(source: Source) -> Iterator[str]:
    """A local copy of a video; `VideoError` says why there is none."""
    with scratch() as folder:
        # Its suffix helps FFmpeg with a few formats that have no sign of their own.
        url = source.address or source.uri
        place = folder / f"copy{PurePosixPath(bare(url)).suffix}"
        download(url, place)
        _refuse_page(place)
        yield str(place)


def _hide_secrets(record: logging.LogRecord) -> bool:
    record.msg, record.args = without_secrets(record.getMessage()), ()
    return True


# Its warnings of requests that are repeated hold whole addresses.
logging.getLogger("urllib3.connectionpool").addFilter(_hide_secrets)


def _session(broken: int) -> requests.Session:
    """A session that repeats requests of overloaded servers, and `broken` times broken ones."""
    session = requests.Session()
    retry = Retry(
        ATTEMPTS - 1,
        connect=broken,
        read=broken,
        backoff_factor=PAUSE_S,
        status_forcelist=OVERLOADED,
        # A server may ask for hours of patience.
        respect_retry_after_header=False,
        raise_on_status=False,
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    session.headers["Accept-Encoding"] = "identity"
    return session


def _head(session: requests.Session, url: str) -> requests.Response:
    """The headers of an address; by a request for its first byte where HEAD is refused."""
    wait = CONNECT_S, ANSWER_S
    answer = session.head(url, allow_redirects=True, timeout=wait)
    if answer.status_code < 400 or answer.status_code in NONE:
        return answer
    answer.close()
    return session.get(url, headers={"Range": "bytes=0-0"}, timeout=wait, stream=True)


def download(url: str, place: Path) -> None:
    """Copy what is at an address to a local file, whole; `VideoError` if that cannot be had."""
    reason, failure = "no_answer", ""
    with _session(0) as session, open(place, "wb") as file:
        transfer = _Transfer(session, url, file)
        for attempt in range(ATTEMPTS):
            try:
                transfer.go_on()
                return
            except BROKEN as error:
                reason = "incomplete" if file.tell() else "no_answer"
                failure = f"{file.tell()} bytes arrived: {without_secrets(str(error), url)}"
                time.sleep(PAUSE_S * 2**attempt)
            except NO_ADDRESS as error:
                raise VideoError("no_answer", without_secrets(str(error), url)) from error
    raise VideoError(reason, failure)


class _Transfer:
    """The transfer of one file, which resumes where it broke off."""

    def __init__(self, session: requests.Session, url: str, file: BinaryIO) -> None:
        self.session, self.url, self.file = session, url, file
        self.ends_s = time.monotonic() + MAX_S
        self.stamp: str | None = None
        """Etag or time of what has arrived: only of the same content more is asked for."""

    def go_on(self) -> None:
        """Ask for what is missing; raises an error of `BROKEN` if that breaks off too."""
        headers = {}
        if self.file.tell() and self.stamp:
            headers = {"Range": f"bytes={self.file.tell()}-", "If-Range": self.stamp}
        wait = CONNECT_S, ANSWER_S
        with self.session.get(self.url, headers=headers, timeout=wait, stream=True) as answer:
            _check_status(answer)
            if not _continues(answer, self.file.tell()):
                self.file.seek(0)
                self.file.truncate()
            etag = answer.headers.get("ETag", "")
            # A weak etag is no promise of the same bytes.
            strong = etag if etag and not etag.startswith("W/") else None
            self.stamp = strong or answer.headers.get("Last-Modified")
            self._receive(answer)

    def _receive(self, answer: requests.Response) -> None:
        length = answer.headers.get("Content-Length", "")
        announced = int(length) if length.isdecimal() else 0
        most = MAX_BYTES if announced else MAX_STREAM
        if self.file.tell() + announced > most:
            raise VideoError("too_large", f"{self.file.tell() + announced} bytes")
        room.refuse_too_little(Path(self.file.name).parent, announced)
        started, before = time.monotonic(), self.file.tell()
        # Whatever is there at once: a slow server would not fill a block for minutes.
        while block := answer.raw.read1(CHUNK, decode_content=True):
            self.file.write(block)
            took_s, arrived = time.monotonic() - started, self.file.tell() - before
            if took_s > ANSWER_S and arrived < SLOWEST * took_s:
                raise VideoError("no_answer", f"{arrived} bytes in {took_s:.0f} s")
            if self.file.tell() > most or time.monotonic() > self.ends_s:
                raise VideoError("too_large", f"no end after {self.file.tell()} bytes")


def _status(answer: requests.Response) -> str:
    return f"HTTP {answer.status_code} {answer.reason or ''}".strip()


def _check_status(answer: requests.Response) -> None:
    status, detail = answer.status_code, _status(answer)
    if status in NONE:
        raise VideoError("missing", detail)
    if status in REFUSED:
        raise VideoError("no_permission", detail)
    if status >= 400:
        raise VideoError("no_answer", detail)


def _continues(answer: requests.Response, place: int) -> bool:
    """Whether a body begins where the one before broke off."""
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return answer.status_code == 206 and found is not None and int(found[1]) == place


def _refuse_page(place: Path) -> None:
    """No video format begins with the sign that all web pages begin with."""
    with open(place, "rb") as file:
        head = file.read(512).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"<"):
        raise VideoError("web_page", without_secrets(head[:80].decode("ascii", "replace")))
