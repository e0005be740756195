"""The report is one self-contained page."""

import base64
import io
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.evaluation.report import Pair, ReportClips, Sample, _trios, grid_of, page
from pipelines.video.encoder import decode_clip

VIDEO = np.stack([np.full((16, 16, 3), grey, np.uint8) for grey in (60, 200)])
BUNDLE: dict[str, Any] = {
    "model": {"width": 48, "note": "</pre><script>alert(1)</script>"},
    "objective": {"name": "flow"},
    "fingerprint": "f00d",
    "inputs": {"latents": "beef", "a<b": "c&d"},
}
SPEC: dict[str, Any] = {"frames": 16, "size": 64, "rates": [8.0], "classes": ["x"]}


def estimate(mean: float, interval: float | None = None, repeats: int = 1) -> dict[str, Any]:
    return {"mean": mean, "interval": interval, "repeats": repeats}


def condition(name: str, protocol: str, run: str) -> dict[str, Any]:
    return {"name": name, "protocol": protocol, "run": run, "same": protocol == run}


def result(**changes: Any) -> dict[str, Any]:
    return {
        "ldm": "my<model>",
        "preset": "ucf101",
        "recipe": "ec1be",
        "estimates": {
            "psnr": estimate(31.23456),
            "fvd": estimate(425.5, 3.25, 10),
            "floor/fvd": estimate(90.0),
            "is_own": estimate(9.5),
            "tricky<i>": estimate(1e-7),
        },
        "not_measured": {"kvd": "no <clips>"},
        "protocol": {"name": "held-out", "samples": 100, "repeats": 1, "real_clips": 90,
                     "sampler": None, "note": '<b>bold</b> & "q"'},
        "speed": {"device": "CPU", "threads": 2, "guidance": 2.0, "speed/decode_s": 0.5,
                  "speed/seconds_per_100_steps": 3.456, "speed/seconds_per_100_steps_std": 0.01,
                  "sampler": "heun", "speed/evaluations_per_100_steps": 398.0,
                  "speed/seconds_per_100_evaluations": 0.875,
                  "speed/seconds_per_100_evaluations_std": 0.02},
        "published": {"comparable": False, "reasons": ["the detector is <another>"],
                      "doubts": ["nothing was <reproduced>"],
                      "conditions": [condition("size", "128", "64"),
                                     condition("frames", "16", "16")]},
        "clips": "c11b5",
        "settings": {"repeats": 2, "fps": "8<16"},
    } | changes  # fmt: skip


PASSED = result()["published"] | {"comparable": True, "reasons": []}
CARD = "# ldm/x\n\nMade by `train_ldm`, <b>with care</b>."


def videos() -> ReportClips:
    shown = ReportClips([Pair("b", 8, VIDEO, VIDEO), Pair("a", 8, VIDEO, VIDEO)])
    for label in ("b", "a<x>"):
        shown.samples.append(Sample(label, 8, VIDEO, 0, VIDEO, "b/<one>.mp4", 8.0, 0.25))
    return shown


def test_samples_stand_beside_real_clips_of_their_titles() -> None:
    titles = ("a, red", 8.0), ("a, red", 16.0), ("b", 8.0), ("b", 8.0), ("", 8.0), ("", 16.0)
    real = [Pair(title, fps, VIDEO, VIDEO) for title, fps in titles]
    asked = ("a, red", 8.0), ("b", 8.0), ("b", 8.0), ("b", 16.0), ("c", 8.0), ("", 8.0), ("", 8.0)
    samples = [Sample(title, fps, VIDEO, 0) for title, fps in asked]
    found = [beside for _, beside in _trios(ReportClips(real, samples))]
    assert all(
        a is b
        for a, b in zip(found, [*real[:1], *real[2:4], real[3], None, *real[4:]], strict=True)
    )


def test_long_captions_are_cut_in_titles() -> None:
    shown = ReportClips([], [Sample("a red ball " * 100, 8, VIDEO, 0)])
    seen = Reader(page(BUNDLE, SPEC, result(), shown, CARD)).text
    assert "a red ball a red" in seen and "a red ball " * 20 not in seen


class Reader(HTMLParser):
    """Collects tags and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def text() -> str:
    return page(BUNDLE, SPEC, result(), videos(), CARD)


def test_every_figure_is_on_the_page(text: str) -> None:
    seen = Reader(text).text
    for words in ("31.23", "425.5 ± 3.25", "tricky<i>", "1e-07", "not measured: no <clips>"):
        assert words in seen
    for name, value in (("samples", "100"), ("real clips", "90"), ("note", '<b>bold</b> & "q"')):
        assert f"{name} {value}" in seen


def test_figures_of_real_clips_stand_beside_those_of_the_model(text: str) -> None:
    seen = Reader(text).text
    meaning = "Fréchet video distance to real clips, lower is better"
    assert f"fvd {meaning} 425.5 ± 3.25 90 10" in seen  # model, floor, repeats
    assert "FVD 425.5 ± 3.25 real against real 90" in seen
    assert "IS 9.5 by own" in seen and "PSNR 31.2 dB" in seen
    assert "100 steps 3.46 s one video, CPU 398 evaluations, guidance 2" in seen


def test_it_says_what_intervals_cover(text: str) -> None:
    seen = Reader(text).text
    assert "covers the draw of real clips and of samples; other figures have none" in seen
    more = result()["protocol"] | {"repeats": 10}
    seen = Reader(page(BUNDLE, SPEC, result(protocol=more), videos(), CARD)).text
    assert "10 × 100 samples" in seen and "other figures covers samples, over repeats" in seen


@pytest.mark.parametrize("preset", ["demo", "games"])
def test_own_clips_stand_beside_no_published_table(preset: str) -> None:
    seen = Reader(page(BUNDLE, SPEC, result(preset=preset), videos(), CARD)).text
    assert "These figures compare with others of the same clips only" in seen
    assert not any(words in seen for words in ("TATS", "VQ-VDM (the paper)", "paper", "UCF-101"))
    assert "this run, 100 steps" in seen and "425.5 ± 3.25" in seen


def test_it_stands_in_the_published_table(text: str) -> None:
    seen = Reader(text).text
    assert "TATS autoregressive, 128×128 79.28 332" in seen
    assert "this run: ldm/my<model> 16×64×64, not comparable (9.5) by own 425.5 ± 3.25" in seen
    assert "may not be set beside the published ones" in seen
    assert "the detector is <another>" in seen


def test_a_comparable_run_says_so() -> None:
    seen = Reader(page(BUNDLE, SPEC, result(published=PASSED), videos(), CARD))
    assert "These figures may be set beside the published ones" in seen.text
    assert "not comparable" not in seen.text
    assert "nothing that the protocol fixes differs. Yet: nothing was <reproduced>" in seen.text


def test_what_the_protocol_fixes_stands_beside_what_was_done(text: str) -> None:
    seen = Reader(text).text
    assert "protocol this run size 128 64 differs frames 16 16 Speed" in seen
    assert "and this run. Nothing was <reproduced>." in seen


def test_lineage_and_settings_are_on_the_page(text: str) -> None:
    seen = Reader(text).text
    assert "ldm f00d latents beef a<b c&d clips c11b5 this evaluation ec1be" in seen
    assert '"width": 48' in seen and '"name": "flow"' in seen
    assert "Made by `train_ldm`, <b>with care</b>." in seen and '"fps": "8<16"' in seen


def test_speed_is_beside_the_papers(text: str) -> None:
    seen = Reader(text).text
    assert "3.95 ± 0.01" in seen
    assert "sampler heun, guidance 2: 398 evaluations 3.46 ± 0.01" in seen
    assert "100 evaluations 16×64×64; CPU, 2 threads, without guidance" in seen
    assert "0.88 ± 0.02" in seen


def test_text_stays_text(text: str) -> None:
    assert {"script", "b<", "i", "model", "another", "x"}.isdisjoint(Reader(text).tags)
    assert "<title>Evaluation of ldm/my&lt;model&gt;</title>" in text


def test_videos_are_in_the_page(text: str) -> None:
    found = re.findall(r'<video [^>]*src="data:video/mp4;base64,([^"]+)"', text)
    # two samples, one of which has a real clip of its class; each again beside its neighbour
    assert len(found) == 2 + 2 + 4
    clip = decode_clip(base64.b64decode(found[0]))
    assert clip.shape == (2, 128, 128, 3)


def test_the_page_loads_nothing_from_elsewhere(text: str) -> None:
    reader = Reader(text)
    assert {link.split(":")[0] for link in reader.links} == {"data"}
    assert "link" not in reader.tags
    assert "@import" not in text and "url(" not in text


def test_the_grid_has_a_row_each() -> None:
    gif = Image.open(io.BytesIO(grid_of(videos())))
    assert (gif.format, gif.size, getattr(gif, "n_frames", 1)) == ("GIF", (32, 48), 2)
