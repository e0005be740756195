"""The local cluster: which port it takes, and which process it is."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from infra import local_cluster
from pipelines.io.processes import born, machine


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


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the cluster is noted; another cluster of the user's answers."""
    monkeypatch.setattr(local_cluster, "STATE", tmp_path / "ray_cluster.json")
    monkeypatch.setattr(local_cluster, "LOG", tmp_path / "ray_cluster.log")
    monkeypatch.setattr(local_cluster, "cluster_note", lambda: tmp_path / "note")
    monkeypatch.setattr(local_cluster, "noted_cluster_answers", lambda: True)
    return local_cluster.STATE


@pytest.fixture
def innocent() -> Iterator[subprocess.Popen]:
    """A process that leads a group of its own, as Ray's launcher does."""
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        yield process
        process.kill()


def note_of(process: subprocess.Popen) -> dict:
    identity = {"pid": process.pid, "born": born(process.pid), "machine": machine()}
    return identity | {"address": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    "changes",
    [
        {"born": "1"},  # its number was given anew
        {"born": None},
        {"machine": machine().replace(machine()[:8], "00000000")},  # since a restart
    ],
)
def test_another_process_of_the_same_number_is_left_alone(
    state: Path, innocent: subprocess.Popen, changes: dict
) -> None:
    state.write_text(json.dumps(note_of(innocent) | changes))
    assert local_cluster.running() is None
    local_cluster.down()
    assert innocent.poll() is None and not state.exists()


@pytest.mark.parametrize("content", [b"", b'{"pid": 1', b"\xff\xfe", b"[1]", b"{}", b"null"])
def test_a_damaged_note_is_none(state: Path, content: bytes) -> None:
    state.write_bytes(content)
    assert local_cluster.running() is None
    local_cluster.down()
    assert not state.exists()


def test_a_note_of_an_earlier_version_is_none(state: Path, innocent: subprocess.Popen) -> None:
    state.write_text(json.dumps({"pid": innocent.pid, "address": "http://127.0.0.1:1"}))
    local_cluster.down()
    assert innocent.poll() is None


def test_the_cluster_of_another_user_is_told(
    state: Path, innocent: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.write_text(json.dumps(note_of(innocent)))

    def refused(*_: int) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", refused)
        assert local_cluster.up() == "http://127.0.0.1:1"
        with pytest.raises(
            SystemExit, match=r"another user has started the cluster at .*127\.0\.0\.1"
        ):
            local_cluster.down()
    assert state.exists()


def test_what_up_started_is_known_and_stopped(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch, started = subprocess.Popen, list[subprocess.Popen]()

    def instead_of_ray(command: list[str], **options: object) -> subprocess.Popen:
        assert command[:2] == ["ray", "start"]
        (tmp_path / "note").touch()
        started.append(launch(["sleep", "600"], **options))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(local_cluster.subprocess, "run", lambda *_, **__: None)
    monkeypatch.setattr(local_cluster.subprocess, "Popen", instead_of_ray)
    monkeypatch.setattr(local_cluster, "is_ray", lambda _: False)
    monkeypatch.setattr(local_cluster, "healthy", lambda _: True)
    try:
        address = local_cluster.up()
        found = local_cluster.running()
        assert found and (found["pid"], found["address"]) == (started[0].pid, address)
        assert local_cluster.up() == address and len(started) == 1
        local_cluster.down()
        assert started[0].wait(10) in (0, -signal.SIGTERM)
        assert local_cluster.running() is None and not state.exists()
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
