"""Videos from a web server, which serves them well, badly or not at all."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.sharding.inputs import web
from pipelines.sharding.manifest import Source
from pipelines.video.reasons import VideoError
from tests.odd_videos import write
from tests.web_server import BROKEN_AFTER, WebServer, web_server


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("video") / "a.mp4", "libx264", count=20).read_bytes()


@pytest.fixture
def server(mp4: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setattr(web, "PAUSE_S", 0.01)
    monkeypatch.setattr(web, "ANSWER_S", 0.5)
    with web_server({"a.mp4": mp4, "empty.mp4": b""}) as server:
        yield server


def fetched(url: str) -> bytes:
    with web.fetch(Source(url, url, None, None, None, None, "train")) as path:
        assert path.endswith(".mp4")
        return Path(path).read_bytes()


@pytest.mark.parametrize("how", ["plain", "away", "no-head", "bare", "busy-once", "silent-head"])
def test_what_is_served_arrives(how: str, server: WebServer, mp4: bytes) -> None:
    url = f"{server.address}/{how}/a.mp4?token=1"
    server.files["a.mp4?token=1"] = mp4
    assert fetched(url) == mp4


def test_headers_tell_size_and_version(server: WebServer, mp4: bytes) -> None:
    for how in ("plain", "away", "no-head", "busy-once"):
        info = web.info(f"{server.address}/{how}/a.mp4")
        assert info and (info.size, info.etag) == (len(mp4), '"v1"'), how
    info = web.info(f"{server.address}/bare/a.mp4")
    assert info and (info.size, info.etag) == (len(mp4), None)


@pytest.mark.parametrize("how", ["404", "410", "403", "circle"])
def test_an_answer_that_there_is_nothing(how: str, server: WebServer) -> None:
    assert web.info(f"{server.address}/{how}/a.mp4") is None


@pytest.mark.parametrize(
    ("how", "detail"),
    [("500", "HTTP 500 "), ("503", "HTTP 503 "), ("599", "HTTP 599"), ("429", "HTTP 429 "),
     ("slow", "Read timed out")],
)  # fmt: skip
def test_no_answer_is_told_from_nothing(how: str, detail: str, server: WebServer) -> None:
    with pytest.raises(VideoError, match=rf"no_answer: .*{detail}"):
        web.info(f"{server.address}/{how}/a.mp4")


@pytest.mark.parametrize(
    ("how", "reason", "detail"),
    [
        ("404", "missing", "HTTP 404 Not Found"),
        ("410", "missing", "HTTP 410 Gone"),
        ("401", "no_permission", "HTTP 401 Unauthorized"),
        ("403", "no_permission", "HTTP 403 Forbidden"),
        ("500", "no_answer", "HTTP 500 Internal Server Error"),
        ("418", "no_answer", "HTTP 418"),
        ("circle", "no_answer", "Exceeded 30 redirects"),
        ("slow", "no_answer", "Read timed out"),
        ("drip", "no_answer", " bytes in "),
        ("cut", "incomplete", f"{BROKEN_AFTER} bytes arrived"),
        ("page", "web_page", "<!DOCTYPE html>"),
    ],
)
def test_why_nothing_arrives(how: str, reason: str, detail: str, server: WebServer) -> None:
    with pytest.raises(VideoError) as caught:
        fetched(f"{server.address}/{how}/a.mp4")
    assert caught.value.reason == reason and detail in caught.value.detail


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/a.mp4", "http://[/a.mp4", "http://a..b/a.mp4", "http:///a.mp4"]
)
def test_addresses_without_a_server(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PAUSE_S", 0.01)
    if url == "http://127.0.0.1:1/a.mp4":
        with pytest.raises(VideoError, match=r"no_answer: .*refused"):
            web.info(url)
    else:
        assert web.info(url) is None
    with pytest.raises(VideoError, match="no_answer"):
        fetched(url)


@pytest.mark.parametrize(
    ("how", "limit", "value", "detail"),
    [
        ("stream", "MAX_STREAM", 1_000_000, "no end after "),
        ("stream", "MAX_S", 0.3, "no end after "),
        ("plain", "MAX_BYTES", 1000, " bytes"),
    ],
)
def test_what_has_no_end_is_given_up(
    how: str, limit: str, value: float, detail: str, server: WebServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(web, limit, value)
    with pytest.raises(VideoError, match=f"too_large: .*{detail}"):
        fetched(f"{server.address}/{how}/a.mp4")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/a.mp4?sig=hush",
        "http://[/a.mp4?sig='hush hush",
        "http:///a.mp4#hush",
        "{}/500/a.mp4?sig=hush",
        "{}/slow/a.mp4?sig=hush",
        "{}/signed-away/a.mp4",
    ],
)
def test_no_message_holds_a_query(
    url: str, server: WebServer, caplog: pytest.LogCaptureFixture
) -> None:
    url, said = url.format(server.address), ""
    try:
        web.info(url)
    except VideoError as error:
        said = str(error)
    with pytest.raises(VideoError, match="no_answer") as caught:
        fetched(url)
    assert "hush" not in said + str(caught.value) + caplog.text


def test_a_transfer_that_broke_goes_on_by_a_range(server: WebServer, mp4: bytes) -> None:
    assert fetched(f"{server.address}/cut-once/a.mp4") == mp4
    assert server.ranges == [f"bytes {BROKEN_AFTER}-{len(mp4) - 1}/{len(mp4)}"]


def test_another_file_by_then_is_taken_whole(server: WebServer, mp4: bytes) -> None:
    assert fetched(f"{server.address}/changed/a.mp4") == mp4[::-1]
    assert not server.ranges
