"""The report is one page that needs nothing else."""

import base64
import io
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.config.schema import Evaluate
from pipelines.report import page
from pipelines.sample import grid

VIDEO = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
GIF = grid([VIDEO, VIDEO[::-1]], columns=2, fps=8)
BUNDLE: dict[str, Any] = {
    "model": {"width": 48, "note": "</pre><script>alert(1)</script>"},
    "objective": {"name": "flow"},
    "fingerprint": "f00d",
    "inputs": {"latents": "beef", "a<b": "c&d"},
}
RESULT: dict[str, Any] = {
    "metrics": {"psnr": 31.23456, "samples/clip_accuracy": 0.5, "tricky<i>": 1e-7},
    "protocol": {"samples": 100, "fps": [8.0, 16.0], "sampler": None, "note": '<b>bold</b> & "q"'},
}


class Reader(HTMLParser):
    """Collects tags and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def text() -> str:
    return page(Evaluate(ldm="my<model>"), BUNDLE, RESULT, GIF)


def test_every_figure_is_on_the_page(text: str) -> None:
    words = Reader(text).words
    for name, value in [
        ("psnr", "31.23"),
        ("samples/clip_accuracy", "0.5"),
        ("tricky<i>", "1e-07"),
    ]:
        assert words[words.index(name) + 1] == value
    for name, value in [("samples", "100"), ("fps", "[8.0, 16.0]"), ("note", '<b>bold</b> & "q"')]:
        assert words[words.index(name) + 1] == value


def test_lineage_and_settings_are_on_the_page(text: str) -> None:
    words = Reader(text).words
    assert words[words.index("ldm") + 1] == "f00d"
    assert words[words.index("latents") + 1] == "beef"
    assert words[words.index("a<b") + 1] == "c&d"
    settings = "".join(words)
    assert '"width": 48' in settings
    assert '"name": "flow"' in settings


def test_text_stays_text(text: str) -> None:
    assert {"script", "b", "i", "model"}.isdisjoint(Reader(text).tags)
    assert "<title>Evaluation of my&lt;model&gt;</title>" in text
    assert "ldm/my&lt;model&gt;" in text


def test_the_animation_is_in_the_page(text: str) -> None:
    found = re.search(r'<img [^>]*src="data:image/gif;base64,([^"]+)"', text)
    assert found
    assert base64.b64decode(found[1]) == GIF
    picture = Image.open(io.BytesIO(base64.b64decode(found[1])))
    assert (picture.size, getattr(picture, "n_frames", 1)) == ((16, 8), 2)


def test_the_page_loads_nothing_from_elsewhere(text: str) -> None:
    reader = Reader(text)
    assert [link.split(":")[0] for link in reader.links] == ["data"]
    assert "link" not in reader.tags
    assert "@import" not in text and "url(" not in text
