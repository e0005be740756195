"""A proxy before an S3 server that plays what stores and networks do wrong."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

ERRORS = {
    500: ("InternalError", "We encountered an internal error. Please try again."),
    501: ("NotImplemented", "A header you provided implies functionality not implemented"),
    503: ("SlowDown", "Please reduce your request rate."),
    400: ("InvalidRequest", "This server does not do this."),
    409: ("ConditionalRequestConflict", "A conflicting operation occurred."),
    412: ("PreconditionFailed", "A precondition did not hold."),
}
HOP = {"connection", "transfer-encoding", "keep-alive", "expect", "host", "content-length"}
"""Headers that each connection sets for itself."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong, with which operations, and how often for each object and operation."""

    kind: str | int
    """A status of `ERRORS`, or a method of `_Handler`."""
    operations: frozenset[str] = frozenset()
    """None: all."""
    times: int | None = None
    """None: always."""
    key: str = ""
    """A part of the name of the object."""

    def strikes(self, operation: str, key: str, seen: int) -> bool:
        return (
            (not self.operations or operation in self.operations)
            and self.key in key
            and (self.times is None or seen < self.times)
        )


def fault(kind: str | int, *operations: str, times: int | None = None, key: str = "") -> Fault:
    return Fault(kind, frozenset(operations), times, key)


class S3Proxy:
    """Passes requests on, unless one of its `faults` strikes; the first that does counts."""

    def __init__(self, backend: str, certificate: Path | None = None) -> None:
        self.backend = urlsplit(backend).netloc
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        """Operations and names of objects, in the order they came."""
        self.slow_s = 0.0
        self._seen = Counter[tuple[int, str, str]]()
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        kind = "https" if certificate else "http"
        self.endpoint = f"{kind}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> S3Proxy:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def plan(self, *faults: Fault) -> None:
        """From now on, these faults strike."""
        with self._lock:
            self.faults, self.requests = list(faults), []
            self._seen.clear()

    def next_fault(self, operation: str, key: str) -> Fault | None:
        with self._lock:
            self.requests.append((operation, key))
            for number, found in enumerate(self.faults):
                place = (number, operation, key)
                if found.strikes(operation, key, self._seen[place]):
                    self._seen[place] += 1
                    return found
        return None

    def count(self, operation: str) -> int:
        return sum(found == operation for found, _ in self.requests)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """Connections end in the middle here: that is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: S3Proxy

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""

    def handle_expect_100(self) -> bool:
        return True  # The body is asked for when it is read.

    def operation(self) -> str:
        url = urlsplit(self.path)
        query = parse_qs(url.query, keep_blank_values=True)
        has_key = url.path.strip("/").count("/") > 0
        match self.command:
            case "GET" if "uploads" in query:
                return "list_uploads"
            case "GET" if not has_key:
                return "list"
            case "GET":
                return "get_range" if "Range" in self.headers else "get"
            case "PUT":
                return "put_part" if "partNumber" in query else "put"
            case "POST" if "delete" in query:
                return "delete_many"
            case "POST":
                return "begin_upload" if "uploads" in query else "complete_upload"
        return self.command.lower()

    def _serve(self) -> None:
        name = self.operation()
        found = self.proxy.next_fault(name, urlsplit(self.path).path)
        if found is None:
            self._answer(*self._forward(self._body()))
        elif isinstance(found.kind, int):
            self._body()
            self._refuse(found.kind)
        else:
            getattr(self, found.kind)()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    # What a request is made of

    def _body(self, part: float = 1.0) -> bytes:
        length = int(int(self.headers.get("Content-Length", 0)) * part)
        if "100-continue" in self.headers.get("Expect", ""):
            self.send_response_only(100)
            self.end_headers()
        return self.rfile.read(length)

    def _forward(
        self, body: bytes, without: Iterable[str] = ()
    ) -> tuple[int, dict[str, str], bytes]:
        """The answer of the server: status, headers and body."""
        dropped = HOP | {name.lower() for name in without}
        headers = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
        backend = http.client.HTTPConnection(self.proxy.backend, timeout=60)
        try:
            backend.request(self.command, self.path, body, headers)
            answer = backend.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            backend.close()

    def _answer(
        self, status: int, headers: dict[str, str], body: bytes, sent: int | None = None
    ) -> None:
        """Send an answer, of its body no more than `sent` bytes, whatever its header says."""
        self.send_response_only(status)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        for name, value in headers.items():
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])
        self.wfile.flush()

    def _refuse(self, status: int) -> None:
        code, message = ERRORS[status]
        xml = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
        self._answer(status, {"Content-Type": "application/xml"}, xml.encode())

    # Faults

    def drop(self) -> None:
        """The connection ends before the answer; the request is not carried out."""
        self._body()
        self._hang_up()

    def drop_answer(self) -> None:
        """The request is carried out, and the connection ends before the answer."""
        self._forward(self._body())
        self._hang_up()

    def cut_request(self) -> None:
        """The connection ends in the middle of what is sent."""
        self._body(0.5)
        self._hang_up()

    def cut(self) -> None:
        """The connection ends in the middle of the answer's body."""
        status, headers, body = self._forward(self._body())
        self._answer(status, headers, body, sent=len(body) // 2)
        self._hang_up()

    def short_range(self) -> None:
        """Half of the range that was asked for, and a header that agrees."""
        status, headers, body = self._forward(self._body())
        self._answer(status, headers, body[: len(body) // 2])

    def ignore_range(self) -> None:
        """The whole object, whatever range was asked for."""
        self._answer(*self._forward(self._body(), without=["Range"]))

    def slow(self) -> None:
        time.sleep(self.proxy.slow_s)
        self._answer(*self._forward(self._body()))

    def frame(self) -> None:
        """The body is stored as a frame of `aws-chunked`, with a checksum behind it."""
        body = self._body()
        framed = b"%x;chunk-signature=%s\r\n%s\r\n0\r\n" % (len(body), b"0" * 64, body)
        self._store(framed + b"x-amz-checksum-crc32:AAAAAA==\r\n\r\n")

    def ignore_encoding(self) -> None:
        """As boto3#4435: what is sent as `aws-chunked` is stored as it comes."""
        self._store(self._body())

    def flip(self) -> None:
        """A byte is stored wrong."""
        body = bytearray(self._body())
        body[len(body) // 2] ^= 1
        self._store(bytes(body))

    def _store(self, body: bytes) -> None:
        checks = [name for name in self.headers if "checksum" in name or "content-" in name.lower()]
        self._answer(*self._forward(body, [*checks, "x-amz-content-sha256", "x-amz-trailer"]))

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
