"""A local web server that serves files well, badly or not at all."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

PAGE = b"<!DOCTYPE html>\n<html><body>Sign in to see this video</body></html>"
BROKEN_AFTER = 1000
"""Bytes after which a transfer breaks off."""


class Handler(BaseHTTPRequestHandler):
    """The first part of a path says how the file of its last part is served."""

    protocol_version = "HTTP/1.1"
    server: WebServer

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        how = self.path.split("/")[1]
        if how in ("no-head", "silent-head"):
            self._answer(405 if how == "no-head" else 200, b"", {})
        else:
            self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        how, name = self.path.split("/")[1], self.path.rpartition("/")[2]
        self.server.asked[how] += 1
        content = self.server.files.get(name, b"")
        headers = {"ETag": '"v1"', "Last-Modified": formatdate(0, usegmt=True)}
        match how:
            case "away":
                self._answer(302, b"", {"Location": f"/plain/{name}"})
            case "signed-away":
                self._answer(302, b"", {"Location": "http://me:hush@127.0.0.1:1/a.mp4?sig=hush"})
            case "circle":
                self._answer(302, b"", {"Location": self.path})
            case "page":
                self._answer(200, PAGE, {"Content-Type": "text/html"})
            case "slow":
                time.sleep(self.server.slow_s)
                self._answer(200, content, headers)
            case "stream":
                self._stream(content)
            case "drip":
                self._drip(content)
            case "bare":
                self._answer(200, content, {})
            case "busy-once" if self.server.asked[how] == 1:
                self._answer(503, b"", {})
            case "cut" | "cut-once" | "changed":
                self._cut(how, content, headers)
            case _ if how.isdecimal():
                self._answer(int(how), b"", {})
            case _:
                self._ranged(content, headers)

    def _ranged(self, content: bytes, headers: dict[str, str]) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and self.headers.get("If-Range", '"v1"') == '"v1"':
            first = int(asked[1])
            part = content[first : int(asked[2]) + 1 if asked[2] else None]
            where = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
            self.server.ranges.append(where)
            self._answer(206, part, headers | {"Content-Range": where})
        else:
            self._answer(200, content, headers)

    def _cut(self, how: str, content: bytes, headers: dict[str, str]) -> None:
        """Break off; `cut-once` goes on when asked, `changed` has another file by then."""
        gets = self.server.broken[self.path]
        if self.command == "GET":
            self.server.broken[self.path] += 1
        if how == "cut-once" and gets:
            self._ranged(content, headers)
        elif how == "changed" and gets:
            self._answer(200, content[::-1], headers | {"ETag": '"v2"'})
        else:
            self._answer(200, content[:BROKEN_AFTER], headers, length=len(content))

    def _stream(self, content: bytes) -> None:
        """Send the same again and again, as long as it is taken, and announce no length."""
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            while self.command == "GET":
                self.wfile.write(content)

    def _drip(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            for place in range(0, len(content), 10):
                try:
                    self.wfile.write(content[place : place + 10])
                except OSError:
                    return
                time.sleep(0.05)

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str], length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
        if length is not None:
            self.close_connection = True


class WebServer(ThreadingHTTPServer):
    """Serves `files` by name, at `address`/HOW/NAME."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.slow_s = files, 2.0
        self.asked, self.broken = Counter[str](), Counter[str]()
        self.ranges: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def web_server(files: dict[str, bytes]) -> Iterator[WebServer]:
    with WebServer(files) as server:
        thread = Thread(target=server.serve_forever, args=[0.05], daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
