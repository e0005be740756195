"""The local cluster: which port it takes."""

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from infra import local_cluster


class Answers(BaseHTTPRequestHandler):
    status, body = 200, b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "ray"),
    [
        (200, b'{"version": "4", "ray_version": "2.60.0"}', True),
        (401, b"Unauthorized", True),
        (404, b"not found", False),
        (200, b"<html>another program</html>", False),
    ],
)
def test_what_answers_at_a_port(
    port: int, status: int, body: bytes, ray: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answers, "status", status)
    monkeypatch.setattr(Answers, "body", body)
    assert local_cluster.is_ray(f"http://127.0.0.1:{port}") == ray


def test_a_port_that_is_taken_is_left_to_its_program(port: int) -> None:
    other = local_cluster.free_port(port)
    assert other != port and local_cluster.free_port(other) == other
    assert not local_cluster.is_ray(f"http://127.0.0.1:{other}")


def test_a_path_with_a_space_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_cluster, "running", lambda: None)
    monkeypatch.setattr(sys, "executable", "/home/my files/.venv/bin/python")
    with pytest.raises(SystemExit, match="from a path with a space"):
        local_cluster.up()
