"""The documentation as a site: it builds without a dead link, and is read without another host."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
FETCHED = {"audio", "embed", "iframe", "img", "link", "object", "script", "source", "video"}
"""Elements whose addresses a browser fetches by itself."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


class _Foreign(HTMLParser):
    """Collects addresses of other hosts that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in FETCHED:
            names = ("src", "href", "data", "srcset", "poster")
            values = [value for name, value in attrs if name in names and value]
            self.found += [value for value in values if "//" in value]


@pytest.mark.long
def test_no_page_fetches_anything_from_another_host(site: Path) -> None:
    pages = sorted(site.glob("*.html"))
    assert len(pages) > 20
    for page in pages:
        parser = _Foreign()
        parser.feed(page.read_text())
        assert parser.found == [], page.name
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert "@import" not in styles and "url(http" not in styles and "url(//" not in styles


@pytest.mark.long
def test_pages_of_other_folders_and_docstrings_are_in_it(site: Path) -> None:
    home = (site / "index.html").read_text()
    assert 'href="quickstart.html"' in home and 'href="clusters.html"' in home
    assert 'id="kubernetes"' in (site / "clusters.html").read_text()
    assert (site / "files/LICENSE.txt").read_bytes() == (REPOSITORY / "LICENSE").read_bytes()
    reference = (site / "api.html").read_text()
    assert 'id="vqvdm.generator.VideoGenerator.sample"' in reference
    assert "unbiased" in reference.lower()  # the docstring of the kernel distance


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Says nothing of requests."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(_Silent, directory=str(site))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.mark.long
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_nothing_runs_out_of_the_page(
    site: Path, address: str, browser: Any, width: int
) -> None:
    page = browser.new_page({"width": width, "height": 900})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for path in sorted(site.glob("*.html")):
        page.goto(address + path.name)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    page.close()


@pytest.mark.long
def test_search_finds_a_flag(address: str, browser: Any) -> None:
    page = browser.new_page({"width": 1280, "height": 900})
    page.goto(address + "index.html")
    page.fill(".md-search__input", "activation checkpointing")
    page.wait_for_selector(".md-search-result__item")
    assert "GPUs" in page.inner_text(".md-search-result__list")
    page.close()
